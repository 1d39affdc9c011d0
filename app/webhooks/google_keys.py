"""Keys that an OpenID issuer signs with: fetched when a token names an unknown one, and cached.

A sender's request does not wait for them long: it is asked to come again, and finds them here then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping

import httpcore

from app.domain.errors import HookError, UnavailableError
from app.net.address_guard import AddressRules, Dialer, HostRefusedError, shared_tls_context
from app.observability import get_logger
from app.webhooks.google_tokens import SigningKey, key_id, read_keys

FETCH_SECONDS = 10.0
ANSWER_SECONDS = 0.2
"""How much of a sender's time fetching may take."""
REFRESH_SECONDS = 60.0
"""An unknown key is asked for this often at most: any sender can invent a token."""
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_ISSUERS = 100
_DISCOVERY = "/.well-known/openid-configuration"

log = get_logger(__name__)


class GoogleKeys:
    """Keys by issuer. Issuers are set by operators, so their hosts are let through like registered ones.

    - `rules`: the SSRF guard
    - `monotonic`: seconds, for how often an issuer is asked
    """

    def __init__(self, rules: AddressRules, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=shared_tls_context(),
            max_keepalive_connections=0,
            network_backend=Dialer(rules, is_registered=True),
        )
        self._monotonic = monotonic
        self._keys: dict[str, dict[str, SigningKey]] = {}
        self._asked_at: dict[str, float] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        """Stop fetching."""
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        await self._pool.aclose()

    async def find(self, token: str, *, issuer: str, seconds: float = ANSWER_SECONDS) -> Mapping[str, SigningKey]:
        """Return an issuer's keys, fetched anew when the token's is not among them; raise `UnavailableError`.

        - `seconds`: how long to wait for them
        """
        kid = key_id(token)
        known = self._keys.get(issuer, {})
        if kid is None or kid in known:
            return known
        last = self._asked_at.get(issuer)
        if issuer not in self._fetching and (last is None or self._monotonic() - last >= REFRESH_SECONDS):
            self._begin(issuer)
        if (task := self._fetching.get(issuer)) is not None:
            await asyncio.wait({task}, timeout=seconds)
        if issuer in self._fetching or issuer not in self._keys:
            raise UnavailableError("the issuer's keys are being fetched", code="unavailable")
        return self._keys[issuer]

    def _begin(self, issuer: str) -> None:
        while len(self._asked_at) >= MAX_ISSUERS:
            oldest = next(iter(self._asked_at))
            del self._asked_at[oldest]
            self._keys.pop(oldest, None)
        self._asked_at[issuer] = self._monotonic()
        task = self._fetching[issuer] = asyncio.create_task(self._fetch(issuer))
        task.add_done_callback(lambda _: self._fetching.pop(issuer, None))

    async def _fetch(self, issuer: str) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                description = json.loads(await self._get(issuer.rstrip("/") + _DISCOVERY))
                self._keys[issuer] = read_keys(await self._get(str(description["jwks_uri"])))
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            HookError,
            HostRefusedError,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
        ) as error:
            log.warning("issuer_keys_not_fetched", issuer=issuer, reason=type(error).__name__)

    async def _get(self, url: str) -> bytes:
        body = bytearray()
        async with self._pool.stream("GET", url, headers=[("Accept", "application/json")]) as answer:
            async for piece in answer.aiter_stream():
                body += piece
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ValueError("a larger document than an issuer has")
            if answer.status != 200:  # noqa: PLR2004 — HTTP's own word for it
                raise ValueError(f"the issuer answered {answer.status}")
        return bytes(body)
