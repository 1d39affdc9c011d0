"""HTTP servers of one function each, over loopback, with TLS where they have a certificate.

with LoopbackServer(json_handler(answer), files=make_server_certificate(folder)) as server:
# server.url
"""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.certificates import ServerCertificate

Said = tuple[int, dict[str, Any]]
"""Status and document of an answer."""


class LoopbackServer:
    """One server on a free port, running from `__enter__` to `__exit__`."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], *, files: ServerCertificate | None = None) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if files is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate_file, files.key_file)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'http' if files is None else 'https'}://{self.host}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def json_handler(
    answer: Callable[[BaseHTTPRequestHandler, str, str], Said],
    *,
    headers: tuple[tuple[str, str], ...] = (),
    tunnel_to: int = 0,
) -> type[BaseHTTPRequestHandler]:
    """Make a handler of GET, POST and PUT: `answer` gets it with the path and the body of the request.

    As a proxy it leads every host to the loopback port `tunnel_to`.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_CONNECT(self) -> None:
            with socket.create_connection(("127.0.0.1", tunnel_to)) as there:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(there, self.connection))
                back.start()
                _pump(self.connection, there)
                back.join()
            self.close_connection = True

        def _serve(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            status, document = answer(self, urlsplit(self.path).path, sent)
            body = json.dumps(document).encode()
            self.send_response(status)
            for name, value in (("Content-Type", "application/json"), *headers):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815 — the names that http.server looks for

    return Handler


def form_of(text: str) -> dict[str, str]:
    """Read a form, or a query."""
    return {name: values[0] for name, values in parse_qs(text).items()}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
