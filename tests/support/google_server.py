"""Google's token endpoint (TLS, by its own name) and a machine's metadata service, over loopback.

    with GoogleServer(tmp_path) as google:
        key = google.make_key("puller@project.iam.gserviceaccount.com")
        # HTTPS_PROXY is google.proxy_url, which leads every host to it; REQUESTS_CA_BUNDLE is google.ca_file

It checks the signatures of assertions. Sources: Google Identity, "Using OAuth 2.0 for Server to Server Applications"
(HTTP/REST); Compute Engine, "View and query VM metadata". Every account gets the same token, `TOKEN`.
"""

import json
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.support.certificates import make_authority, make_server_certificate
from tests.support.loopback_server import LoopbackServer, Said, form_of, json_handler

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
        headers = (("Metadata-Flavor", "Google"),)
        self._tls = LoopbackServer(json_handler(self._answer, headers=headers), files=files)
        self._plain = LoopbackServer(json_handler(self._answer, headers=headers, tunnel_to=self._tls.port))
        self.metadata_host, self.proxy_url = self._plain.host, self._plain.url
        self._running = ExitStack()

    def __enter__(self) -> Self:
        for server in (self._tls, self._plain):
            self._running.enter_context(server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

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

    def _answer(self, handler: BaseHTTPRequestHandler, path: str, body: str) -> Said:
        form, flavor = form_of(body), handler.headers.get("metadata-flavor", "")
        if self.fails_with is not None:
            return self.fails_with, {"error": "internal_failure"}
        if path == "/token":
            return self._give_token(form)
        if flavor != "Google" or not path.startswith(_ACCOUNTS) or not self.has_machine:
            return 404, {"error": "not found"}
        if path == f"{_ACCOUNTS}default/token":
            return 200, self._token()
        return 200, {"email": "machine@project.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}

    def _give_token(self, form: dict[str, str]) -> Said:
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
