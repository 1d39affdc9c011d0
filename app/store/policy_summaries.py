"""What the runs of a policy came to that ended between two times."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select

from app.domain.job import JobKind, JobState
from app.domain.policy_summary import FIRST_FAILURES, RunCounts
from app.domain.report import FailureCount
from app.store.db.database import Session
from app.store.jobs import read_error, read_failures
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow

LONGEST_RUN = timedelta(days=7)
"""A run that began longer before is not looked for: the index goes by when a job was made."""
_jobs = table_of(JobRow)
_SUMS = {
    "images_copied": _jobs.c.images_copied,
    "images_up_to_date": _jobs.c.images_up_to_date,
    "images_failed": _jobs.c.images_failed,
    "bytes_transferred": _jobs.c.bytes_transferred,
}


async def count_runs(session: Session, policy: str, *, since: datetime, until: datetime) -> RunCounts:
    """Count a policy's runs that ended from `since` to before `until`, and what they copied; plans are none."""
    ended = and_(
        _jobs.c.policy == policy,
        _jobs.c.created_at >= since - LONGEST_RUN,
        _jobs.c.created_at < until,
        _jobs.c.finished_at >= since,
        _jobs.c.finished_at < until,
        _jobs.c.kind == JobKind.COPY,
    )
    sums = [func.sum(column).label(name) for name, column in _SUMS.items()]
    rows = await session.execute(
        select(_jobs.c.state, func.count().label("runs"), *sums).where(ended).group_by(_jobs.c.state)
    )
    counted: dict[str, int] = dict.fromkeys(_SUMS, 0)
    for row in rows:
        counted[str(row.state)] = int(row.runs)
        for name in _SUMS:
            counted[name] += int(getattr(row, name) or 0)
    failures = await _first_failures(session, ended) if counted.get(JobState.FAILED) else ()
    return RunCounts(**counted, failures=failures)


async def _first_failures(session: Session, ended: ColumnElement[bool]) -> tuple[FailureCount, ...]:
    """Read what failed in the latest runs, the same at one side once, with the counts added up."""
    failed = select(_jobs.c.failures, _jobs.c.error).where(ended, _jobs.c.state == JobState.FAILED)
    rows = await session.execute(
        failed.order_by(_jobs.c.created_at.desc(), _jobs.c.number.desc()).limit(FIRST_FAILURES)
    )
    found: dict[tuple[Any, ...], FailureCount] = {}
    for row in rows:
        error = read_error(row.error)
        failures = read_failures(row.failures)
        if not failures and error is not None:
            failures = (FailureCount("listing", error.code, error.side, 1, "", "", error.message),)
        for one in failures:
            found.setdefault((one.kind, one.code, one.side), one)
    return tuple(found.values())[:FIRST_FAILURES]
