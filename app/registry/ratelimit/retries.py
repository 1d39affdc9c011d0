"""Retries of requests: temporary errors of what may be repeated, with exponential backoff and jitter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from app.concurrency import back_off
from app.domain.errors import RegistryError
from app.registry.limits import ClientSettings
from app.registry.ratelimit.window import ConcurrencyWindow

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Retries:
    """Retries of requests to one registry, with exponential backoff and jitter.

    - `settings`: the retry policy (5 attempts, 0.5 to 20 s apart), and attempts of what is rate limited (10)
    - `window`: the registry's pauses
    """

    settings: ClientSettings
    window: ConcurrencyWindow
    is_down: bool = False
    """The registry does not respond: until it does, one attempt each is enough to see whether that is still so."""
    was_alive: bool = False
    """Whether it has responded, ever."""

    @property
    def longest_pause(self) -> float:
        """How long a pause is waited for; less by who holds another registry's slots meanwhile."""
        settings = self.settings
        return settings.permit_pause_max_seconds if self.window.covers_this_task() else settings.retry_policy.max_pause

    async def go_on(
        self, first: RegistryError, once: Callable[[], Awaitable[T]], *, may_repeat: Callable[[], bool]
    ) -> T:
        """Return what `once` returns after a first try that failed, or raise the last error.

        Rate limits are borne longer than failures. An error that was `retries_exhausted` is not to be repeated soon
        further up. The first try is the caller's: it is nearly always enough, and getting ready for more costs as
        much as a small request.
        """
        policy = self.settings.retry_policy
        most = max(policy.attempts or 0, self.settings.rate_limit_attempts)
        tries = failures = 0

        def may_help(error: RegistryError) -> bool:
            nonlocal tries, failures
            if not error.temporary or not may_repeat():
                return False
            if error.retry_after is not None and error.retry_after > self.longest_pause:
                return False
            tries += 1
            failures += error.code != "rate_limited"
            error.registry_responded = self.was_alive
            is_last = not policy.allows(failures)
            error.retries_exhausted = tries == most or is_last or bool(failures and self.is_down)
            if is_last:
                self.is_down = error.status is None
            return not error.retries_exhausted

        error = first
        while may_help(error):
            _log.info(
                "request_retried", registry=error.registry, operation=error.operation, code=error.code, attempt=tries
            )
            await back_off(policy, tries)
            try:
                return await once()
            except RegistryError as failure:
                error = failure
        raise error
