"""How a registry stands just now: its concurrency window, its pause, its quota, and what went wrong last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class QuotaState:
    """What a registry last said is left of a rate limit (`RateLimit-Remaining`)."""

    remaining: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class LastErrorState:
    """The last request that failed, but for what is simply not there."""

    code: str
    message: str
    status: int | None
    at: datetime


@dataclass(frozen=True, slots=True)
class RegistryState:
    """How one worker process, or all of them together, stand with a registry."""

    window: int
    """How many requests at once are made at most (AIMD)."""
    in_flight: int
    paused_until: datetime | None = None
    reason: str | None = None
    """Why it is paused."""
    quota: QuotaState | None = None
    last_error: LastErrorState | None = None


def combined_state(states: Sequence[RegistryState]) -> RegistryState:
    """Add up what one or more workers say: windows and requests together, the longest pause, the last error."""
    paused = max(states, key=lambda state: state.paused_until.timestamp() if state.paused_until else 0.0)
    quotas = [state.quota for state in states if state.quota]
    errors = [state.last_error for state in states if state.last_error]
    return RegistryState(
        window=sum(state.window for state in states),
        in_flight=sum(state.in_flight for state in states),
        paused_until=paused.paused_until,
        reason=paused.reason,
        quota=min(quotas, key=lambda quota: quota.remaining, default=None),
        last_error=max(errors, key=lambda error: error.at, default=None),
    )
