"""A receiver of notifications as other programs run one: an HTTP server on a loopback socket, in threads of its own.

with Receiver() as receiver:
    receiver.answer = Answer(503)
    ...
    request = receiver.wait_for_one()
"""

import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook

WAIT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver says; an endless one goes on until the other side has had enough."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_endless: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """Check the signature as receivers do, with the library's own verifier; return the document."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Takes every request, keeps it, and answers as it was told to."""

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answer = Answer()
        self.answers: dict[str, Answer] = {}
        """Other answers for some paths."""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer((host, 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "/hook", *, host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def wait_for(self, count: int, *, seconds: float = WAIT_SECONDS) -> list[Received]:
        """Wait until so many requests have arrived."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while len(self.received) < count:
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{len(self.received)} of {count} requests arrived")
            return list(self.received)

    def wait_for_one(self) -> Received:
        """Wait for the first request."""
        return self.wait_for(1)[0]

    def _take(self, request: Received) -> Answer:
        with self._arrived:
            self.received.append(request)
            self._arrived.notify_all()
        self.may_answer.wait(WAIT_SECONDS)
        return self.answers.get(request.path, self.answer)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = take(Received(self.command, self.path, headers, body))
                try:
                    self._give(answer)
                except (ConnectionError, ssl.SSLError):
                    return  # who asked has gone

            def do_GET(self) -> None:
                self.do_POST()

            def _give(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if not answer.is_endless:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                while answer.is_endless:
                    self.wfile.write(b"x" * 65_536)

            def log_message(self, *_: object) -> None:
                return

        return Handler
