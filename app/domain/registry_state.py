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
class LoginState:
    """How one worker process, or all of them together, are logged in; nothing in it is secret."""

    type: str
    """The type of the entry's `auth`."""
    valid_until: datetime | None = None
    """When the login in hand ends; None for one that was entered, or was not asked for yet."""
    renewing_since: datetime | None = None
    """Since when a new one is asked for: long ago where its issuer does not answer."""
    last_error: LastErrorState | None = None
    """Why it was not taken or not renewed; None once it was."""


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
    login: LoginState | None = None
    """None where there is none to show, or nothing was asked of the registry yet."""
    certificate_ends_at: datetime | None = None
    """Until when its certificate is valid; None over plain http, or where no worker shook hands yet."""


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
        last_error=_latest(errors),
        login=_combined_login([state.login for state in states if state.login]),
        # The latest: one that is renewed is seen by the workers one after another.
        certificate_ends_at=max((s.certificate_ends_at for s in states if s.certificate_ends_at), default=None),
    )


def _combined_login(logins: Sequence[LoginState]) -> LoginState | None:
    """Show the login that ends first and the renewal that has lasted longest: what needs to be looked at."""
    if not logins:
        return None
    return LoginState(
        type=logins[-1].type,
        valid_until=min((login.valid_until for login in logins if login.valid_until), default=None),
        renewing_since=min((login.renewing_since for login in logins if login.renewing_since), default=None),
        last_error=_latest([login.last_error for login in logins if login.last_error]),
    )


def _latest(errors: Sequence[LastErrorState]) -> LastErrorState | None:
    return max(errors, key=lambda error: error.at, default=None)
