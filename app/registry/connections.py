"""HTTP/1.1 connections to registries: heads through h11, bodies straight from and to the socket, idle ones kept.

httpcore's pool looks at every connection for every request, and its bodies pass through h11's buffers; for many small
requests and for large blobs alike that was most of the CPU this service used. Here an idle connection is found in one
step, and a body of known length is counted, not copied.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import unquote, urlsplit

import h11
import httpcore

from app.dialing import Dialer, SocketStream

MAX_HEAD_BYTES = 64 * 1024
"""Of an answer; registries' own are below 2 KiB, signed redirects below 8 KiB."""
MAX_INTERIM_ANSWERS = 16
_NO_BODY = frozenset({204, 304})
_OK = range(200, 300)
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A request as it is sent; `headers` hold `Host`, and `Content-Length` where there is a body."""

    method: str
    origin: Origin
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: AsyncIterable[bytes]
    timeouts: Mapping[str, float | None] = field(default_factory=dict)
    """httpx's four words: `connect`, `read`, `write`, `pool`. `read` is looked up anew for each piece."""


class WireAnswer:
    """An answer's head, and its body as it comes; closing keeps the connection if the body was read to its end."""

    def __init__(self, connection: _Connection, request: WireRequest, head: h11.Response) -> None:
        self.status = head.status_code
        self.headers: list[tuple[bytes, bytes]] = list(head.headers)
        self._connection = connection
        self._request = request
        self._left = _body_length(request.method, head)
        if self._left == 0:
            connection.end(is_whole=True)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body; raise `httpcore.ReadError`, `ReadTimeout` or `RemoteProtocolError` where it breaks off."""
        if self._connection.is_released or self._left == 0:
            return
        try:
            parts = self._counted(self._left) if isinstance(self._left, int) else self._framed()
            async for part in parts:
                yield part
        except BaseException:
            self._connection.end(is_whole=False)
            raise
        self._connection.end(is_whole=True)

    def close(self) -> None:
        """Let go of the connection; one whose answer was not read to its end is closed."""
        self._connection.end(is_whole=False)

    async def _counted(self, left: int) -> AsyncIterator[bytes]:
        while left:
            part = await self._connection.read(self._request)
            if not part:
                raise httpcore.RemoteProtocolError("the answer ended too early")
            if len(part) > left:
                self._connection.spoil()
                part = part[:left]
            left -= len(part)
            yield part

    async def _framed(self) -> AsyncIterator[bytes]:
        """Read a chunked body, or one that ends with the connection: h11 knows where."""
        with _protocol_errors():
            while not isinstance(event := await self._connection.event(self._request), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    yield bytes(event.data)


@dataclass(frozen=True, slots=True)
class ProxyRoute:
    """An HTTP proxy to go through; https passes it in a tunnel (CONNECT), http by whole URLs."""

    host: str
    port: int
    authorization: bytes | None = None

    @classmethod
    def parse(cls, url: str) -> ProxyRoute:
        """Read `http://[user:password@]host[:port]`; raise `ValueError`."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("a proxy is http://[user:password@]host[:port]")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(pair.encode())
        return cls(parts.hostname, parts.port or 80, authorization)


class Connections:
    """The connections of one registry entry; how many there may be is decided elsewhere."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        context: ssl.SSLContext,
        keep_alive_seconds: float,
        proxy: ProxyRoute | None = None,
    ) -> None:
        self._dialer = dialer
        self._context = context
        self._keep_alive_seconds = keep_alive_seconds
        self._proxy = proxy
        self._idle: dict[Origin, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._is_closed = False

    async def send(self, request: WireRequest) -> WireAnswer:
        """Send a request and return the head of its answer; raise httpcore's exceptions."""
        connection = self._take_idle(request.origin) or await self._connect(request)
        self._busy.add(connection)
        try:
            head = await connection.exchange(request, self._proxy)
            return WireAnswer(connection, request, head)
        except BaseException:
            connection.end(is_whole=False)
            raise

    def close(self) -> None:
        """Close every connection, those in use too."""
        self._is_closed = True
        idle = [connection for kept in self._idle.values() for connection in kept]
        self._idle.clear()
        for connection in [*idle, *self._busy]:
            connection.close()

    def released(self, connection: _Connection, *, is_reusable: bool) -> None:
        """Take a connection back, or see it closed."""
        self._busy.discard(connection)
        if not is_reusable or self._is_closed:
            connection.close()
            return
        connection.idle_since = monotonic()
        self._idle.setdefault(connection.origin, []).append(connection)

    def _take_idle(self, origin: Origin) -> _Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if monotonic() - connection.idle_since > self._keep_alive_seconds:
                # Those below it have been idle longer still.
                for old in [connection, *kept]:
                    old.close()
                kept.clear()
            elif connection.is_sound():
                return connection
            else:
                connection.close()
        return None

    async def _connect(self, request: WireRequest) -> _Connection:
        origin, timeout = request.origin, request.timeouts.get("connect")
        place = (self._proxy.host, self._proxy.port) if self._proxy else (origin.host, origin.port)
        stream = await self._dialer.connect_tcp(*place, timeout=timeout)
        try:
            if origin.scheme == "https":
                if self._proxy is not None:
                    await _tunnel(stream, self._proxy, request)
                stream = await stream.start_tls(self._context, server_hostname=origin.host, timeout=timeout)
        except BaseException:
            await stream.aclose()
            raise
        return _Connection(self, stream, origin)


