"""What a registry says about its limits: when to come back, and what is left (`RateLimit-Remaining`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_VALUE = re.compile(r"\s*(\d{1,12})\s*(?:;.*?\bw\s*=\s*(\d{1,9}))?")
_STRUCTURED = re.compile(r";\s*r=(\d{1,12})\b.*?;\s*t=(\d{1,12})\b")
_PREFIXES = ("ratelimit-", "x-ratelimit-")
_KEPT_SHARE = 20
"""One in twenty is kept: others behind the same address, people with `docker pull` among them, go on working."""
_EPOCH = 1_000_000_000
"""A reset beyond this is a moment (GitLab, GHCR), below it a number of seconds (IETF drafts)."""
_MAX_BELIEF_SECONDS = 900.0
_ROUNDING_SECONDS = 1.0
"""Whole seconds are mostly rounded down."""


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
        told = _read(headers)
        if told is None:
            return
        self.remaining, self.limit, seconds, self.counts_pulls = told
        if not self.counts_pulls:
            seconds = _seconds_until(seconds, wall_now) + _ROUNDING_SECONDS
        self.ends_at = now + min(seconds, _MAX_BELIEF_SECONDS)

    def wait_seconds(self, *, now: float, is_pull: bool) -> float:
        """Say how long a request has to wait so that the last ones are kept; 0 for none."""
        if self.remaining is None or now >= self.ends_at or (self.counts_pulls and not is_pull):
            return 0.0
        return self.ends_at - now if self.remaining <= self._kept() else 0.0

    def _kept(self) -> int:
        return max(1, (self.limit or 0) // _KEPT_SHARE)


def _read(headers: Mapping[str, str]) -> tuple[int, int | None, float, bool] | None:
    """Return what is left, of how much, until when (or for how long), and whether it is Docker Hub's way to say so."""
    if one := _STRUCTURED.search(headers.get("ratelimit", "")):
        return int(one[1]), None, float(one[2]), False
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


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Read `Retry-After`: seconds or a date (RFC 9110 10.2.3); None where there is none to understand."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d+)?", text):
        return _seconds_until(float(text), now.timestamp())
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _seconds_until(reset: float, wall_now: float) -> float:
    return max(0.0, reset - wall_now) if reset > _EPOCH else reset
