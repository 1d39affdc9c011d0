"""The one seam all registry traffic passes: an httpx transport whose connections go to checked addresses only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import httpcore
import httpx

from app.dialing import Dialer
from app.domain.registry import RegistryEntry
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
    `extensions["target"]` is the request target to send, byte for byte: httpx's own URL would quote it anew.
    """

    def __init__(self, entry: RegistryEntry, trust: Trust, rules: AddressRules) -> None:
        self._entry = entry
        self._trust = trust
        self._rules = rules
        self._pools: dict[Standing, httpcore.AsyncConnectionPool] = {}
        self._in_flight = 0
        self._is_retired = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the body of the answer is streamed. Raise httpx's exceptions, or `HostRefusedError`."""
        url = request.url
        target = request.extensions.get("target", url.raw_path)
        sent = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=target),
            headers=request.headers.raw,
            content=request.stream,
            extensions={"timeout": request.extensions.get("timeout", {})},
        )
        standing = self._trust.standing(Url.parse(str(url)))
        if self._entry.proxy:
            self._check_behind_proxy(url.host, standing)
        pool = self._pool(standing)
        self._in_flight += 1
        try:
            with _as_httpx():
                answer = await pool.handle_async_request(sent)
        except BaseException:
            await self._landed()
            raise
        body = _Body(answer, self._landed)
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    async def retire(self) -> None:
        """Keep no connections beyond the requests that are under way: the entry was changed, or is not in use."""
        self._is_retired = True
        if not self._in_flight:
            await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _landed(self) -> None:
        self._in_flight -= 1
        if self._is_retired and not self._in_flight:
            await self.aclose()

    def _pool(self, standing: Standing) -> httpcore.AsyncConnectionPool:
        if standing not in self._pools:
            self._pools[standing] = self._make_pool(standing)
        return self._pools[standing]

    def _make_pool(self, standing: Standing) -> httpcore.AsyncConnectionPool:
        context = make_context(self._entry, standing)
        if self._entry.proxy is None:
            is_registered = self._entry.is_registered and standing is not Standing.STRANGER
            return httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=None,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=Dialer(self._rules, is_registered=is_registered),
            )
        proxy = httpx.Proxy(self._entry.proxy)
        return httpcore.AsyncHTTPProxy(
            proxy_url=httpcore.URL(
                scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
            ),
            proxy_auth=proxy.raw_auth,
            ssl_context=context,
            max_connections=None,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=Dialer(self._rules, is_registered=True),  # the proxy itself, which an operator entered
        )

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

    def __init__(self, answer: httpcore.Response, landed: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._landed: Callable[[], Awaitable[None]] | None = landed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        landed, self._landed = self._landed, None
        try:
            with _as_httpx():
                await self._answer.aclose()
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
