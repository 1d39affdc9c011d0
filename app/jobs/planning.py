"""A plan unit: what a job's request comes to is found and written down, and divided into units to copy.

Images are written as they are found, in short transactions. A planner that is killed is started anew by the next claim
and finds much the same; so images are put where they were, and what is left over from before is removed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.domain.errors import RegistrySyncError, TransferError
from app.domain.job import ImageState, Priority
from app.domain.plan import PlannedCopy
from app.domain.report import ExecutionError, JobWarning
from app.jobs.changes import JobChange
from app.jobs.claims import Claim, with_images
from app.jobs.engine import Engine
from app.jobs.halting import Reason
from app.jobs.notices import save_change
from app.jobs.patience import patiently
from app.jobs.stopping import stop_queued
from app.jobs.workshop import Workshop
from app.store.database import Database, Session
from app.store.images import ImageStore, PlannedImage
from app.store.units import NewUnit, Unit, UnitKind, UnitStore

BATCH_IMAGES = 500
"""How many images are written down at once."""
REST_SECONDS = 5.0
"""How long a planning rests after a temporary failure; requests were repeated by then, so it gets one more try."""
MAX_FAILURES = 1
SHARES_PER_WORKER = 16
"""Into how many units for each worker a job is divided, where it has that many images: so all get some, to the end."""
MOST_IN_UNIT = 64
"""How many images a unit has at most: more would make it long without making the engine's part any less."""
LEAST_IN_UNIT = 8
"""How many it has at least where one worker does all: a unit copies as many at once."""
PRIORITY_STEP = 1_000_000
"""Distance between priorities; a unit's index is taken from its job's, so that small jobs overtake long ones."""