class _Connection:
    """One connection, used for one request at a time."""

    def __init__(self, owner: Connections, stream: SocketStream, origin: Origin) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.is_released = True
        self._owner = owner
        self._stream = stream
        self._early = b""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._may_stay = False

    def is_sound(self) -> bool:
        """Whether an idle connection is still there, with nothing in it that nobody asked for."""
        return not self._stream.get_extra_info("is_readable")

    async def exchange(self, request: WireRequest, proxy: ProxyRoute | None) -> h11.Response:
        """Send a request, its body as the other end takes it, and read the head of the answer."""
        self.is_released = False
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        was_sent = await self._send(request, proxy)
        with _protocol_errors():
            head = await self._head(request)
        self._may_stay = was_sent and _keeps_alive(head)
        rest, ended = self._http.trailing_data
        if isinstance(_body_length(request.method, head), int):
            self._early = bytes(rest)
        self._may_stay = self._may_stay and not ended
        return head

    async def read(self, request: WireRequest) -> bytes:
        """Return the next piece of a body, as much as has come; nothing at the end of the connection."""
        if self._early:
            early, self._early = self._early, b""
            return early
        return await self._stream.read(_READ_BYTES, timeout=request.timeouts.get("read"))

    async def event(self, request: WireRequest) -> Any:
        """Return h11's next event."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.read(request))
        return event

    def spoil(self) -> None:
        """Keep this connection for nothing more."""
        self._may_stay = False

    def end(self, *, is_whole: bool) -> None:
        """End the request this connection is in use for; twice does no harm."""
        if not self.is_released:
            self.is_released = True
            self._owner.released(self, is_reusable=is_whole and self._may_stay and not self._early)

    def close(self) -> None:
        """Close at once."""
        self._stream.close()

    async def _send(self, request: WireRequest, proxy: ProxyRoute | None) -> bool:
        """Return whether all was taken; the other end may answer before that, and stop reading."""
        timeout = request.timeouts.get("write")
        headers, target = request.headers, request.target
        if proxy is not None and self.origin.scheme == "http":
            target = f"http://{_authority(self.origin)}".encode() + target
            headers = headers + _proxy_headers(proxy)
        try:
            head = h11.Request(method=request.method, target=target, headers=headers)
            waiting = self._http.send(head) or b""
            async for part in request.body:
                # The head travels with the first piece of the body: one packet for a small request.
                data = b"".join(self._http.send_with_data_passthrough(h11.Data(data=part)) or ())
                if waiting:
                    data, waiting = waiting + data, b""
                await self._stream.write(data, timeout=timeout)
            waiting += b"".join(self._http.send_with_data_passthrough(h11.EndOfMessage()) or ())
            if waiting:
                await self._stream.write(waiting, timeout=timeout)
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error
        except httpcore.WriteError:
            return False
        return True

    async def _head(self, request: WireRequest) -> h11.Response:
        for _ in range(MAX_INTERIM_ANSWERS):
            event = await self.event(request)
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpcore.RemoteProtocolError("the connection ended without an answer")
        raise httpcore.RemoteProtocolError("too many interim answers")


class _protocol_errors:  # noqa: N801 — reads as a word in a `with`
    """Tell h11's complaints about the other end in httpcore's words."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, h11.RemoteProtocolError):
            raise httpcore.RemoteProtocolError(str(error)) from error


async def _tunnel(stream: SocketStream, proxy: ProxyRoute, request: WireRequest) -> None:
    """Ask a proxy for a tunnel (RFC 9110, "CONNECT"); raise `httpcore.ProxyError`."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    place = _authority(request.origin).encode()
    asked = h11.Request(method="CONNECT", target=place, headers=[(b"Host", place), *_proxy_headers(proxy)])
    timeout = request.timeouts.get("connect")
    with _protocol_errors():
        await stream.write(http.send(asked) or b"", timeout=timeout)
        await stream.write(http.send(h11.EndOfMessage()) or b"", timeout=timeout)
        while (event := http.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
            if event is h11.NEED_DATA:
                http.receive_data(await stream.read(MAX_HEAD_BYTES, timeout=timeout))
    if not isinstance(event, h11.Response) or event.status_code not in _OK:
        status = event.status_code if isinstance(event, h11.Response) else "nothing"
        raise httpcore.ProxyError(f"the proxy answered {status}")


def _proxy_headers(proxy: ProxyRoute) -> list[tuple[bytes, bytes]]:
    return [(b"Proxy-Authorization", proxy.authorization)] if proxy.authorization else []


def _authority(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}"


def _body_length(method: str, head: h11.Response) -> int | None:
    """Return how long an answer's body is, or None where only its framing tells (RFC 9112, "Message Body Length")."""
    if method == "HEAD" or head.status_code in _NO_BODY:
        return 0
    found: int | None = None
    for name, value in head.headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            found = int(value)
    return found


def _keeps_alive(head: h11.Response) -> bool:
    if head.http_version < b"1.1":
        return False
    return not any(name == b"connection" and b"close" in value.lower() for name, value in head.headers)
