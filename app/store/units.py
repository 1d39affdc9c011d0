"""Units: what one worker does in one go, under a fencing token and with locks of its destination tags.

The fencing token (`fence`) is raised by each claim and checked in the transaction of each of its writes, so that a lost
claim can't write any more (Kleppmann, "How to do distributed locking").

Destination locks see to a single writer for each destination tag. Two jobs that want the same one do not fight. While
one writes it the other waits; and what a later job has written, an earlier one that comes to it afterwards leaves alone
(`superseded`): the outcome is the later request's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, bindparam, case, delete, func, insert, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import JobInterrupted
from app.domain.job import Job, Priority
from app.domain.plan import Listing
from app.store.db.database import insert_into
from app.store.jobs import LOCKED_COLUMNS, LockedJob, job_of, listing_documents, locked_job_of, read_listings
from app.store.tables.declarative import table_of
from app.store.tables.jobs import DestinationLockRow, JobRow, UnitRow

_jobs = table_of(JobRow)
_units = table_of(UnitRow)
_locks = table_of(DestinationLockRow)
_UNIT_COLUMNS = tuple(column.label(f"unit_{column.name}") for column in _units.c)
_WITH_JOB = _jobs.join(_units, _units.c.job_number == _jobs.c.number)
# Made once: they are wide, and executed for every unit.
_FIND = select(_jobs, *_UNIT_COLUMNS).select_from(_WITH_JOB).where(_units.c.id == bindparam("unit_id"))
_HOLD = (
    select(*LOCKED_COLUMNS, *_UNIT_COLUMNS)
    .select_from(_WITH_JOB)
    .where(_units.c.id == bindparam("unit_id"))
    .with_for_update()
)
_CHANGE = update(_units).where(_units.c.id == bindparam("unit_id"))
_CLAIM = _CHANGE.where(
    _units.c.fence == bindparam("known_fence"), _units.c.state == bindparam("known_state")
).returning(_units.c.id)
_SIGNS = (
    select(_units.c.id, _units.c.fence, or_(_jobs.c.cancel_requested, _jobs.c.is_failing_fast).label("is_stopping"))
    .select_from(_WITH_JOB)
    .where(_units.c.id.in_(bindparam("unit_ids", expanding=True)), _units.c.state == "running")
)
# Literal states: SQLite uses an index over some rows only where the statement itself says which.
_UNFINISHED = _jobs.c.state.in_([literal_column("'queued'"), literal_column("'running'")])
_OF_CALLER = (
    select(_jobs.c.priority)
    .where(_jobs.c.created_by == bindparam("created_by"), _UNFINISHED)
    .limit(bindparam("most"))
    .subquery()
)
_COUNT_OF_CALLER = select(_OF_CALLER.c.priority, func.count()).group_by(_OF_CALLER.c.priority)
_IN_SERVICE = select(func.min(_units.c.priority)).where(
    _units.c.state == literal_column("'running'"), _units.c.priority.between(bindparam("least"), bindparam("most"))
)
_MY_LOCKS = _locks.c.key.in_(bindparam("keys", expanding=True)) & (_locks.c.unit_id == bindparam("of_unit"))
_EARLIER_JOB = _jobs.c.state.in_(["queued", "running"]) & (_jobs.c.number < bindparam("writer"))
_NEEDED_BY_NONE = (_locks.c.written_by == 0) & ~select(_jobs.c.number).where(_EARLIER_JOB).exists()
_DROP_LOCKS = delete(_locks).where(_MY_LOCKS, _NEEDED_BY_NONE).returning(_locks.c.key)
_LAST_WRITER = case((_locks.c.written_by < bindparam("writer"), bindparam("writer")), else_=_locks.c.written_by)
_FREE_LOCKS = update(_locks).where(_MY_LOCKS).values(unit_id=None, written_by=_LAST_WRITER)


class UnitKind(StrEnum):
    """What is done in a unit."""

    PLAN = "plan"
    COPY = "copy"


class UnitState(StrEnum):
    """Where a unit is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class NewUnit:
    """A unit to be made."""

    job_number: int
    index: int
    kind: UnitKind
    priority: int
    first_image: int = 0
    last_image: int = -1


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as it is."""

    id: int
    job_number: int
    index: int
    kind: UnitKind
    state: UnitState
    priority: int
    first_image: int
    last_image: int
    fence: int
    worker: str | None
    claims: int
    failures: int
    not_before: datetime | None
    listings: frozenset[Listing] | None
    """Of a plan unit that was put off: the lists it is still to have; None for all there are."""


@dataclass(frozen=True, slots=True)
class QueueItem:
    """What the queue carries of a unit: that there is something to do, and how soon."""

    unit_id: int
    priority: int


@dataclass(frozen=True, slots=True)
class UnitSign:
    """What a running unit's worker has to know every second."""

    unit_id: int
    fence: int
    is_stopping: bool


