"""One request and one answer, nothing more: no credentials, no turns, no second try."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import httpx

from app.domain.errors import RegistryError
from app.registry.failures import Answer, Asked, failure_of_exception, make_failure
from app.registry.limits import MAX_ERROR_BYTES, RoadSettings
from app.registry.transport import RegistryTransport
from app.registry.trust import Standing, Trust
from app.registry.url import Origin, Url
from app.security import HostRefusedError

Content = bytes | AsyncIterable[bytes] | None
_INFLATE = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request as it goes out."""

    method: str
    url: Url
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: Content = field(default=None, repr=False)
    length: int = 0
    """Of a streamed content."""
    answer_seconds: float | None = None


class Wire:
    """Sends requests of one registry entry and tells failures in the contract's words."""

    def __init__(self, transport: RegistryTransport, trust: Trust, settings: RoadSettings) -> None:
        self._transport = transport
        self.trust = trust
        self.settings = settings

    async def send(self, sent: Sent, asked: Asked) -> httpx.Response:
        """Return the head of the answer, its body still to come; the caller closes it. Raise `RegistryError`."""
        settings = self.settings
        timeouts = {
            "connect": settings.connect_seconds,
            "read": sent.answer_seconds or settings.answer_seconds,
            "write": settings.idle_seconds,
            "pool": None,
        }
        request = httpx.Request(
            sent.method,
            _as_httpx(sent.url.origin),
            headers=self._headers(sent),
            stream=_Stream(sent.content),
            extensions={"timeout": timeouts, "url": sent.url},
        )
        try:
            response = await self._transport.handle_async_request(request)
        except HostRefusedError as error:
            raise make_failure(error.message, asked, code="host_not_allowed") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise failure_of_exception(error, asked) from error
        timeouts["read"] = settings.idle_seconds
        return response

    async def read(self, response: httpx.Response, asked: Asked, *, limit: int) -> bytes:
        """Read a whole body of bounded size, and close it; raise `RegistryError`: `limit_exceeded` for a longer one."""
        parts: list[bytes] = []
        size = 0
        try:
            async for part in response.aiter_raw():
                size += len(part)
                if size > limit:
                    raise _too_long(asked, limit)
                parts.append(part)
        except httpx.HTTPError as error:
            raise failure_of_exception(error, asked) from error
        finally:
            await response.aclose()
        return _inflate(b"".join(parts), response.headers, asked=asked, limit=limit)

    async def collect(self, response: httpx.Response, url: Url, asked: Asked) -> Answer:
        """Read an answer of which little is wanted: an error, a confirmation. What is too long is left unread."""
        try:
            body = await self.read(response, asked, limit=MAX_ERROR_BYTES)
        except RegistryError as error:
            if error.code != "limit_exceeded":
                raise
            body = b""
        return Answer(response.status_code, response.headers, body, url, self.standing(url))

    def standing(self, url: Url) -> Standing:
        """Place a URL."""
        return self.trust.standing(url)

    def _headers(self, sent: Sent) -> dict[str, str]:
        headers = {
            "Host": sent.url.authority,
            "User-Agent": self.settings.user_agent,
            "Accept-Encoding": "identity",
            **sent.headers,
        }
        if isinstance(sent.content, bytes):
            headers["Content-Length"] = str(len(sent.content))
        elif sent.content is not None or sent.method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = str(sent.length)
        return headers


class _Stream(httpx.AsyncByteStream):
    def __init__(self, content: Content) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        match self._content:
            case None:
                return
            case bytes() as whole:
                yield whole
            case parts:
                async for part in parts:
                    yield part


@lru_cache(maxsize=256)
def _as_httpx(origin: Origin) -> httpx.URL:
    # Only for where to connect; the target is sent from the request's extensions, byte for byte.
    scheme, host, port = origin
    return httpx.URL(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/")


def _inflate(body: bytes, headers: Mapping[str, str], *, asked: Asked, limit: int) -> bytes:
    """Undo a `Content-Encoding` that was not asked for (some proxies insist), never to more than the limit."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in {"identity", ""} or not body:
        return body
    if encoding not in _INFLATE:
        message = f"{asked.registry} sent an encoding that was not asked for"
        raise make_failure(message, asked, code="registry_unreachable")
    try:
        inflated = zlib.decompressobj(_INFLATE[encoding]).decompress(body, limit + 1)
    except zlib.error as error:
        message = f"{asked.registry} sent a damaged answer"
        raise make_failure(message, asked, code="registry_unreachable", temporary=True) from error
    if len(inflated) > limit:
        raise _too_long(asked, limit)
    return inflated


def _too_long(asked: Asked, limit: int) -> RegistryError:
    return make_failure(f"{asked.registry} sent more than {limit} bytes", asked, code="limit_exceeded")
