"""HTTP/1.1 messages as registries and we write them (RFC 9112): URLs, heads of requests out and of answers in.

URLs stay exactly as they came: signed query strings must not be re-encoded.

A head of some ten lines is split by Python's own string methods, which measured faster than a C parser with a callback
per header (docs/decisions), and as strict: whatever is not plainly HTTP is a protocol error, and no header is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpcore
from msgspec import Struct
from msgspec.structs import replace

from app.domain.errors import ContentError
from app.domain.reference import MAX_PORT
from app.net.stream import Piece

MAX_HEAD_BYTES = 64 * 1024
"""Of an answer; registries' own are below 2 KiB, signed redirects below 8 KiB."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ABSOLUTE = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{0,5}))?")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))
_MAX_URL_LENGTH = 16 * 1024
_FIRST_FINAL = 200
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEAD_END = re.compile(rb"\n\r?\n")
_MAX_LENGTH_DIGITS = 18
_NO_BODY = frozenset({204, 304})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

Origin = tuple[str, str, int]
"""Scheme, host and port: what credentials belong to."""


class InvalidUrlError(ValueError):
    """A URL that is none, or has parts we never follow: a user, blanks, control characters, another scheme."""


_NUMBER = re.compile(r"[0-9]{1,18}")
"""Eighteen digits fit 64 bits; `²` is a digit to Python and no number, and 5,000 digits are refused by `int`."""


def whole_number(text: str) -> int | None:
    """Return the number that a foreign header is, of at most 18 ASCII digits (`1*DIGIT`); None for anything else."""
    return int(text) if _NUMBER.fullmatch(text) else None


class Url(Struct, frozen=True, gc=False):
    """Scheme, host (lower case, IPv6 without brackets), port, and the rest verbatim. Prints without its query."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an absolute http or https URL; raise `InvalidUrlError`."""
        match = _ABSOLUTE.fullmatch(_safe(text))
        authority = _AUTHORITY.fullmatch(match["authority"]) if match else None
        if match is None or authority is None:
            raise InvalidUrlError("not an http or https URL without a user")
        scheme = match["scheme"].lower()
        port = int(authority["port"]) if authority["port"] else _DEFAULT_PORTS[scheme]
        if not 0 < port <= MAX_PORT:
            raise InvalidUrlError("not a port number")
        target = match["target"]
        return cls(
            scheme, authority["host"].strip("[]").lower(), port, target if target.startswith("/") else f"/{target}"
        )

    def join(self, text: str) -> Self:
        """Resolve what an answer from here names: absolute, without scheme, an absolute or a relative path."""
        text = _safe(text)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
            return self.parse(text)
        if text.startswith("//"):
            return self.parse(f"{self.scheme}:{text}")
        text = text.partition("#")[0]
        if text.startswith("/"):
            return replace(self, target=text)
        if text.startswith("?"):
            return replace(self, target=f"{self.path}{text}")
        return replace(self, target=f"{self.path.rpartition('/')[0]}/{text}")

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them: no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def whole(self) -> str:
        """All of it, query and all: a secret where it is signed."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def with_parameter(self, name: str, value: str) -> Self:
        """Append to the query, leaving what is there untouched."""
        separator = "&" if "?" in self.target else "?"
        separator = "" if self.target.endswith(("?", "&")) else separator
        return self.with_target(f"{self.target}{separator}{name}={quote(value, safe='')}")

    def with_target(self, target: str) -> Self:
        """Return another path, and query, of the same origin."""
        return type(self)(self.scheme, self.host, self.port, target)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


class StreamedBody(Protocol):
    """A body that is sent as it comes."""

    length: int
    """How many bytes it yields: what `Content-Length` says."""
    has_begun: bool
    """Whether some of it was handed out: such a request can't be made again."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the bytes."""


Content = bytes | StreamedBody | None
Gather = Callable[[int], Awaitable[None]]
"""Waits until so many bytes of a stream are in memory."""


class UploadBody:
    """The body of one upload's requests, each of which takes the next bytes; it knows whose fault a break is.

    The bytes are cut into the lengths that requests announce, and go out at the registry's pace. A request whose body
    has begun is never repeated with half of it.
    """

    def __init__(
        self, chunks: AsyncIterator[Piece], pass_bytes: Callable[[int], Awaitable[None]], *, ahead: Gather | None = None
    ) -> None:
        """Take the blob's bytes, what bounds how many go out a second, and what reads them ahead."""
        self.length = 0
        """Bytes of the request under way."""
        self.has_begun = False
        self.taken = 0
        """Bytes handed out so far, by all requests."""
        self.failure: Exception | None = None
        """What the stream itself raised: never the registry's doing."""
        self._chunks = aiter(chunks)
        self._pass_bytes = pass_bytes
        self._rest: Piece = b""
        self._ahead = ahead

    @property
    def is_ahead(self) -> bool:
        """Whether its bytes are read before they are needed."""
        return self._ahead is not None

    async def gather(self, length: int) -> None:
        """Have the next bytes read before a request that takes them begins, where they are read ahead."""
        if self._ahead is not None:
            await self._ahead(length - len(self._rest))

    def next(self, length: int) -> UploadBody:
        """Be the body of the next request, which takes so many bytes."""
        self.length = length
        self.has_begun = False
        return self

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield exactly `length` of the next bytes; raise what the stream raises, `ContentError` where it ends."""
        self.has_begun = True
        left = self.length
        while left:
            piece = self._rest or await self._read()
            if len(piece) > left:
                piece, self._rest = piece[:left], piece[left:]
            else:
                self._rest = b""
            left -= len(piece)
            await self._pass_bytes(len(piece))
            self.taken += len(piece)
            yield piece

    async def _read(self) -> Piece:
        try:
            while not (piece := await anext(self._chunks)):
                pass
        except StopAsyncIteration:
            self.failure = ContentError("the blob ended before its size", code="size_mismatch")
            raise self.failure from None
        except Exception as error:
            self.failure = error
            raise
        return piece


class HttpRequest(Struct, frozen=True, kw_only=True):
    """A request as it goes out."""

    method: str
    url: Url
    headers: Mapping[str, str] = {}
    content: Content = None
    answer_seconds: float | None = None
    """How long the head of the answer may take, in place of what is usual."""
    is_fresh: bool = False
    """Whether to take a new connection: what came over an existing one was damaged."""

    def __repr__(self) -> str:  # neither headers, which log in, nor content
        return f"HttpRequest({self.method} {self.url})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method)]


class Headers(dict[str, str]):
    """An answer's headers by lower-case name; what came several times is joined with commas (RFC 9110 5.3)."""

    __slots__ = ("_repeated",)

    def __init__(self) -> None:
        self._repeated: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """Take in one line of a head."""
        if name in self:
            self._repeated.setdefault(name, [self[name]]).append(value)
            value = f"{self[name]}, {value}"
        self[name] = value

    def get_list(self, name: str) -> list[str]:
        """Return the values of a header, one for each time it came."""
        if (values := self._repeated.get(name)) is not None:
            return values
        return [self[name]] if name in self else []


