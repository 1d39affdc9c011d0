"""How much there is to do, for metrics."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import JobState
from app.store.tables import JobRow, UnitRow, table_of
from app.store.units import UnitState

_jobs = table_of(JobRow)
_units = table_of(UnitRow)


class TallyStore:
    """Counts in the transaction of a session; each reads an index over what is unfinished only."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def count_unfinished_jobs(self) -> dict[JobState, int]:
        """Count the jobs that are not done, by state; a state without jobs is there, with 0."""
        counts = dict.fromkeys((state for state in JobState if not state.done), 0)
        counted = select(_jobs.c.state, func.count()).where(_jobs.c.state.in_(list(counts))).group_by(_jobs.c.state)
        for state, number in await self._session.execute(counted):
            counts[JobState(state)] = number
        return counts

    async def count_queued_units(self) -> int:
        """Count the units that no worker has."""
        counted = (
            select(func.count())
            .select_from(_units)
            .where(_units.c.state != UnitState.DONE, _units.c.state == UnitState.QUEUED)
        )
        return (await self._session.execute(counted)).scalar_one()
