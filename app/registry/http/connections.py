"""HTTP/1.1 connections to registries: heads of our own, bodies straight from and to the socket, idle ones kept.

httpcore's pool looks at every connection for every request, and its bodies pass through h11's buffers; for many small
requests and for large blobs alike that was most of the CPU this service used. Here an idle connection is found in one
step, and a body of known length is counted, not copied.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import httpcore

from app.concurrency import note_moved, waiting_elsewhere
from app.net.address_guard import Dialer
from app.net.handshake import certificate_end
from app.net.stream import Piece, SocketStream
from app.registry.http.chunked import ChunkedDecoder
from app.registry.http.message import Content, Head, HttpRequest, Origin, Url, find_head, parse_head, write_head
from app.registry.http.proxy import ProxyRoute, open_tunnel

MAX_INTERIM_ANSWERS = 16
_WITH_HEAD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long connections wait, in seconds."""

    connect: float = 10.0
    """Resolve, connect and shake hands, all addresses of a name together."""
    answer: float = 60.0
    """From the end of a request to the end of its answer's head, interim answers and all."""
    idle: float = 60.0
    """Between two pieces of a body, either way."""
    trickle: float = 120.0
    trickle_bytes_per_second: int = 10 * 1024
    """A body that is taken more slowly than this, over so much waiting, is broken off."""


class TrickleGuard:
    """Finds a body that moves too slowly, either way (slowloris): idle timeouts never end one of a byte a minute.

    - `seconds`: over how much waiting the rate is taken
    - `bytes_per_second`: the least rate
    """

    def __init__(self, *, seconds: float, bytes_per_second: int) -> None:
        self.bytes_per_second = bytes_per_second
        self._seconds = seconds
        self._waited = 0.0
        self._size = 0

    def is_too_slow(self, *, waited: float, size: int) -> bool:
        """Note bytes that moved, and the seconds that were waited for them; return whether that was too slow."""
        self._waited += waited
        self._size += size
        if self._waited <= self._seconds:
            return False
        is_slow = self._size < self._waited * self.bytes_per_second
        self._waited, self._size = 0.0, 0
        return is_slow