def is_damaged(headers: Headers, body: bytes) -> bool:
    """Whether an answer says that it is JSON, and is none: it was cut off or spoilt on its way."""
    if "json" not in headers.get("content-type", "json").partition(";")[0].lower():
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer."""

    status: int
    headers: Headers
    stays: bool
    """Whether the connection may be used again."""

    def body_length(self, method: str) -> int | None:
        """Return how long the body is, None where only its framing tells (RFC 9112 6.3).

        Raises `httpcore.RemoteProtocolError` for a length that is none, or lengths that differ.
        """
        if method == "HEAD" or self.status in _NO_BODY:
            return 0
        if "transfer-encoding" in self.headers or "content-length" not in self.headers:
            return None
        lengths = {text.strip() for value in self.headers.get_list("content-length") for text in value.split(",")}
        length = lengths.pop()
        if lengths or not length.isdecimal() or not length.isascii() or len(length) > _MAX_LENGTH_DIGITS:
            raise httpcore.RemoteProtocolError("an answer with a Content-Length that is none")
        return int(length)

    @property
    def is_final(self) -> bool:
        """Whether it is the answer, and not one of those before it (1xx, RFC 9110 15.2)."""
        return self.status >= _FIRST_FINAL

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks; raise `httpcore.RemoteProtocolError` for other transfer encodings."""
        encoding = self.headers.get("transfer-encoding")
        if encoding is not None and encoding.strip().lower() != "chunked":
            raise httpcore.RemoteProtocolError("an answer in a transfer encoding that was not asked for")
        return encoding is not None


def write_head(request: HttpRequest, *, user_agent: str, target: str, proxy_authorization: str | None = None) -> bytes:
    """Write the head of a request; raise `httpcore.LocalProtocolError` for what would break it."""
    content = request.content
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {request.url.authority}", f"User-Agent: {user_agent}"]
    lines.append("Accept-Encoding: identity")
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if proxy_authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy_authorization}")
    if content is not None:
        lines.append(f"Content-Length: {len(content) if isinstance(content, bytes) else content.length}")
    elif request.method in _WITH_BODY:
        lines.append("Content-Length: 0")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text or " " in target:
        raise httpcore.LocalProtocolError("a header that would break the head")
    try:
        return f"{text}\r\n\r\n".encode("latin-1")
    except UnicodeEncodeError as error:
        raise httpcore.LocalProtocolError("a header that no head can hold") from error


def find_head(received: bytes, begin: int = 0) -> int:
    """Return where a head that begins the bytes ends, 0 if it does not yet; `begin` bytes were looked at before.

    Raises `httpcore.RemoteProtocolError` for one that is too long.
    """
    found = _HEAD_END.search(received, max(0, begin - 2))
    end = found.end() if found else 0
    if max(end, 0 if end else len(received)) > MAX_HEAD_BYTES:
        raise httpcore.RemoteProtocolError("an answer with a head that is too long")
    return end


def parse_head(raw: bytes) -> Head:
    """Read a whole head; raise `httpcore.RemoteProtocolError` for what is none."""
    text = raw.decode("latin-1").rstrip("\r\n").replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        raise httpcore.RemoteProtocolError("a head with characters that don't belong there")
    first, *lines = text.split("\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise httpcore.RemoteProtocolError("an answer that is no HTTP")
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(":")
        headers.add(_header_name(name), value.strip(" \t"))
    connection = headers.get("connection", "").lower() if "connection" in headers else ""
    return Head(int(status_line[2]), headers, status_line[1] == "1" and "close" not in connection)


@lru_cache(maxsize=1024)
def _header_name(name: str) -> str:
    """Check a header's name; the same few come in every answer. A line that is no header has no proper name."""
    if not _TOKEN.fullmatch(name):
        raise httpcore.RemoteProtocolError("a header without a proper name")
    return name.lower()


def _safe(text: str) -> str:
    text = text.strip(" \t")
    if not text or len(text) > _MAX_URL_LENGTH or _UNSAFE.search(text):
        raise InvalidUrlError("a URL that is empty, too long, or has blanks or control characters in it")
    return text if text.isascii() else quote(text, safe=_VISIBLE)
