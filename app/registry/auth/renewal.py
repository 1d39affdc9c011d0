"""Logins that end: renewed ahead of time with jitter, one renewal at a time (single-flight) for all that wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.domain.errors import RegistryError
from app.domain.registry_state import LastErrorState, LoginState
from app.registry.auth.credentials import Login

_log = structlog.get_logger(__name__)
_AHEAD = (0.7, 0.9)
"""A login is renewed between these shares of its life: workers that got theirs together do not ask together again."""
_SHORTEST, _LONGEST = timedelta(minutes=5), timedelta(hours=12)
"""What is believed of an expiry: one in the past, or never, is a server's mistake; a 401 renews before it anyway."""
_READ_AGAIN = timedelta(minutes=1)
"""How long a login is used that says no end, such as that of a file which may change."""
_PAUSE = timedelta(seconds=5)
"""After a failed renewal the next one is this far away, however many requests want it."""


@dataclass(frozen=True, slots=True)
class RenewableLogin:
    """A login as its issuer gave it, and when the issuer says that it ends (UTC); None: it does not say.

    `shortest`: what is believed of an expiry at least.
    """

    login: Login
    ends_at: datetime | None
    shortest: timedelta = _SHORTEST


class LoginRenewal:
    """The login of one entry's identity, asked for anew before it ends.

    - `fetch`: asks for one; raises `RegistryError`
    - `clock`: the time, in UTC

    While the issuer is down the login in hand is used as long as it lasts; without one the issuer's error is raised,
    and where that is temporary its job waits.
    """

    def __init__(self, fetch: Callable[[], Awaitable[RenewableLogin]], *, clock: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._login: Login | None = None
        self._asked_at = self._renew_at = self._ends_at = self._not_before = clock()
        self._is_end_known = False
        self._failure: RegistryError | None = None
        self._failed_at = self._asked_at
        self._renewing_since: datetime | None = None
        self._renewal: asyncio.Task[Login | RegistryError] | None = None

    @property
    def latest(self) -> Login | None:
        """The login got last; None before the first, and after one was refused."""
        return self._login

    @property
    def ends_at(self) -> datetime | None:
        """When the login got last ends (UTC), as far as its issuer is believed; None before the first, or unsaid."""
        return self._ends_at if self._login is not None and self._is_end_known else None

    @property
    def state(self) -> LoginState:
        """What operators are shown of it, but for its type."""
        failure = self._failure
        error = LastErrorState(failure.code, failure.message, failure.status, self._failed_at) if failure else None
        return LoginState("", self.ends_at, self._renewing_since, error)

    async def get(self) -> Login:
        """Return a login that has not ended; raise `RegistryError` where none can be had."""
        now = self._clock()
        if self._login is not None and now < self._renew_at:
            return self._login
        is_usable = self._login is not None and now < self._ends_at
        if self._failure is not None and now < self._not_before:
            if is_usable and self._login is not None:
                return self._login
            raise self._failure.copied()
        if self._renewal is None:
            self._renewing_since = self._renewing_since or now
            self._renewal = asyncio.create_task(self._renew())
            self._renewal.add_done_callback(self._ended)
        if is_usable and self._login is not None:
            return self._login
        # Shielded: a caller that is cancelled must not take the login from all the others.
        got = await asyncio.shield(self._renewal)
        if isinstance(got, RegistryError):
            raise got.copied()
        return got

    def refuse(self, login: Login, *, unless_younger: timedelta) -> bool:
        """Drop a login that was not taken, so that the next one is asked for; return whether that is worth it."""
        if login != self._login:
            return True
        if self._asked_at > self._clock() - unless_younger:
            return False
        self._login = None
        return True

    async def aclose(self) -> None:
        """Cancel a renewal that no caller waits for any more."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _renew(self) -> Login | RegistryError:
        """Ask for a login; return the error where there is none, for each that waits to raise its own."""
        asked_at = self._clock()
        try:
            got = await self._fetch()
        except RegistryError as error:
            self._failure, self._failed_at = error, self._clock()
            self._not_before = self._failed_at + _PAUSE
            _log.warning("login_not_renewed", registry=error.registry, code=error.code, reason=error.message)
            return error
        life = _READ_AGAIN if got.ends_at is None else min(max(got.ends_at - asked_at, got.shortest), _LONGEST)
        self._is_end_known = got.ends_at is not None
        self._login, self._failure, self._renewing_since = got.login, None, None
        self._asked_at, self._ends_at = asked_at, asked_at + life
        self._renew_at = asked_at + life * random.uniform(*_AHEAD)  # noqa: S311 — spreads load, guards nothing
        return got.login

    def _ended(self, renewal: asyncio.Task[Login | RegistryError]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # looked at, even when nobody waits any more