class StreamingResponse:
    """An answer's head, and its body as it comes; closing keeps the connection if the body was read to its end."""

    __slots__ = ("_chunks", "_connection", "_early", "_left", "_on_end", "headers", "status", "url")

    def __init__(
        self, connection: _Connection, request: HttpRequest, head: Head, *, early: bytes, on_end: Callable[[], None]
    ) -> None:
        """Take what came with the head, and what is called once when the answer is done with."""
        self.status = head.status
        self.headers = head.headers
        self.url: Url = request.url
        self._connection = connection
        self._early: Piece = early
        self._on_end = on_end
        self._left = head.body_length(request.method)
        self._chunks = ChunkedDecoder() if self._left is None and head.is_chunked else None
        if self._left == 0:
            self._end(is_whole=not early)
        elif self._left is None and (self._chunks is None or "content-length" in head.headers):
            connection.stays = False  # it ends with the connection, or says two things about its length

    @property
    def is_read(self) -> bool:
        """Whether there is nothing more to read."""
        return self._connection.is_released

    async def read(self) -> Piece:
        """Return the next piece of the body, nothing at its end.

        Raises `httpcore.ReadError`, `ReadTimeout` or `RemoteProtocolError` where it breaks off.
        """
        if self._connection.is_released:
            return b""
        try:
            while True:
                piece, self._early = self._early or await self._connection.receive(), b""
                if self._chunks is not None:
                    part = self._decoded(self._chunks, piece)
                elif self._left is not None:
                    part = self._counted(piece)
                else:
                    part = piece
                    if not piece:
                        self._end(is_whole=True)
                if part or self._connection.is_released:
                    return part
        except BaseException:
            self._end(is_whole=False)
            raise

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the body; raise as `read` does."""
        while piece := await self.read():
            yield piece

    def close(self) -> None:
        """Let go of the connection; one whose answer was not read to its end is closed."""
        self._end(is_whole=False)

    def _counted(self, piece: Piece) -> Piece:
        left = self._left or 0
        if not piece:
            raise httpcore.RemoteProtocolError("the answer ended too early")
        if len(piece) > left:
            self._connection.stays = False
            piece = memoryview(piece)[:left]
        self._left = left - len(piece)
        if not self._left:
            self._end(is_whole=True)
        return piece

    def _decoded(self, chunks: ChunkedDecoder, piece: Piece) -> Piece:
        if not piece:
            raise httpcore.RemoteProtocolError("the answer ended in the middle of its chunks")
        part = chunks.decode(piece)
        if chunks.is_complete:
            self._end(is_whole=not chunks.rest)
        return part

    def _end(self, *, is_whole: bool) -> None:
        if not self._connection.is_released:
            self._connection.end(is_whole=is_whole)
            self._on_end()


class Connections:
    """The connections of one registry entry to hosts of one trust level; how many there may be is decided elsewhere."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        make_context: Callable[[], ssl.SSLContext],
        keep_alive_seconds: float,
        user_agent: str = "registry-sync",
        timeouts: Timeouts | None = None,
        proxy: ProxyRoute | None = None,
        certificate_ends: dict[str, datetime | None] | None = None,
    ) -> None:
        """Take how long an idle connection is kept, in seconds, a proxy, and for which hosts to note certificates."""
        self._certificate_ends = {} if certificate_ends is None else certificate_ends
        self.timeouts = timeouts or Timeouts()
        self._user_agent = user_agent
        self._proxy = proxy
        self._dialer = dialer
        self._make_context = make_context
        self._context: ssl.SSLContext | None = None
        self._keep_alive_seconds = keep_alive_seconds
        self._idle: dict[Origin, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._is_closed = False

    async def send(self, request: HttpRequest, on_end: Callable[[], None] = lambda: None) -> StreamingResponse:
        """Send a request and return the head of its answer; raise httpcore's exceptions.

        `on_end` is called once, when the answer is done with; not where this raises.
        """
        written = self._write_head(request)  # before a connection is made for what can't be sent
        idle = None if request.is_fresh else self._take_idle(request.url.origin)
        connection = idle or await self._connect(request.url)
        connection.is_released = False
        self._busy.add(connection)
        try:
            head, early = await connection.ask(request, written)
            return StreamingResponse(connection, request, head, early=early, on_end=on_end)
        except BaseException:
            connection.end(is_whole=False)
            raise

    def close(self) -> None:
        """Close every connection, those in use too."""
        self._is_closed = True
        idle = [connection for existing in self._idle.values() for connection in existing]
        self._idle.clear()
        for connection in [*idle, *self._busy]:
            connection.stream.close()

    def released(self, connection: _Connection, *, is_reusable: bool) -> None:
        """Take a connection back, or see it closed."""
        self._busy.discard(connection)
        if not is_reusable or self._is_closed:
            connection.stream.close()
            return
        connection.idle_since = monotonic()
        connection.stream.rest()
        self._idle.setdefault(connection.origin, []).append(connection)

    def _write_head(self, request: HttpRequest) -> bytes:
        target, proxy_authorization = request.url.target, None
        if self._proxy is not None and request.url.scheme == "http":
            target = f"http://{self._proxy.authority(request.url)}{target}"
            proxy_authorization = self._proxy.authorization
        return write_head(request, user_agent=self._user_agent, target=target, proxy_authorization=proxy_authorization)

    def _take_idle(self, origin: Origin) -> _Connection | None:
        existing = self._idle.get(origin)
        while existing:
            connection = existing.pop()
            if monotonic() - connection.idle_since > self._keep_alive_seconds:
                # Those below it have been idle longer still.
                for old in [connection, *existing]:
                    old.stream.close()
                existing.clear()
            elif connection.stream.wake():
                return connection
            else:
                connection.stream.close()
        return None

    async def _connect(self, url: Url) -> _Connection:
        seconds = self.timeouts.connect
        place = (self._proxy.host, self._proxy.port) if self._proxy else (url.host, url.port)
        if url.scheme == "https" and self._context is None:
            self._context = self._make_context()  # before connecting: settings that can't be used are known at once
        stream = await self._dialer.connect_tcp(*place, timeout=seconds)
        try:
            if self._context is not None and url.scheme == "https":
                if self._proxy is not None:
                    await open_tunnel(stream, self._proxy, url, seconds=seconds)
                stream = await stream.start_tls(self._context, server_hostname=url.host, timeout=seconds)
                if url.host in self._certificate_ends:
                    self._certificate_ends[url.host] = certificate_end(stream.get_extra_info("ssl_object"))
        except BaseException:
            stream.close()
            raise
        return _Connection(self, stream, url.origin)


class _Connection:
    """One connection, used for one request at a time."""

    __slots__ = ("_owner", "idle_since", "is_released", "origin", "stays", "stream")

    def __init__(self, owner: Connections, stream: SocketStream, origin: Origin) -> None:
        self.origin = origin
        self.stream = stream
        self.idle_since = 0.0
        self.is_released = True
        self.stays = False
        """Whether it may be used again, if the answer is read to its end."""
        self._owner = owner

    async def ask(self, request: HttpRequest, written: bytes) -> tuple[Head, bytes]:
        """Send a request, its body as the other end takes it; return the head of the answer, and what came with it."""
        was_sent = await self._send(written, request.content)
        head, early = await self._head(request.answer_seconds or self._owner.timeouts.answer)
        self.stays = was_sent and head.stays
        return head, early

    async def receive(self) -> Piece:
        """Return the next piece of a body."""
        return await self.stream.receive(self._owner.timeouts.idle)

    def end(self, *, is_whole: bool) -> None:
        """End the request this connection is in use for; twice does no harm."""
        if not self.is_released:
            self.is_released = True
            self._owner.released(self, is_reusable=is_whole and self.stays)

    async def _send(self, head: bytes, content: Content) -> bool:
        """Return whether all was taken; the other end may answer before that, and stop reading."""
        try:
            if content is None or isinstance(content, bytes):
                await self._put(head + content if content else head)
                return True
            left = content.length
            timeouts = self._owner.timeouts
            guard = TrickleGuard(seconds=timeouts.trickle, bytes_per_second=timeouts.trickle_bytes_per_second)
            async for piece in _pieces(content):
                left -= len(piece)
                if left < 0:
                    raise httpcore.LocalProtocolError("a body longer than it was said to be")
                if head:
                    # With the beginning of the body: one packet for a small one.
                    await self._put(head + piece[:_WITH_HEAD_BYTES])
                    head, piece = b"", piece[_WITH_HEAD_BYTES:]  # noqa: PLW2901 — the rest of it
                if guard.is_too_slow(waited=await self._put(piece), size=len(piece)):
                    raise httpcore.WriteTimeout(f"less than {guard.bytes_per_second} bytes a second were taken")
                note_moved(len(piece))
            if left:
                raise httpcore.LocalProtocolError("a body shorter than it was said to be")
            if head:
                await self._put(head)
        except httpcore.WriteError:
            return False
        return True

    async def _put(self, data: Piece) -> float:
        """Send a piece within the time the least rate leaves it; return how many seconds that took."""
        timeouts, begun = self._owner.timeouts, monotonic()
        whole_seconds = timeouts.idle + len(data) / timeouts.trickle_bytes_per_second
        await self.stream.send(data, timeouts.idle, whole_seconds=whole_seconds)
        return monotonic() - begun

    async def _head(self, seconds: float) -> tuple[Head, bytes]:
        """Read up to the final answer; all of it within these seconds."""
        ends_at = monotonic() + seconds
        received = bytes(await self.stream.receive(seconds))
        looked = 0
        for _ in range(MAX_INTERIM_ANSWERS):
            while not (end := find_head(received, looked)):
                looked = len(received)
                if not (piece := await self.stream.receive(max(0.0, ends_at - monotonic()))):
                    raise httpcore.RemoteProtocolError("the connection ended without an answer")
                received += piece
            head = parse_head(received[:end])
            received, looked = received[end:], 0
            if head.is_final:
                return head, received
        raise httpcore.RemoteProtocolError("too many interim answers")


async def _pieces(content: AsyncIterable[Piece]) -> AsyncIterator[Piece]:
    """Yield a body's pieces; the waits for them are not the receiver's."""
    pieces = aiter(content)
    while True:
        with waiting_elsewhere():
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece
