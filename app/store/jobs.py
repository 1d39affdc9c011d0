"""Jobs: added, found, listed, and held for a change.

Whoever changes anything of a job, its images and units included, holds the job's row first (`hold`): so all changes of
a job come one after another, its counts and its version can be worked out from what was there, and nobody deadlocks.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import NotFoundError
from app.domain.job import Job, JobFilter, JobState
from app.store.job_rows import HELD_COLUMNS, HeldJob, changed_columns, held_job_of, job_of, new_row
from app.store.paging import Page, PageRequest, SortKey, cursor_after
from app.store.tables import JobLabelRow, JobRow, table_of

_jobs = table_of(JobRow)
_labels = table_of(JobLabelRow)
# Made once: they are wide, and executed all the time.
_ADD = insert(_jobs).returning(_jobs.c.id, _jobs.c.number)
_FIND = select(_jobs).where(_jobs.c.id == bindparam("job_id"))
_HOLD = select(*HELD_COLUMNS).where(_jobs.c.id == bindparam("job_id")).with_for_update()
_SAVE = update(_jobs).where(_jobs.c.number == bindparam("of_number"))


class JobStore:
    """Jobs in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, job: Job) -> int:
        """Add a job and return its number."""
        (number,) = await self.add_all([job])
        return number

    async def add_all(self, jobs: Sequence[Job]) -> list[int]:
        """Add jobs and return their numbers."""
        rows = await self._session.execute(_ADD, [new_row(job) for job in jobs])
        by_id = {row.id: row.number for row in rows}
        numbers: list[int] = [by_id[job.id] for job in jobs]
        labels = [
            {"job_number": number, "key": key, "value": value, "created_at": job.created_at}
            for number, job in zip(numbers, jobs, strict=True)
            for key, value in job.labels.items()
        ]
        if labels:
            await self._session.execute(insert(_labels), labels)
        return numbers

    async def find(self, job_id: str) -> Job | None:
        """Read a job."""
        if not is_id(job_id):
            return None
        row = (await self._session.execute(_FIND, {"job_id": job_id})).one_or_none()
        return None if row is None else job_of(row)

    async def get(self, job_id: str) -> Job:
        """Read a job; raise `NotFoundError`."""
        job = await self.find(job_id)
        if job is None:
            raise _no_such_job(job_id)
        return job

    async def get_watched(self, job_id: str) -> tuple[Job, int]:
        """Read a job, and the version in which anything but its progress changed last; raise `NotFoundError`."""
        row = (await self._session.execute(_FIND, {"job_id": job_id})).one_or_none()
        if row is None:
            raise _no_such_job(job_id)
        return job_of(row), row.state_version

    async def get_number(self, job_id: str) -> int:
        """Read a job's number; raise `NotFoundError`."""
        statement = select(_jobs.c.number).where(_jobs.c.id == job_id)
        number = (await self._session.execute(statement)).scalar_one_or_none() if is_id(job_id) else None
        if number is None:
            raise _no_such_job(job_id)
        return int(number)

    async def list(self, wanted: JobFilter, page: PageRequest) -> Page[Job]:
        """Read a page of jobs, newest first."""
        bound_to = repr(wanted)
        rows = (await self._session.execute(_listing(wanted, page.limit, page.after(bound_to)))).all()
        items = tuple(job_of(row) for row in rows[: page.limit])
        if len(rows) <= page.limit:
            return Page(items)
        last = rows[page.limit - 1]
        return Page(items, cursor_after((last.created_at.isoformat(), last.number), bound_to=bound_to))

    async def list_versions(self, job_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of the jobs there are among these."""
        statement = select(_jobs.c.id, _jobs.c.version).where(_jobs.c.id.in_(job_ids))
        return {row.id: row.version for row in await self._session.execute(statement)}

    async def list_done_before(self, moment: datetime, *, limit: int) -> tuple[str, ...]:
        """Name jobs that ended before a moment, in any order."""
        done = _jobs.c.state.in_([state for state in JobState if state.done])
        ended = done & (_jobs.c.finished_at < moment) & (_jobs.c.created_at < moment)  # the latter has the index
        statement = select(_jobs.c.id).where(ended).limit(limit)
        return tuple((await self._session.execute(statement)).scalars())

    async def hold(self, job_id: str) -> HeldJob:
        """Hold a job for a change; raise `NotFoundError`."""
        if is_id(job_id):
            row = (await self._session.execute(_HOLD, {"job_id": job_id})).one_or_none()
            if row is not None:
                return held_job_of(row)
        raise _no_such_job(job_id)

    async def save(self, job: HeldJob) -> None:
        """Put back a held job."""
        await self._session.execute(_SAVE, {"of_number": job.number, **changed_columns(job)})

    async def delete(self, number: int) -> None:
        """Remove a job with whatever is left of its units and images."""
        await self._session.execute(delete(_jobs).where(_jobs.c.number == number))


def is_id(text: str) -> bool:
    """Say whether a text has the form of our ids; only then may a column of ids be asked for it."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _listing(wanted: JobFilter, limit: int, after: SortKey | None) -> Select[Any]:
    statement = select(_jobs)
    created_at, number = _jobs.c.created_at, _jobs.c.number
    if wanted.label is not None:
        created_at, number = _labels.c.created_at, _labels.c.job_number
        statement = statement.join(_labels, _labels.c.job_number == _jobs.c.number)
        statement = statement.where(_labels.c.key == wanted.label[0], _labels.c.value == wanted.label[1])
    if wanted.state is not None:
        statement = statement.where(_jobs.c.state == wanted.state)
    if wanted.policy is not None:
        statement = statement.where(_jobs.c.policy == wanted.policy)
    if wanted.since is not None:
        statement = statement.where(created_at >= wanted.since)
    if after is not None:
        last_created_at = datetime.fromisoformat(str(after[0]))
        statement = statement.where(tuple_(created_at, number) < tuple_(last_created_at, int(after[1])))
    return statement.order_by(created_at.desc(), number.desc()).limit(limit + 1)


def _no_such_job(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id[:64]!r}")