class UnitStore:
    """Units in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, units: Sequence[NewUnit], *, now: datetime) -> list[QueueItem]:
        """Add units, queued, and return what is to be enqueued."""
        rows = [
            {
                "job_number": unit.job_number,
                "unit_index": unit.index,
                "kind": unit.kind,
                "state": UnitState.QUEUED,
                "priority": unit.priority,
                "first_image": unit.first_image,
                "last_image": unit.last_image,
                "updated_at": now,
            }
            for unit in units
        ]
        statement = insert(_units).returning(_units.c.id, _units.c.priority)
        return [QueueItem(row.id, row.priority) for row in await self._session.execute(statement, rows)]

    async def find(self, unit_id: int) -> tuple[Unit, Job] | None:
        """Read a unit and its job, as they are just now."""
        row = (await self._session.execute(_FIND, {"unit_id": unit_id})).one_or_none()
        return None if row is None else (_unit(row), job_of(row))

    async def lock(self, unit_id: int, *, fence: int | None = None) -> tuple[LockedJob, Unit]:
        """Lock a unit and its job for a change; raise `JobInterrupted` when it is gone, or the fencing token is old."""
        row = (await self._session.execute(_HOLD, {"unit_id": unit_id})).one_or_none()
        if row is None:
            raise JobInterrupted(f"unit {unit_id} is gone: its job was deleted")
        unit = _unit(row)
        if fence is not None and (unit.fence != fence or unit.state != UnitState.RUNNING):
            raise JobInterrupted(f"unit {unit_id} was claimed by another worker, {unit.worker}")
        return locked_job_of(row), unit

    async def claim(self, unit: Unit, *, worker: str, now: datetime) -> Unit | None:
        """Claim a unit for a worker with a new fencing token; older claims are void. None when another was faster."""
        claimed = replace(
            unit, state=UnitState.RUNNING, fence=unit.fence + 1, worker=worker, claims=unit.claims + 1, not_before=None
        )
        unchanged = {"unit_id": unit.id, "known_fence": unit.fence, "known_state": unit.state}
        answer = await self._session.execute(_CLAIM, {**unchanged, **_changing(claimed, now)})
        return None if answer.one_or_none() is None else claimed

    async def give_back(self, unit: Unit, *, now: datetime) -> None:
        """Queue a held unit again; a claim that ended so does not count against it."""
        await self._change(replace(unit, state=UnitState.QUEUED, worker=None, claims=unit.claims - 1), now)

    async def retry(self, unit: Unit, *, now: datetime, not_before: datetime, is_failure: bool = True) -> None:
        """Queue a locked unit again, for later: what it needs could not be had; a pause asked for is no failure."""
        failures = unit.failures + 1 if is_failure else unit.failures
        await self.give_back(replace(unit, failures=failures, not_before=not_before), now=now)

    async def read_next_index(self, job_number: int) -> int:
        """Read which index the next unit of a job is to have."""
        last = select(func.max(_units.c.unit_index)).where(_units.c.job_number == job_number)
        return int((await self._session.execute(last)).scalar_one() or 0) + 1

    async def count_jobs(self, created_by: str, *, most: int) -> dict[Priority, int]:
        """Count the jobs of a caller that are not done, by priority; so many at most are looked at."""
        rows = await self._session.execute(_COUNT_OF_CALLER, {"created_by": created_by, "most": most})
        return {Priority(priority): count for priority, count in rows}

    async def read_in_service(self, *, least: int, most: int) -> int | None:
        """Read the least urgent priority within bounds that some worker is at; None where there is no such unit."""
        found = await self._session.execute(_IN_SERVICE, {"least": least, "most": most})
        priority: int | None = found.scalar_one()
        return priority

    async def finish(self, unit: Unit, *, now: datetime) -> None:
        """End a held unit."""
        await self._change(replace(unit, state=UnitState.DONE, worker=None), now)

    async def convert_to_copy(self, unit: Unit, *, first_image: int, last_image: int, now: datetime) -> Unit:
        """Turn a locked plan unit into the one copy unit of its job, under the same claim."""
        copying = replace(unit, kind=UnitKind.COPY, first_image=first_image, last_image=last_image)
        columns = {"kind": copying.kind, "first_image": first_image, "last_image": last_image, "updated_at": now}
        await self._session.execute(_CHANGE, {"unit_id": unit.id, **columns})
        return copying

    async def finish_queued(self, job_number: int, *, now: datetime) -> int:
        """End a locked job's unclaimed units; return how many."""
        queued = (_units.c.job_number == job_number) & (_units.c.state == UnitState.QUEUED)
        statement = update(_units).where(queued).values(state=UnitState.DONE, updated_at=now).returning(_units.c.id)
        return len((await self._session.execute(statement)).all())

    async def list_signs(self, unit_ids: Collection[int]) -> list[UnitSign]:
        """Read what the workers of these running units have to know."""
        return [
            UnitSign(row.id, row.fence, row.is_stopping)
            for row in await self._session.execute(_SIGNS, {"unit_ids": list(unit_ids)})
        ]

    async def list_unfinished(self, *, now: datetime) -> list[QueueItem]:
        """List all that is to be done now or has been begun, most urgent first."""
        due = or_(_units.c.not_before.is_(None), _units.c.not_before <= now)
        statement = (
            select(_units.c.id, _units.c.priority)
            .where(_units.c.state != UnitState.DONE, due)
            .order_by(_units.c.priority.desc(), _units.c.id)
        )
        return [QueueItem(row.id, row.priority) for row in await self._session.execute(statement)]

    async def _change(self, unit: Unit, now: datetime) -> None:
        await self._session.execute(_CHANGE, {"unit_id": unit.id, **_changing(unit, now)})


