"""The one seam all registry traffic passes: an httpx transport whose connections go to checked addresses only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

import httpcore
import httpx

from app.dialing import Dialer
from app.domain.registry import RegistryEntry
from app.observability import REGISTRY_REQUESTS
from app.registry.connections import Connections, Origin, ProxyRoute, WireAnswer, WireRequest
from app.registry.tls import make_context
from app.registry.trust import Standing, Trust
from app.registry.url import Url
from app.security import AddressRules

KEEP_ALIVE_SECONDS = 30.0
"""Below the idle limits common in front of registries (nginx: 75 s, AWS load balancers: 60 s)."""


class RegistryTransport(httpx.AsyncBaseTransport):
    """Connections of one registry entry, kept apart by what the other end is to it.

    How many there are at once is the business of `pressure.py`; nothing here waits for a free one. A request's
    `extensions["timeout"]` holds httpx's four timeouts; its `read` may be changed between the head and the body.
    `extensions["url"]` is the URL to ask, its target to be sent byte for byte: httpx's own would quote it anew.
    """

    def __init__(self, entry: RegistryEntry, trust: Trust, rules: AddressRules) -> None:
        self._entry = entry
        self._trust = trust
        self._rules = rules
        self._kept: dict[Standing, Connections] = {}
        self._in_flight = 0
        self._is_retired = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the body of the answer is streamed. Raise httpx's exceptions, or `HostRefusedError`."""
        url: Url = request.extensions["url"]
        standing = self._trust.standing(url)
        if self._entry.proxy:
            self._check_behind_proxy(url.host, standing)
        sent = WireRequest(
            method=request.method,
            origin=Origin(*url.origin),
            target=url.target.encode("ascii"),
            headers=request.headers.raw,
            body=cast(httpx.AsyncByteStream, request.stream),
            timeouts=request.extensions.get("timeout", {}),
        )
        self._in_flight += 1
        try:
            with _as_httpx():
                answer = await self._connections(standing).send(sent)
        except BaseException:
            self._count(request.method, "error")
            await self._landed()
            raise
        self._count(request.method, str(answer.status))
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer, self._landed))

    async def retire(self) -> None:
        """Keep no connections beyond the requests that are under way: the entry was changed, or is not in use."""
        self._is_retired = True
        if not self._in_flight:
            await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        kept, self._kept = self._kept, {}
        for connections in kept.values():
            connections.close()

    def _count(self, method: str, code: str) -> None:
        # Not by host: whoever may submit could name new ones without end.
        name = self._entry.name if self._entry.is_registered else "(not registered)"
        REGISTRY_REQUESTS.labels(name, method, code).inc()

    async def _landed(self) -> None:
        self._in_flight -= 1
        if self._is_retired and not self._in_flight:
            await self.aclose()

    def _connections(self, standing: Standing) -> Connections:
        if standing not in self._kept:
            # Through a proxy, the address to check is the proxy's own, which an operator entered.
            is_known = self._entry.is_registered and standing is not Standing.STRANGER
            proxy = ProxyRoute.parse(self._entry.proxy) if self._entry.proxy else None
            self._kept[standing] = Connections(
                Dialer(self._rules, is_registered=is_known or proxy is not None),
                context=make_context(self._entry, standing),
                keep_alive_seconds=KEEP_ALIVE_SECONDS,
                proxy=proxy,
            )
        return self._kept[standing]

    def _check_behind_proxy(self, host: str, standing: Standing) -> None:
        # The proxy resolves names, so it has to judge them; what is an address already can be judged here.
        self._rules.check_host(host)
        is_registered = self._entry.is_registered and standing is not Standing.STRANGER
        try:
            self._rules.check(host, host.strip("[]"), is_registered=is_registered)
        except ValueError:
            return


class _Body(httpx.AsyncByteStream):
    """The body of an answer, its errors told in httpx's words."""

    def __init__(self, answer: WireAnswer, landed: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._landed: Callable[[], Awaitable[None]] | None = landed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._answer:
                yield part

    async def aclose(self) -> None:
        landed, self._landed = self._landed, None
        try:
            self._answer.close()
        finally:
            if landed is not None:
                await landed()


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except httpcore.ProxyError as error:
        raise httpx.ProxyError(str(error)) from error
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
