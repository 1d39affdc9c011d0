"""One request and one answer, nothing more: no credentials, no permits, no second try. To checked addresses only.

httpx is not used here: its request, response and header objects cost more than the connection itself
(docs/decisions). Errors are httpcore's until they leave this file as `RegistryError`.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache, partial
from time import monotonic
from typing import Any

from app.domain.errors import RegistryError
from app.domain.registry import RegistryEntry
from app.net.address_guard import AddressRules, Dialer, HostRefusedError, PrivateAddressError
from app.net.stream import Piece
from app.observability import REGISTRY_REQUESTS, REGISTRY_SECONDS, is_tracing, span
from app.redaction import EchoGuard
from app.registry.http.connections import Connections, StreamingResponse, Timeouts, TrickleGuard
from app.registry.http.errors import CONNECTION_ERRORS, ErrorContext, Response, error_of_exception, make_error, too_slow
from app.registry.http.host_trust import HostTrust, Trust
from app.registry.http.message import HttpRequest, Url
from app.registry.http.proxy import ProxyRoute
from app.registry.http.tls import make_context
from app.registry.limits import MAX_ERROR_BYTES, ClientSettings

KEEP_ALIVE_SECONDS = 30.0
"""Below the idle limits common in front of registries (nginx: 75 s, AWS load balancers: 60 s)."""
MAX_SENT = 256
"""Values of `Authorization` that are remembered; tokens end, and each is searched for in an error."""
_CLIENT_ERROR = 400
"""From here on an answer makes a failed span (OpenTelemetry semantic conventions, "HTTP client span": Status)."""
_INFLATE = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class HttpClient:
    """Sends requests of one registry entry and tells failures in the contract's words.

    Connections are kept apart by what the other end is to the entry. How many there are at once is the business of
    `ratelimit/adaptive_concurrency.py`; nothing here waits for a free one.
    """

    def __init__(self, entry: RegistryEntry, trust: Trust, *, rules: AddressRules, settings: ClientSettings) -> None:
        self.trust = trust
        self.settings = settings
        self._sent: OrderedDict[str, None] = OrderedDict()
        """The latest values of `Authorization`, which the registry may repeat."""
        self._entry = entry
        self._rules = rules
        self._pools: dict[HostTrust, Connections] = {}
        self._host = Url.parse(entry.base_url).host
        self._certificate_ends: dict[str, datetime | None] = {self._host: None}
        self._in_flight = 0
        self._idle_since = monotonic()
        self._is_retired = False

    @property
    def certificate_ends_at(self) -> datetime | None:
        """Until when the registry's own certificate is valid, as the last handshake showed it."""
        return self._certificate_ends[self._host]

    async def send(self, request: HttpRequest, context: ErrorContext) -> StreamingResponse:
        """Return the head of the answer, its body still to come; the caller closes it. Raise `RegistryError`."""
        if not is_tracing():
            return await self._send(request, context)
        described = {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "registry_sync.registry": self._entry.label,
            "registry_sync.operation": context.operation,
        }
        with span(request.method, kind="client", attributes=described) as call_span:
            response = await self._send(request, context)
            call_span.set({"http.response.status_code": response.status})
            if response.status >= _CLIENT_ERROR:
                call_span.fail(str(response.status))
            return response

    async def _send(self, request: HttpRequest, context: ErrorContext) -> StreamingResponse:
        if not self._entry.is_admitted:
            message = f"{self._entry.registry} is not registered, and only registered hosts are reached"
            raise make_error(message, context, code="host_not_allowed")
        if not self._entry.is_readable:
            message = (
                f"the secrets of the entry {self._entry.name} can't be opened: enter them again, or bring back the key"
            )
            raise make_error(message, context, code="secret_unreadable")
        if authorization := request.headers.get("Authorization"):
            self.note_sent(authorization)
        self._in_flight += 1
        begun = monotonic()
        try:
            trust = self.trust.trust_of(request.url)
            if self._entry.proxy:
                self._check_behind_proxy(request.url.host, trust)
            response = await self._connections(trust).send(request, self._landed)
        except BaseException as error:
            self._count(request.method, "error", seconds=monotonic() - begun)
            self._landed()
            if isinstance(error, PrivateAddressError):
                message = f"{error.message}; {self.trust.advice(request.url)}"
                raise make_error(message, context, code="host_not_allowed") from error
            if isinstance(error, HostRefusedError):
                raise make_error(error.message, context, code="host_not_allowed") from error
            if isinstance(error, CONNECTION_ERRORS):
                raise error_of_exception(error, context) from error
            raise
        self._count(request.method, str(response.status), seconds=monotonic() - begun)
        return response

    async def read(self, response: StreamingResponse, context: ErrorContext, *, limit: int) -> bytes:
        """Read a whole body of bounded size, and close it; raise `RegistryError`.

        `limit_exceeded` for a longer one, `timeout` for one that comes too slowly.
        """
        if response.is_read:
            return b""
        parts: list[Piece] = []
        size, settings, begun = 0, self.settings, monotonic()
        guard = TrickleGuard(seconds=settings.page_trickle_seconds, bytes_per_second=settings.trickle_bytes_per_second)
        seen_at = begun
        try:
            while part := await response.read():
                size += len(part)
                if size > limit:
                    raise _too_long(context, limit)
                before, seen_at = seen_at, monotonic()
                if guard.is_too_slow(waited=seen_at - before, size=len(part)):
                    raise too_slow(context, guard.bytes_per_second)
                if seen_at - begun > settings.body_seconds:
                    message = f"{context.registry} did not send {limit} bytes at most in {settings.body_seconds:g} s"
                    raise make_error(message, context, code="timeout", temporary=True)
                parts.append(part)
        except CONNECTION_ERRORS as error:
            raise error_of_exception(error, context) from error
        finally:
            response.close()
        return _inflate(b"".join(parts), response.headers, context=context, limit=limit)

    async def collect(self, response: StreamingResponse, context: ErrorContext) -> Response:
        """Read an answer of which little is wanted: an error, a confirmation. What is too long is left unread.

        The entry's secrets are taken out of errors, since those are shown.
        """
        try:
            body = await self.read(response, context, limit=MAX_ERROR_BYTES)
        except RegistryError as error:
            if error.code != "limit_exceeded":
                raise
            body = b""
        is_shown = body and response.status >= _CLIENT_ERROR
        return self.whole(response, self.echo_guard.clean_body(body) if is_shown else body)

    def whole(self, response: StreamingResponse, body: bytes) -> Response:
        """Return an answer with its body, which was read."""
        return Response(response.status, response.headers, body, response.url, self.trust_of(response.url))

    def note_sent(self, authorization: str) -> None:
        """Note a value of an `Authorization` header, or what is sent in a form as one, to be taken out of answers."""
        self._sent[authorization] = None
        if len(self._sent) > MAX_SENT:
            self._sent.popitem(last=False)

    @property
    def echo_guard(self) -> EchoGuard:
        """What takes the secrets of the entry, and those that were sent, out of what the registry says."""
        return EchoGuard(self._entry, self._sent)

    def trust_of(self, url: Url) -> HostTrust:
        """Place a URL."""
        return self.trust.trust_of(url)

    def retire(self) -> None:
        """Keep no connections beyond the requests that are under way: the entry was changed, or is not in use."""
        self._is_retired = True
        if not self._in_flight:
            self.close()

    def close_idle(self, seconds: float) -> None:
        """Close every connection, and forget what they are made with, if none was used for so long."""
        if not self._in_flight and monotonic() - self._idle_since >= seconds:
            self.close()

    def close(self) -> None:
        """Close every connection; the next request makes new ones."""
        existing, self._pools = self._pools, {}
        for connections in existing.values():
            connections.close()

    def _landed(self) -> None:
        self._in_flight -= 1
        self._idle_since = monotonic()
        if self._is_retired and not self._in_flight:
            self.close()

    def _count(self, method: str, code: str, *, seconds: float) -> None:
        _requests(self._entry.label, method, code).inc()
        _seconds(self._entry.label, method).inc(seconds)

    def _connections(self, trust: HostTrust) -> Connections:
        if trust not in self._pools:
            # Through a proxy, the address to check is the proxy's own, which an operator entered.
            is_known = self._entry.is_registered and trust is not HostTrust.STRANGER
            proxy = ProxyRoute.parse(self._entry.proxy) if self._entry.proxy else None
            settings = self.settings
            self._pools[trust] = Connections(
                Dialer(self._rules, is_registered=is_known or proxy is not None),
                make_context=partial(make_context, self._entry, trust),
                keep_alive_seconds=KEEP_ALIVE_SECONDS,
                user_agent=settings.user_agent,
                timeouts=Timeouts(
                    connect=settings.connect_seconds,
                    answer=settings.answer_seconds,
                    idle=settings.idle_seconds,
                    trickle=settings.trickle_seconds,
                    trickle_bytes_per_second=settings.trickle_bytes_per_second,
                ),
                proxy=proxy,
                certificate_ends=self._certificate_ends,
            )
        return self._pools[trust]

    def _check_behind_proxy(self, host: str, trust: HostTrust) -> None:
        # The proxy resolves names, so it has to judge them; what their spelling says can be judged here.
        self._rules.check_unresolved(host, is_registered=self._entry.is_registered and trust is not HostTrust.STRANGER)