class DestinationLockStore:
    """Locks of destination tags in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self, destinations: Collection[str], *, unit_id: int) -> dict[str, int]:
        """Lock what is free of these; return what is locked, with the number of the job that wrote it last, or 0."""
        if not destinations:
            return {}
        keys = {destination_key(text): text for text in destinations}
        rows = [{"key": key, "unit_id": unit_id} for key in sorted(keys)]
        statement = insert_into(self._session, _locks)
        statement = statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"unit_id": statement.excluded.unit_id},
            where=or_(_locks.c.unit_id.is_(None), _locks.c.unit_id == statement.excluded.unit_id),
        )
        locked = await self._session.execute(statement.returning(_locks.c.key, _locks.c.written_by), rows)
        return {keys[row.key]: row.written_by for row in locked}

    async def release(self, destinations: Collection[str], *, unit_id: int, written_by: int = 0) -> None:
        """Release what a unit has locked of these; `written_by` is the job that has written them, 0 for none.

        Who has written is remembered as long as an earlier job may come to the same destination.
        """
        if not destinations:
            return
        keys = sorted(destination_key(text) for text in destinations)
        mine = {"keys": keys, "of_unit": unit_id, "writer": written_by}
        gone = await self._session.execute(_DROP_LOCKS, mine)
        if len(gone.all()) < len(destinations):
            await self._session.execute(_FREE_LOCKS, mine)

    async def delete_unused(self) -> None:
        """Drop marks that no unfinished job is early enough to need, and what ended units may have left held."""
        at_work = select(_units.c.id).where(_units.c.state != "done")
        left = _locks.c.unit_id.is_not(None) & _locks.c.unit_id.not_in(at_work)
        await self._session.execute(update(_locks).where(left).values(unit_id=None))
        unfinished = _jobs.c.state.in_(["queued", "running"]) & (_jobs.c.number < _locks.c.written_by)
        unwanted = _locks.c.unit_id.is_(None) & ~select(_jobs.c.number).where(unfinished).exists()
        await self._session.execute(delete(_locks).where(unwanted))


def _changing(unit: Unit, now: datetime) -> dict[str, Any]:
    return {
        "state": unit.state,
        "fence": unit.fence,
        "worker": unit.worker,
        "claims": unit.claims,
        "failures": unit.failures,
        "not_before": unit.not_before,
        "listings": None if unit.listings is None else listing_documents(unit.listings),
        "updated_at": now,
    }


def _unit(row: Row[Any]) -> Unit:
    return Unit(
        id=row.unit_id,
        job_number=row.unit_job_number,
        index=row.unit_unit_index,
        kind=UnitKind(row.unit_kind),
        state=UnitState(row.unit_state),
        priority=row.unit_priority,
        first_image=row.unit_first_image,
        last_image=row.unit_last_image,
        fence=row.unit_fence,
        worker=row.unit_worker,
        claims=row.unit_claims,
        failures=row.unit_failures,
        not_before=row.unit_not_before,
        listings=read_listings(row.unit_listings),
    )


def destination_key(destination: str) -> bytes:
    """Return what rows about a destination tag are found by: short, however long its name is."""
    return hashlib.blake2b(destination.encode(), digest_size=16).digest()
