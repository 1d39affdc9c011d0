"""Claims: a unit is given to one worker at a time, with all it needs to know to work on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from app.domain.errors import JobInterrupted
from app.domain.job import Job
from app.domain.registry import RegistryEntry
from app.jobs.changes import JobChange
from app.jobs.notices import save_change
from app.jobs.roster import Roster
from app.jobs.sharing import with_shared_limits
from app.security import Sealer
from app.store.database import Database
from app.store.destinations import DestinationStore
from app.store.images import ImageStore, StoredImage
from app.store.jobs import JobStore
from app.store.lanes import LaneStore
from app.store.registries import RegistryStore
from app.store.units import Unit, UnitKind, UnitState, UnitStore

BUSY_SECONDS = 3.0
"""When to look again at a unit that another worker has, in case that one is dead."""
LANE_SECONDS = 1.0
"""When to look again whether the jobs before one in its lane have ended."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A unit that is ours, and what it is about."""

    job: Job
    job_number: int
    unit: Unit
    registries: tuple[RegistryEntry, ...]
    images: tuple[StoredImage, ...] = ()
    """What a copy unit still has to do."""
    written_by: Mapping[str, int] = field(default_factory=dict)
    """The destinations held for it, each with the number of the job that wrote it last, or 0."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """A unit that can't be had yet."""

    seconds: float


class Claims:
    """Claims units for one worker."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        roster: Roster,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._roster = roster
        self._clock = clock

    async def claim(self, unit_id: int) -> Claim | NotNow | None:
        """Claim a unit; None when there is nothing left to do in it."""
        now = self._clock()
        async with self._database.transaction() as session:
            units, jobs = UnitStore(session), JobStore(session)
            try:
                held, unit = await units.hold(unit_id)
            except JobInterrupted:
                return None
            if unit.state is UnitState.DONE or held.done:
                return None
            if (not_now := self._not_now(unit, now)) is not None:
                return not_now
            if unit.kind is UnitKind.PLAN and not await LaneStore(session).is_free_for(held.number):
                return NotNow(LANE_SECONDS)
            unit = await units.claim(unit, worker=self._roster.worker, now=now)
            change = JobChange(held, now=now)
            change.begin()
            await save_change(session, change)
            await self._database.announcements.announce(session, held.id)
            claim = Claim(
                job=await jobs.get(held.id),
                job_number=held.number,
                unit=unit,
                registries=with_shared_limits(
                    await RegistryStore(session, self._sealer).list(), workers=self._roster.alive
                ),
            )
            if unit.kind is UnitKind.PLAN:
                return claim
            images = await ImageStore(session).list_unfinished(held.id, first=unit.first_image, last=unit.last_image)
            written_by = await DestinationStore(session).hold(
                [image.image.destination for image in images], job_number=held.number, unit_id=unit.id
            )
        return Claim(claim.job, claim.job_number, unit, claim.registries, images, written_by)

    def _not_now(self, unit: Unit, now: datetime) -> NotNow | None:
        if unit.not_before is not None and now < unit.not_before:
            return NotNow((unit.not_before - now).total_seconds())
        if unit.state is UnitState.RUNNING and unit.worker is not None:
            is_ours = unit.worker == self._roster.worker  # then it is one that this process has lost sight of
            if not is_ours and not self._roster.is_dead(unit.worker):
                return NotNow(BUSY_SECONDS)
        return None
