"""What the handlers of the fake registry take and give: a request from the wire, an answer for it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope

from tests.support.fake_registry.journal import Entry, Origin

Headers = list[tuple[str, str]]
HUGE_BYTES = 8 * 1024 * 1024


class ConnectionCutError(Exception):
    """Break the connection now, without an answer."""


class ClientGoneError(Exception):
    """The client broke the connection before its body was complete."""


@dataclass(slots=True)
class Answer:
    """An answer; a body goes out in pieces, and may end before it should."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    with_length: bool = True
    length: int | None = None
    """What `Content-Length` says if not the body's length (answers to HEAD)."""
    piece_bytes: int = 64 * 1024
    pause_seconds: float = 0
    cut_after_bytes: int | None = None
    stall_after_bytes: int | None = None

    def set_header(self, name: str, value: str) -> None:
        """Add a header, instead of those of the same name."""
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()] + [(name, value)]


class Request:
    """A request as a handler reads it; the body is counted in its journal entry as it is read."""

    def __init__(self, scope: Scope, receive: Receive, *, entry: Entry) -> None:
        self.entry = entry
        self.method = entry.method
        self.path = entry.path
        self.raw_path: str = scope["raw_path"].decode()
        """As it came, with what is encoded in it."""
        self.query = {name: values[-1] for name, values in parse_qs(entry.query, keep_blank_values=True).items()}
        self.scheme: str = scope["scheme"]
        self.cut_after_received: int | None = None
        self.at_end = False
        self._receive = receive

    @property
    def origin(self) -> Origin:
        return self.entry.origin

    @property
    def length(self) -> int | None:
        """What `Content-Length` says, None for a body of unknown length."""
        value = self.header("content-length")
        return int(value) if value is not None else None

    @property
    def has_body(self) -> bool:
        return bool(self.length) or self.header("transfer-encoding") is not None

    def header(self, name: str) -> str | None:
        """Return a header's first value; the name in lower case."""
        return self.entry.header(name)

    def all_query(self, name: str) -> list[str]:
        """Return every value of a query parameter."""
        return parse_qs(self.entry.query, keep_blank_values=True).get(name, [])

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raise ConnectionCutError where it is to break, ClientGoneError where it did."""
        while not self.at_end:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            self.at_end = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            limit = self.cut_after_received
            if limit is not None and self.entry.received_bytes + len(piece) >= limit:
                piece = piece[: max(0, limit - self.entry.received_bytes)]
                self.entry.received_bytes += len(piece)
                yield piece
                raise ConnectionCutError
            self.entry.received_bytes += len(piece)
            if piece:
                yield piece

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def until_gone(self) -> None:
        """Wait until the client has broken the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def error(status: int, code: str, message: str = "", *, detail: Any = None) -> Answer:
    """Answer an error as the specification words it ("Error Codes")."""
    body = {"errors": [{"code": code, "message": message or code.lower().replace("_", " "), "detail": detail}]}
    return json_answer(body, status=status)


def json_answer(body: object, *, status: int = 200, content_type: str = "application/json") -> Answer:
    """Answer a JSON document."""
    return Answer(status, [("Content-Type", content_type)], json.dumps(body).encode())


def page_answer(status: int = 200) -> Answer:
    """Answer what web applications answer to everything."""
    return Answer(status, [("Content-Type", "text/html; charset=utf-8")], b"<!doctype html><title>Welcome</title>")
