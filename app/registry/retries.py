"""Trying again: what is temporary and may be repeated, later and later, with jitter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

from app.domain.errors import RegistryError
from app.registry.limits import RoadSettings
from app.registry.pressure import Pressure

T = TypeVar("T")
_JITTER_SHARE = 1.0
"""Jitter of up to the first wait again: two workers that failed together do not come back together."""


class Retries:
    """The patience with one registry."""

    def __init__(self, settings: RoadSettings, pressure: Pressure) -> None:
        self._settings = settings
        self._pressure = pressure
        self._is_down = False
        """Nobody answers there: until somebody does, one try each is enough to see whether that is still so."""
        self._was_alive = False

    @property
    def longest_pause(self) -> float:
        """How long a pause is waited for; less by who holds another registry's slots meanwhile."""
        settings = self._settings
        return settings.slot_patience_seconds if self._pressure.covers_this_task() else settings.pause_max_seconds

    def answered(self) -> None:
        """Note that the registry is there."""
        self._is_down = False
        self._was_alive = True

    async def run(self, once: Callable[[], Awaitable[T]], *, may_repeat: Callable[[], bool]) -> T:
        """Return what `once` returns, or raise its last error; rate limits are borne longer than failures.

        An error that was `given_up` is not for anybody further up to repeat soon.
        """
        settings = self._settings
        most = max(settings.attempts, settings.rate_limit_attempts)
        tries = failures = 0

        def may_help(error: Exception) -> bool:
            nonlocal tries, failures
            if not isinstance(error, RegistryError) or not error.temporary or not may_repeat():
                return False
            if error.retry_after is not None and error.retry_after > self.longest_pause:
                return False
            tries += 1
            failures += error.code != "rate_limited"
            error.was_alive = self._was_alive
            error.given_up = tries == most or failures >= settings.attempts or bool(failures and self._is_down)
            if failures >= settings.attempts:
                self._is_down = error.status is None
            return not error.given_up

        try:
            return await once()  # nearly always enough, and getting patience ready costs as much as a small request
        except RegistryError as error:
            first = error
        async for attempt in stamina.retry_context(
            on=may_help,
            attempts=most,
            timeout=None,
            wait_initial=settings.retry_first_seconds,
            wait_max=settings.retry_max_seconds,
            wait_jitter=settings.retry_first_seconds * _JITTER_SHARE,
        ):
            with attempt:
                if attempt.num == 1:
                    raise first
                return await once()
        raise AssertionError  # the last attempt returned or raised
