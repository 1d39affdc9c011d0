"""Claims: a unit is given to one worker at a time, with all it needs to know to work on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from app.domain.job import Job, JobState
from app.domain.registry import RegistryEntry
from app.jobs.changes import JobChange
from app.jobs.notices import save_change
from app.jobs.roster import Roster
from app.jobs.sharing import with_shared_limits, with_shared_rate
from app.security import Sealer
from app.store.database import Database, Session
from app.store.destinations import DestinationStore
from app.store.images import ImageStore, StoredImage
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
    unit: Unit
    registries: tuple[RegistryEntry, ...]
    workers: int = 1
    """How many there are to share the work with."""
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
        self._known: tuple[tuple[object, ...], tuple[RegistryEntry, ...]] | None = None
        """The registries as they were last, opened, and what says whether they still are."""

    async def claim(self, unit_id: int) -> Claim | NotNow | None:
        """Claim a unit; None when there is nothing left to do in it."""
        async with self._database.transaction() as session:
            now = self._clock()
            found = await UnitStore(session).find(unit_id)
            if found is None:
                return None
            unit, job = found
            if unit.state is UnitState.DONE or job.done:
                return None
            if (not_now := self._not_now(unit, now)) is not None:
                return not_now
            if unit.kind is UnitKind.PLAN:
                if job.policy is not None and not await LaneStore(session).is_free_for(unit.job_number):
                    return NotNow(LANE_SECONDS)
                await self._begin(session, unit_id)
            claimed = await UnitStore(session).claim(unit, worker=self._roster.worker, now=now)
            if claimed is None:
                return NotNow(BUSY_SECONDS)
            return await self._claim(session, claimed, job)

    async def _begin(self, session: Session, unit_id: int) -> None:
        held, _ = await UnitStore(session).hold(unit_id)
        if held.state is JobState.QUEUED:
            change = JobChange(held, now=self._clock())
            change.begin()
            await save_change(session, change)
            self._database.announcements.announce(session, held.id)

    async def _claim(self, session: Session, unit: Unit, job: Job) -> Claim:
        workers = self._roster.alive
        job = with_shared_rate(job, workers=workers)
        registries = with_shared_limits(await self._registries(session), workers=workers)
        claim = Claim(job, unit, registries, workers)
        return claim if unit.kind is UnitKind.PLAN else await with_images(session, claim)

    async def _registries(self, session: Session) -> tuple[RegistryEntry, ...]:
        store = RegistryStore(session, self._sealer)
        versions = await store.read_versions()
        if self._known is None or self._known[0] != versions:
            self._known = versions, await store.list()
        return self._known[1]

    def _not_now(self, unit: Unit, now: datetime) -> NotNow | None:
        if unit.not_before is not None and now < unit.not_before:
            return NotNow((unit.not_before - now).total_seconds())
        if unit.state is UnitState.RUNNING and unit.worker is not None:
            is_ours = unit.worker == self._roster.worker  # then it is one that this process has lost sight of
            if not is_ours and not self._roster.is_dead(unit.worker):
                return NotNow(BUSY_SECONDS)
        return None


async def with_images(session: Session, claim: Claim) -> Claim:
    """Complete the claim of a copy unit: what it has to do, with the destinations held for it that are free."""
    unit = claim.unit
    first, last = unit.first_image, unit.last_image
    images = await ImageStore(session).list_unfinished(claim.job, unit.job_number, first=first, last=last)
    destinations = [image.image.destination for image in images]
    return replace(claim, images=images, written_by=await DestinationStore(session).hold(destinations, unit_id=unit.id))
