"""Rate limit headers, and what a window remembers of a registry for operators and errors.

`RateLimit-Remaining` says how many requests are left (IETF draft), and until when.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.domain.errors import RegistryError
from app.domain.registry_state import LastErrorState, QuotaState, RegistryState
from app.net.http_headers import seconds_until

_VALUE = re.compile(r"\s*(\d{1,12})\s*(?:;.*?\bw\s*=\s*(\d{1,9}))?")
_LEFT = re.compile(r";\s*r=(\d{1,12})\b")
_UNTIL = re.compile(r";\s*t=(\d{1,12})\b")
"""Of `RateLimit: "default";r=50;t=30`; searched one after the other, as one they take the square of the length."""
QUOTA_HEADERS = frozenset({"ratelimit", "ratelimit-remaining", "x-ratelimit-remaining"})
"""An answer with none of these says nothing about a rate limit."""
_PREFIXES = ("ratelimit-", "x-ratelimit-")
_RESERVE_SHARE = 20
"""One in twenty is kept: others behind the same address, people with `docker pull` among them, go on working."""
_MAX_BELIEF_SECONDS = 900.0
_ROUNDING_SECONDS = 1.0
"""Whole seconds are mostly rounded down."""
_MISSING = frozenset({"reference_not_found", "repository_missing"})


@dataclass(slots=True)
class Quota:
    """What was left when it was last said; it is only believed for a while, so that a mistake mends itself."""

    remaining: int | None = None
    limit: int | None = None
    ends_at: float = 0.0
    """When it is asked again, on the clock of `seen` calls."""
    counts_pulls: bool = False
    """Docker Hub counts manifest GETs only, and shows the window (`100;w=21600`) rather than its end."""

    def see(self, headers: Mapping[str, str], *, now: float, wall_now: float) -> None:
        """Take in an answer's headers; `now` is the clock waits are made on, `wall_now` seconds since 1970."""
        found = _read(headers)
        if found is None:
            return
        self.remaining, self.limit, seconds, self.counts_pulls = found
        if not self.counts_pulls:
            seconds = seconds_until(seconds, wall_now) + _ROUNDING_SECONDS
        self.ends_at = now + min(seconds, _MAX_BELIEF_SECONDS)

    def wait_seconds(self, *, now: float, is_pull: bool) -> float:
        """Return how long a request has to wait so that the last ones are kept; 0 for none."""
        if self.remaining is None or now >= self.ends_at or (self.counts_pulls and not is_pull):
            return 0.0
        return self.ends_at - now if self.remaining <= self._reserve() else 0.0

    def _reserve(self) -> int:
        return max(1, (self.limit or 0) // _RESERVE_SHARE)


@dataclass(slots=True)
class WindowNotes:
    """Why a registry is paused, and what failed last."""

    pause_reason: str = "it asked for a pause"
    last_error: LastErrorState | None = None

    def note_error(self, error: RegistryError, *, now: datetime) -> None:
        """Remember a request that failed, but not what is simply not there."""
        if error.code not in _MISSING:
            self.last_error = LastErrorState(error.code, error.message, error.status, now)

    def show(self, window: int, in_flight: int, *, paused_until: datetime | None, quota: Quota) -> RegistryState:
        """Return what operators are shown."""
        left = None
        if quota.remaining is not None and asyncio.get_running_loop().time() < quota.ends_at:
            left = QuotaState(quota.remaining, quota.limit)
        reason = self.pause_reason if paused_until else None
        return RegistryState(window, in_flight, paused_until, reason, left, self.last_error)


def rate_limited(registry: str, seconds: float) -> RegistryError:
    """Make the error for a pause that is longer than is waited for where it is met."""
    return RegistryError(
        f"{registry} asked to be left alone for {round(seconds)} seconds",
        registry=registry,
        operation="wait",
        code="rate_limited",
        temporary=True,
        retry_after=seconds,
    )


def _read(headers: Mapping[str, str]) -> tuple[int, int | None, float, bool] | None:
    """Return what is left, of how much, until when (or for how long), and whether it is Docker Hub's way to say so."""
    structured = headers.get("ratelimit", "")
    if (left := _LEFT.search(structured)) and (until := _UNTIL.search(structured, left.end())):
        return int(left[1]), None, float(until[1]), False
    found = next((prefix for prefix in _PREFIXES if f"{prefix}remaining" in headers), "")
    remaining, limit, reset = (
        _VALUE.match(headers.get(f"{found}{name}", "")) for name in ("remaining", "limit", "reset")
    )
    if not found or remaining is None:
        return None
    of = int(limit[1]) if limit else None
    if reset is not None:
        return int(remaining[1]), of, float(reset[1]), False
    return int(remaining[1]), of, float(remaining[2] or _MAX_BELIEF_SECONDS), True
