"""Console sessions: an API key, or an identity provider's token, sealed into a cookie for some hours.

There is no table of sessions: the cookie holds the key itself, sealed (see `app.security`), and each request
authenticates it. A key that is revoked ends its sessions at once, a token with its own end, and every process knows
every session.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

from app.domain.access import Caller
from app.domain.errors import AccessError, UnavailableError
from app.security import Sealer
from app.services.api_keys import ApiKeyService

LIFETIME = timedelta(hours=12)
MAX_COOKIE_BYTES = 3_800
"""Browsers keep 4,096 bytes of a cookie, its name and attributes included (RFC 6265 6.1)."""
_CONTEXT = "console/session"


class ConsoleSessionService:
    """Open console sessions and tell whose they are.

    - `sealer`: seals keys into cookies, and opens them
    - `now`: the clock, in UTC
    """

    def __init__(self, keys: ApiKeyService, sealer: Sealer, *, now: Callable[[], datetime]) -> None:
        self._keys = keys
        self._sealer = sealer
        self._now = now

    async def open(self, key: str, *, address: str | None) -> str:
        """Return the text of a new session's cookie; raise `AccessError` for a key that is not known.

        A token that makes a longer cookie than browsers keep is an `AccessError` too.
        """
        caller = await self._keys.authenticate(key, address=address)
        ends = self._now() + LIFETIME
        ends = min(ends, caller.expires_at or ends)
        cookie = self._sealer.seal(json.dumps([int(ends.timestamp()), key]), context=_CONTEXT)
        if len(cookie) > MAX_COOKIE_BYTES:
            raise AccessError(
                f"the token is too long to log in with: its cookie would have {len(cookie)} bytes, and browsers keep "
                f"no more than {MAX_COOKIE_BYTES}; ask for one with fewer claims, or log in with an API key"
            )
        return cookie

    async def authenticate(self, cookie: str, *, address: str | None) -> Caller:
        """Return the caller of a session; raise `AccessError` for one that has ended, or a key that was revoked."""
        try:
            ends_at, key = json.loads(self._sealer.unseal(cookie, context=_CONTEXT))
        except (UnavailableError, ValueError) as error:
            raise AccessError("this is no session of this service") from error
        if self._now().timestamp() >= ends_at:
            raise AccessError("the session has ended; log in again")
        return await self._keys.authenticate(key, address=address)