class Planning:
    """The planning of one claim."""

    def __init__(self, claim: Claim, database: Database, engine: Engine, *, clock: Callable[[], datetime]) -> None:
        self._claim = claim
        self._database = database
        self._engine = engine
        self._clock = clock
        self._batch: list[PlannedImage] = []
        self._warnings: list[JobWarning] = []
        self._images = 0
        self._ends: list[int] = []
        """The last position of each copy."""

    async def list_copies(self, workshop: Workshop) -> None:
        """Find what the request comes to, and write it down; raise what the workshop raises."""
        async for found in workshop.plan(self._claim.job.request):
            if isinstance(found, JobWarning):
                self._warnings.append(found)
                continue
            self._take(found)
            if len(self._batch) >= BATCH_IMAGES:
                await patiently(self._write)
                self._batch = []

    async def divide(self) -> Claim | None:
        """End the planning: make units of what was found and tell the engine; nothing is copied before this.

        Where it comes to one unit only, that is the planner's own to go on with, and returned.
        """
        return await patiently(self._divide)

    async def fail(self, error: RegistrySyncError) -> float | None:
        """End the planning without a plan, or have it come again; return after how many seconds."""
        return await patiently(lambda: self._fail(error))

    async def stop(self, reason: Reason) -> float | None:
        """End the planning before its end, or give it back; return after how many seconds it is to come again."""
        return await patiently(lambda: self._stop(reason))

    # --- below --------------------------------------------------------------------------------------------------------

    def _take(self, copy: PlannedCopy) -> None:
        copy_number = len(self._ends)
        for destination in copy.destinations:
            self._batch.append(PlannedImage(self._images, copy_number, copy, destination))
            self._images += 1
        self._ends.append(self._images - 1)

    async def _write(self) -> None:
        async with self._database.transaction() as session:
            change, _ = await self._hold(session)
            await self._put_batch(session, change)
            await self._save(session, change)

    async def _put_batch(self, session: Session, change: JobChange) -> None:
        known = change.job.progress.images.total
        change.count_many(None, ImageState.QUEUED, max(0, self._images - known))
        if self._batch:
            revision = change.take_revisions(len(self._batch))
            await ImageStore(session).put_planned(change.job.number, self._batch, revision=revision)

    async def _divide(self) -> Claim | None:
        async with self._database.transaction() as session:
            change, unit = await self._hold(session)
            if change.job.is_stopping:
                await stop_queued(session, change)
                await self._finish(session, change, unit)
                return None
            ranges = divided(await self._complete(session, change), workers=self._claim.workers)
            is_one = len(ranges) == 1
            change.plan(units=0 if is_one else len(ranges), warnings=tuple(self._warnings))
            if not is_one:
                await self._make_units(session, change, ranges)
                await self._finish(session, change, unit)
                return None
            ((first, last),) = ranges
            unit = await UnitStore(session).turn_into_copy(unit, first_image=first, last_image=last, now=change.now)
            await self._save(session, change)
            return await with_images(session, replace(self._claim, unit=unit))

    async def _complete(self, session: Session, change: JobChange) -> Sequence[int]:
        """Write down what is not yet, remove what only an earlier attempt found; return each copy's last position."""
        number, known = change.job.number, change.job.progress.images.total
        if change.job.progress.planned:
            return await ImageStore(session).list_copy_ends(number)  # the images of a retry come from the job before
        await self._put_batch(session, change)
        if known > self._images:
            await ImageStore(session).delete_from(number, self._images)
            change.discount(ImageState.QUEUED, known - self._images)
        return self._ends

    async def _make_units(self, session: Session, change: JobChange, ranges: Sequence[tuple[int, int]]) -> None:
        units = [
            NewUnit(change.job.number, index, UnitKind.COPY, unit_priority(change.job.priority, index), first, last)
            for index, (first, last) in enumerate(ranges, start=1)
        ]
        if units:
            nudges = await UnitStore(session).add(units, now=change.now)
            await self._engine.nudge(session, nudges)

    async def _fail(self, error: RegistrySyncError) -> float | None:
        async with self._database.transaction() as session:
            change, unit = await self._hold(session)
            is_temporary = isinstance(error, TransferError) and error.temporary
            if is_temporary and unit.failures < MAX_FAILURES:
                now = self._clock()
                await UnitStore(session).retry(unit, now=now, not_before=now + timedelta(seconds=REST_SECONDS))
                return REST_SECONDS
            change.fail(ExecutionError.of(error))
            change.warn(tuple(self._warnings))
            await stop_queued(session, change)
            await self._finish(session, change, unit)
        return None

    async def _stop(self, reason: Reason) -> float | None:
        async with self._database.transaction() as session:
            change, unit = await self._hold(session)
            if reason is Reason.SHUTDOWN:
                await UnitStore(session).give_back(unit, now=self._clock())
                return 0.0
            await stop_queued(session, change)
            await self._finish(session, change, unit)
        return None

    async def _hold(self, session: Session) -> tuple[JobChange, Unit]:
        held, unit = await UnitStore(session).hold(self._claim.unit.id, fence=self._claim.unit.fence)
        return JobChange(held, now=self._clock()), unit

    async def _finish(self, session: Session, change: JobChange, unit: Unit) -> None:
        await UnitStore(session).finish(unit, now=change.now)
        change.finish_units(1)
        await self._save(session, change)

    async def _save(self, session: Session, change: JobChange) -> None:
        await save_change(session, change)
        self._database.announcements.announce(session, self._claim.job.id)


def divided(ends: Sequence[int], *, workers: int) -> list[tuple[int, int]]:
    """Divide copies, given by the last position of each, into the ranges of positions that units have."""
    least = LEAST_IN_UNIT if workers == 1 else 1
    size = min(max(len(ends) // (SHARES_PER_WORKER * workers), least), MOST_IN_UNIT)
    lasts = [*ends[size - 1 :: size], *([ends[-1]] if len(ends) % size else [])]
    return list(zip([0, *(last + 1 for last in lasts)], lasts, strict=False))


def unit_priority(priority: Priority, index: int) -> int:
    """Say how urgent a unit is, as the engine counts: a job's first units go before the later ones of other jobs."""
    return (list(Priority).index(priority) + 1) * PRIORITY_STEP - min(index, PRIORITY_STEP - 1)
