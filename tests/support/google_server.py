"""Google's token endpoint (TLS, by its own name) and a machine's metadata service, over loopback.

    with GoogleServer(tmp_path) as google:
        key = google.make_key("puller@project.iam.gserviceaccount.com")
        # HTTPS_PROXY is google.proxy_url, which leads every host to it; REQUESTS_CA_BUNDLE is google.ca_file

It checks the signatures of assertions. Sources: Google Identity, "Using OAuth 2.0 for Server to Server Applications"
(HTTP/REST); Compute Engine, "View and query VM metadata". Every account gets the same token, `TOKEN`.
"""

import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.support.certificates import make_authority, make_server_certificate

TOKEN_HOST = "oauth2.googleapis.com"
TOKEN_URI = f"https://{TOKEN_HOST}/token"
USERNAME, TOKEN = "oauth2accesstoken", "ya29.canary-5f1c0e7a"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ACCOUNTS = "/computeMetadata/v1/instance/service-accounts/"


class GoogleServer:
    """Google and one machine; running from `__enter__` to `__exit__`."""

    def __init__(self, folder: Path) -> None:
        files = make_server_certificate(folder, more_names=(TOKEN_HOST,))
        self.ca_file = files.ca_file
        self.issued = 0
        self.fails_with: int | None = None
        """Answer this status to every question: an outage."""
        self.has_machine = True
        """Whether a service account is attached to the machine."""
        self._keys: dict[str, RSAPublicKey] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate_file, files.key_file)
        self._tls = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._tls.socket = context.wrap_socket(self._tls.socket, server_side=True)
        self._plain = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.metadata_host = f"127.0.0.1:{self._plain.server_port}"
        self.proxy_url = f"http://{self.metadata_host}"

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=one.serve_forever) for one in (self._tls, self._plain)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server, thread in zip((self._tls, self._plain), self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def make_key(self, account: str, **more: str) -> str:
        """Make a key of a service account, which takes the place of the one before; return its file."""
        pair = make_authority(account.partition("@")[0])
        self._keys[account] = pair.key.public_key()
        document = {
            "type": "service_account",
            "private_key_id": "1",
            "private_key": pair.key_pem().decode(),
            "client_email": account,
            "token_uri": TOKEN_URI,
        }
        return json.dumps(document | more)

    def forget(self, account: str) -> None:
        """Delete a service account."""
        del self._keys[account]

    def _answer(self, path: str, form: dict[str, str], flavor: str) -> tuple[int, Any]:
        if self.fails_with is not None:
            return self.fails_with, {"error": "internal_failure"}
        if path == "/token":
            return self._give_token(form)
        if flavor != "Google" or not path.startswith(_ACCOUNTS) or not self.has_machine:
            return 404, {"error": "not found"}
        if path == f"{_ACCOUNTS}default/token":
            return 200, self._token()
        return 200, {"email": "machine@project.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}

    def _give_token(self, form: dict[str, str]) -> tuple[int, Any]:
        assertion = form.get("assertion", "")
        try:
            account = jwt.decode(assertion, options={"verify_signature": False})["iss"]
            jwt.decode(assertion, self._keys[account], algorithms=["RS256"], audience=TOKEN_URI)
        except KeyError:
            return 400, {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
        except jwt.InvalidTokenError:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        if form.get("grant_type") != _GRANT:
            return 400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}
        return 200, self._token()

    def _token(self) -> dict[str, Any]:
        self.issued += 1
        return {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        google = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_CONNECT(self) -> None:
                """Lead every host to the TLS server."""
                with socket.create_connection(("127.0.0.1", google._tls.server_port)) as there:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_pump, args=(there, self.connection))
                    back.start()
                    _pump(self.connection, there)
                    back.join()
                self.close_connection = True

            def _serve(self) -> None:
                length = int(self.headers.get("content-length", 0))
                form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
                path = urlsplit(self.path).path
                status, document = google._answer(path, form, self.headers.get("metadata-flavor", ""))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Metadata-Flavor", "Google")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _serve  # noqa: N815 — the names that http.server looks for

        return Handler


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
