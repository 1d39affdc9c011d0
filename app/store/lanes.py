"""Lanes: jobs of one lane run one after another, in the order they were accepted."""

from __future__ import annotations

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import JobState
from app.store.policy_tables import JobLaneRow
from app.store.tables import JobRow, table_of

_lanes = table_of(JobLaneRow)
_jobs = table_of(JobRow)
_UNFINISHED = _jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING])


class LaneStore:
    """Lanes in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def join(self, lane: str, job_number: int) -> None:
        """Put a job at the end of a lane; those that are through are forgotten."""
        through = select(_jobs.c.number).where(_jobs.c.number == _lanes.c.job_number, ~_UNFINISHED).exists()
        await self._session.execute(delete(_lanes).where(_lanes.c.lane == lane, through))
        await self._session.execute(insert(_lanes), {"job_number": job_number, "lane": lane})

    async def list_waiting(self, lane: str) -> tuple[str, ...]:
        """Name the lane's jobs that have not begun, the last first."""
        waiting = (_lanes.c.lane == lane) & (_jobs.c.state == JobState.QUEUED) & ~_jobs.c.cancel_requested
        statement = select(_jobs.c.id).join(_lanes, _lanes.c.job_number == _jobs.c.number).where(waiting)
        return tuple((await self._session.execute(statement.order_by(_jobs.c.number.desc()))).scalars())

    async def is_free_for(self, job_number: int) -> bool:
        """Say whether no earlier job of its lane is still to end; a job in no lane is always free."""
        mine = select(_lanes.c.lane).where(_lanes.c.job_number == job_number).scalar_subquery()
        earlier = (
            select(_lanes.c.job_number)
            .join(_jobs, _jobs.c.number == _lanes.c.job_number)
            .where(_lanes.c.lane == mine, _lanes.c.job_number < job_number, _UNFINISHED)
            .limit(1)
        )
        return (await self._session.execute(earlier)).first() is None
