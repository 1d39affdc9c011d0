"""HTTP proxies: a tunnel for https (RFC 9110, "CONNECT"), whole URLs for http."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from time import monotonic
from urllib.parse import unquote, urlsplit

import httpcore

from app.net.stream import SocketStream
from app.registry.http.message import Url, find_head, parse_head

_OK = range(200, 300)


@dataclass(frozen=True, slots=True)
class ProxyRoute:
    """An HTTP proxy to go through; https passes it in a tunnel, http by whole URLs."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> ProxyRoute:
        """Read `http://[user:password@]host[:port]`; raise `ValueError`."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("a proxy is http://[user:password@]host[:port]")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(parts.hostname, parts.port or 80, authorization)

    def authority(self, url: Url) -> str:
        """Name a place to the proxy, always with its port."""
        return f"{f'[{url.host}]' if ':' in url.host else url.host}:{url.port}"


async def open_tunnel(stream: SocketStream, proxy: ProxyRoute, url: Url, *, seconds: float) -> None:
    """Ask a proxy for a tunnel; raise `httpcore.ProxyError` when it refuses."""
    place = proxy.authority(url)
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await stream.send("\r\n".join([*lines, "", ""]).encode("ascii"), seconds)
    received, ends_at = b"", monotonic() + seconds
    while True:
        looked = len(received)
        if not (piece := await stream.receive(max(0.0, ends_at - monotonic()))):
            raise httpcore.ProxyError("the proxy answered nothing")
        received += piece
        while end := find_head(received, looked):
            head = parse_head(received[:end])
            received, looked = received[end:], 0
            if head.status in _OK:
                return
            if head.is_final:
                raise httpcore.ProxyError(f"the proxy answered {head.status}")
