"""The backlog, for metrics: jobs by state, units that wait, workers, what is not delivered yet, how policies stand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Table, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import JobKind, JobState
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow, UnitRow, WorkerRow
from app.store.tables.notifications import DeliveryRow
from app.store.tables.policies import HookEventRow, PolicyRow
from app.store.units import UnitState

ALIVE = timedelta(seconds=30)
"""A worker without a heartbeat for this long is not counted any more; its units are taken over sooner."""

_jobs = table_of(JobRow)
_units = table_of(UnitRow)
_workers = table_of(WorkerRow)
_deliveries = table_of(DeliveryRow)
_events = table_of(HookEventRow)
_policies = table_of(PolicyRow)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits, and who works."""

    jobs: dict[JobState, int]
    queued_units: int
    oldest_queued_at: datetime | None
    """When the longest waiting unit that may begin was queued."""
    workers: int
    pending_deliveries: int
    unmatched_events: int


@dataclass(frozen=True, slots=True)
class PolicyState:
    """How a policy stands: its last job, the last that succeeded, and when it is due."""

    policy: str
    next_run_at: datetime | None
    state: JobState | None
    failed_images: int
    succeeded_at: datetime | None


class BacklogStore:
    """Counts in the transaction of a session; each reads an index over what is unfinished only."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def read(self, *, now: datetime) -> Backlog:
        """Count everything; a state without jobs is there, with 0."""
        # Literal states: SQLite uses an index over some rows only where the statement itself says which.
        queued = (_units.c.state != literal_column("'done'")) & (_units.c.state == UnitState.QUEUED)
        may_begin = queued & (_units.c.not_before.is_(None) | (_units.c.not_before <= now))
        oldest = select(func.min(_units.c.updated_at)).where(may_begin)
        alive = select(func.count()).select_from(_workers).where(_workers.c.seen_at >= now - ALIVE)
        return Backlog(
            jobs=await self._count_jobs(),
            queued_units=await self._count(_units, queued),
            oldest_queued_at=(await self._session.execute(oldest)).scalar_one(),
            workers=(await self._session.execute(alive)).scalar_one(),
            pending_deliveries=await self._count(_deliveries, _deliveries.c.state == literal_column("'pending'")),
            unmatched_events=await self._count(_events, _events.c.state == literal_column("'received'")),
        )

    async def _count_jobs(self) -> dict[JobState, int]:
        counts = dict.fromkeys((state for state in JobState if not state.done), 0)
        unfinished = _jobs.c.state.in_([literal_column(f"'{state}'") for state in counts])
        counted = select(_jobs.c.state, func.count()).where(unfinished).group_by(_jobs.c.state)
        for state, number in await self._session.execute(counted):
            counts[JobState(state)] = number
        return counts

    async def _count(self, table: Table, condition: ColumnElement[bool]) -> int:
        counted = select(func.count()).select_from(table).where(condition)
        return int((await self._session.execute(counted)).scalar_one())

    async def list_policy_runs(self, *, limit: int) -> tuple[PolicyState, ...]:
        """Read how policies stand, by name."""
        succeeded = (
            select(_jobs.c.finished_at)
            .where(
                _jobs.c.policy == _policies.c.name, _jobs.c.state == JobState.SUCCEEDED, _jobs.c.kind == JobKind.COPY
            )
            .order_by(_jobs.c.created_at.desc(), _jobs.c.number.desc())
            .limit(1)
            .correlate(_policies)
            .scalar_subquery()
        )
        statement = (
            select(
                _policies.c.name,
                _policies.c.next_run_at,
                _jobs.c.state,
                _jobs.c.images_failed,
                succeeded.label("succeeded_at"),
            )
            .outerjoin(_jobs, _jobs.c.id == _policies.c.last_job_id)
            .order_by(_policies.c.name)
            .limit(limit)
        )
        return tuple(
            PolicyState(
                policy=row.name,
                next_run_at=row.next_run_at,
                state=JobState(row.state) if row.state else None,
                failed_images=row.images_failed or 0,
                succeeded_at=row.succeeded_at,
            )
            for row in await self._session.execute(statement)
        )