@lru_cache(maxsize=1024)
def _requests(registry: str, method: str, code: str) -> Any:
    """Find a counter among all; looking it up by its labels costs as much as writing a request's head."""
    return REGISTRY_REQUESTS.labels(registry, method, code)


@lru_cache(maxsize=1024)
def _seconds(registry: str, method: str) -> Any:
    return REGISTRY_SECONDS.labels(registry, method)


def _inflate(body: bytes, headers: Mapping[str, str], *, context: ErrorContext, limit: int) -> bytes:
    """Undo a `Content-Encoding` that was not asked for (some proxies insist), never to more than the limit."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in {"identity", ""} or not body:
        return body
    if encoding not in _INFLATE:
        message = f"{context.registry} sent an encoding that was not asked for"
        raise make_error(message, context, code="registry_unreachable")
    try:
        inflated = zlib.decompressobj(_INFLATE[encoding]).decompress(body, limit + 1)
    except zlib.error as error:
        message = f"{context.registry} sent a damaged answer"
        raise make_error(message, context, code="registry_unreachable", temporary=True) from error
    if len(inflated) > limit:
        raise _too_long(context, limit)
    return inflated


def _too_long(context: ErrorContext, limit: int) -> RegistryError:
    return make_error(f"{context.registry} sent more than {limit} bytes", context, code="limit_exceeded")
