"""Concurrency groups: jobs of one group run one after another, in the order they were accepted."""

from __future__ import annotations

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import JobState
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow
from app.store.tables.policies import ConcurrencyGroupRow

_groups = table_of(ConcurrencyGroupRow)
_jobs = table_of(JobRow)
_UNFINISHED = _jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING])


class ConcurrencyGroupStore:
    """Concurrency groups in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def join(self, group: str, job_number: int) -> None:
        """Put a job at the end of a concurrency group; those that are done leave it."""
        through = select(_jobs.c.number).where(_jobs.c.number == _groups.c.job_number, ~_UNFINISHED).exists()
        await self._session.execute(delete(_groups).where(_groups.c.concurrency_group == group, through))
        await self._session.execute(insert(_groups), {"job_number": job_number, "concurrency_group": group})

    async def list_waiting(self, group: str) -> tuple[str, ...]:
        """List the ids of the group's jobs that have not begun, the last first."""
        waiting = (
            (_groups.c.concurrency_group == group) & (_jobs.c.state == JobState.QUEUED) & ~_jobs.c.cancel_requested
        )
        statement = select(_jobs.c.id).join(_groups, _groups.c.job_number == _jobs.c.number).where(waiting)
        return tuple((await self._session.execute(statement.order_by(_jobs.c.number.desc()))).scalars())

    async def is_free_for(self, job_number: int) -> bool:
        """Return whether no earlier job of its group is still to end; a job in no group is always free."""
        mine = select(_groups.c.concurrency_group).where(_groups.c.job_number == job_number).scalar_subquery()
        earlier = (
            select(_groups.c.job_number)
            .join(_jobs, _jobs.c.number == _groups.c.job_number)
            .where(_groups.c.concurrency_group == mine, _groups.c.job_number < job_number, _UNFINISHED)
            .limit(1)
        )
        return (await self._session.execute(earlier)).first() is None
