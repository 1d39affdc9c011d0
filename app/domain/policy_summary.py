"""A policy's day in short: what its runs came to, and when such days end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from app.domain.policy import StoredPolicy
from app.domain.report import FailureCount

FIRST_FAILURES = 5
"""A summary has so many; the jobs have the rest."""


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What came of runs that ended within a day."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    images_copied: int = 0
    images_up_to_date: int = 0
    images_failed: int = 0
    bytes_transferred: int = 0
    failures: tuple[FailureCount, ...] = ()
    """Of the latest that failed, at most `FIRST_FAILURES`."""

    @property
    def total(self) -> int:
        """How many runs ended."""
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """What there is to say of a policy once a day."""

    stored: StoredPolicy
    day: SummaryDay
    runs: RunCounts


@dataclass(frozen=True, slots=True)
class SummaryDay:
    """The day that is summed up: the 24 hours, by the clock of its zone, that ended last."""

    date: date
    """On which it ended: one summary goes by this date, whatever the settings are changed to meanwhile."""
    since: datetime
    until: datetime


def last_summary_day(now: datetime, *, at: time, zone: ZoneInfo) -> SummaryDay:
    """Return the day that ended last, at a time of the clock in a zone."""
    ends_on = now.astimezone(zone).date()
    if _moment(ends_on, at, zone) > now:
        ends_on -= timedelta(days=1)
    return SummaryDay(ends_on, _moment(ends_on - timedelta(days=1), at, zone), _moment(ends_on, at, zone))


def _moment(day: date, at: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)
