"""Claims: a unit is given to one worker at a time, under a fencing token, and has one of the slots of that worker.

What ends a claim early is its stop signal: cancellation of the job, shutdown of the process, or a lost claim.
Cancellation reaches a blob in the middle: the unit's task is cancelled, closes what it has open at registries within
`CLEAN_UP_SECONDS`, and the cancellation is never swallowed on the way.

A worker does so many units at once, of those that do something. A unit that only waits gives its slot back and goes on
beside them, as far as there is room: a registry that trickles, or that asks for pauses, must not keep the jobs of
others waiting. Of that room one registry gets a share, and more of its units are deferred.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

import structlog

from app.concurrency import Activity, acting
from app.domain.errors import JobInterrupted
from app.domain.job import Job, JobState
from app.domain.registry import RegistryEntry
from app.domain.retry_policy import RetryPolicy
from app.jobs.outbox import report_stalled, save_transition
from app.jobs.transitions import JobTransition
from app.net.address_guard import AUTO, EgressRule
from app.security import Sealer
from app.store.api_keys import ApiKeyStore
from app.store.concurrency_groups import ConcurrencyGroupStore
from app.store.db.database import Database, Session, after_commit
from app.store.images import ImageStore, StoredImage
from app.store.registries import RegistryStore
from app.store.units import DestinationLockStore, Unit, UnitKind, UnitState, UnitStore
from app.worker.heartbeat import Heartbeat
from app.worker.shared_state import with_shared_limits, with_shared_rate

log = structlog.get_logger()

T = TypeVar("T")

BUSY_SECONDS = 3.0
"""When to look again at a unit that another worker has, in case that one is dead."""
CROWDED_SECONDS = 15.0
"""When to look again whether a registry has come to answer that has its share of the units that wait."""
CLEAN_UP_SECONDS = 5.0
"""How long a cancelled copy may take to close what it has open at registries."""
EGRESS_KNOWN_FOR = timedelta(seconds=1)
GROUP_SECONDS = 1.0
"""When to look again whether the jobs before one in its concurrency group have ended."""
UNIT_RETRIES = RetryPolicy(attempts=10)
"""Of a unit whose worker died, at once; after so many deaths the unit itself is taken for their cause, and fails."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A unit that this worker has claimed, and what it is about."""

    job: Job
    unit: Unit
    registries: tuple[RegistryEntry, ...]
    workers: int = 1
    """How many there are to share the work with."""
    images: tuple[StoredImage, ...] = ()
    """What a copy unit still has to do."""
    written_by: Mapping[str, int] = field(default_factory=dict)
    """The destinations held for it, each with the number of the job that wrote it last, or 0."""

    @property
    def retries_exhausted(self) -> bool:
        """Whether the unit's workers died more often than `UNIT_RETRIES` allows."""
        return self.unit.claims > 1 and not UNIT_RETRIES.allows(self.unit.claims - 1)


@dataclass(frozen=True, slots=True)
class ClaimDeferred:
    """A unit that can't be had yet."""

    seconds: float


class StopReason(StrEnum):
    """Why a unit stops before its end."""

    STOPPING = "stopping"
    """Cancellation of its job, or `fail_fast`: what has not ended is cancelled."""
    SHUTDOWN = "shutdown"
    """This process ends: the unit goes back to the queue."""
    LOST = "lost"
    """Another worker has claimed it: nothing more is written."""


class StopSignal:
    """One running unit's stop signal."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.fence: int | None = None
        """The claim that the unit runs under, once it has one."""
        self._called = asyncio.Event()

    def call(self, reason: StopReason) -> None:
        """Stop the unit; a lost claim outweighs every other reason."""
        if self.reason is None or reason is StopReason.LOST:
            self.reason = reason
        self._called.set()

    @property
    def keeps_claim(self) -> bool:
        """Whether the unit was asked to stop while its claim is still its own: then what became of it is recorded."""
        return self.reason in {StopReason.STOPPING, StopReason.SHUTDOWN}

    def will_be_resumed(self) -> bool:
        """Return whether another worker resumes what is cut off here: then open uploads stay open."""
        return self.reason in {StopReason.SHUTDOWN, StopReason.LOST}

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run some work to its end; when called, cancel it, let it clean up, and raise `JobInterrupted`."""
        task, called = asyncio.create_task(work), asyncio.create_task(self._called.wait())
        try:
            await asyncio.wait({task, called}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            called.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CLEAN_UP_SECONDS)
        if self.reason is not None and (not task.done() or task.cancelled()):
            raise JobInterrupted(f"the unit was stopped: {self.reason}")
        return task.result()


class Claims:
    """Claims units for one worker.

    - `heartbeat`: this worker's sign of life, and those of the others
    - `crowded`: the registries that no more units are begun for just now (`UnitSlots.crowded`)
    - `unregistered_hosts`: which hosts without an entry may be reached, as the setting says; all of them by default
    - `clock`: the time, in UTC
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        heartbeat: Heartbeat,
        crowded: Callable[[], AbstractSet[str]] = frozenset,
        unregistered_hosts: Sequence[str] = ("allow",),
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._heartbeat = heartbeat
        self._crowded = crowded
        self._unregistered_hosts = tuple(unregistered_hosts)
        self._clock = clock
        self._egress: tuple[datetime, EgressRule] | None = None
        """Which hosts without an entry may be reached, and since when that is known."""
        self._known: tuple[tuple[object, ...], tuple[RegistryEntry, ...]] | None = None
        """The registries as they were last, opened, and what says whether they still are."""

    async def claim(self, unit_id: int) -> Claim | ClaimDeferred | None:
        """Claim a unit; None when there is nothing left to do in it."""
        async with self._database.transaction(is_short=True) as session:
            now = self._clock()
            found = await UnitStore(session).find(unit_id)
            if found is None:
                return None
            unit, job = found
            if unit.state is UnitState.DONE or job.done:
                return None
            if (not_now := self._not_now(unit, now)) is not None:
                return not_now
            if (crowded := self._crowded()) and not crowded.isdisjoint(_registries_of(job)):
                return ClaimDeferred(CROWDED_SECONDS)
            if unit.kind is UnitKind.PLAN:
                if job.policy is not None and not await ConcurrencyGroupStore(session).is_free_for(unit.job_number):
                    return ClaimDeferred(GROUP_SECONDS)
                await self._begin(session, unit_id)
            elif job.waiting_for is not None:
                await self._end_wait(session, unit_id)
            claimed = await UnitStore(session).claim(unit, worker=self._heartbeat.worker, now=now)
            if claimed is None:
                return ClaimDeferred(BUSY_SECONDS)
            if unit.state is UnitState.RUNNING:
                after_commit(session, partial(report_stalled, job.id, job.policy, unit_id=unit.id, worker=unit.worker))
            return await self._claim(session, claimed, job)

    async def _begin(self, session: Session, unit_id: int) -> None:
        locked, _ = await UnitStore(session).lock(unit_id)
        if locked.state is JobState.QUEUED or locked.waiting_for is not None:
            transition = JobTransition(locked, now=self._clock())
            transition.begin()
            transition.end_wait()
            await save_transition(session, transition, self._database.change_feed)

    async def _end_wait(self, session: Session, unit_id: int) -> None:
        locked, _ = await UnitStore(session).lock(unit_id)
        transition = JobTransition(locked, now=self._clock())
        transition.end_wait()
        if transition.job.waiting_for is None:
            await save_transition(session, transition, self._database.change_feed)

    async def _claim(self, session: Session, unit: Unit, job: Job) -> Claim:
        workers = self._heartbeat.alive
        registries = await self._registries(session)
        if workers > 1:
            job = with_shared_rate(job, workers=workers)
            registries = with_shared_limits(registries, workers=workers)
        registries = (*registries, *await self._refused(session, job, registries))
        claim = Claim(job, unit, registries, workers)
        return claim if unit.kind is UnitKind.PLAN else await with_images(session, claim)

    async def _refused(self, session: Session, job: Job, entries: Sequence[RegistryEntry]) -> Iterator[RegistryEntry]:
        """Return stand-ins for hosts of a job that no entry is for, and that may not be reached any more.

        It was submitted, or its policy stored, when the setting, the keys or the entries were others.
        """
        if self._egress is None or self._clock() - self._egress[0] >= EGRESS_KNOWN_FOR:
            has_key = self._unregistered_hosts == AUTO and await ApiKeyStore(session).has_any()
            self._egress = self._clock(), EgressRule.of(self._unregistered_hosts, has_key=has_key)
        return refused_hosts(job, entries, self._egress[1])

    async def _registries(self, session: Session) -> tuple[RegistryEntry, ...]:
        store = RegistryStore(session, self._sealer)
        versions = await store.read_versions()
        if self._known is None or self._known[0] != versions:
            entries = await store.list()
            for entry in entries:
                if not entry.is_readable:
                    log.error("secret_unreadable", registry=entry.name)
            self._known = versions, entries
        return self._known[1]

    def _not_now(self, unit: Unit, now: datetime) -> ClaimDeferred | None:
        if unit.not_before is not None and now < unit.not_before:
            return ClaimDeferred((unit.not_before - now).total_seconds())
        if unit.state is UnitState.RUNNING and unit.worker is not None:
            is_ours = unit.worker == self._heartbeat.worker  # then it is one that this process has lost sight of
            if not is_ours and not self._heartbeat.is_dead(unit.worker):
                return ClaimDeferred(BUSY_SECONDS)
        return None


def _registries_of(job: Job) -> Iterator[str]:
    for rule in job.request.rules:
        yield rule.source_pattern.registry
        yield from (template.registry for template in rule.destination_templates)


def refused_hosts(job: Job, entries: Sequence[RegistryEntry], egress: EgressRule) -> Iterator[RegistryEntry]:
    """Yield an entry for each host of a job that has none and that the egress rule refuses: none is asked anything."""
    if egress.admits_all:
        return
    registered = {entry.registry for entry in entries}
    wanted = [(rule.source_pattern.registry, True) for rule in job.request.rules]
    wanted += [(to.registry, False) for rule in job.request.rules for to in rule.destination_templates]
    refused = {
        registry: None
        for registry, is_source in wanted
        if registry not in registered and not egress.admits(registry, is_source=is_source)
    }
    for registry in refused:
        yield RegistryEntry.unregistered(registry).model_copy(update={"is_admitted": False})


async def with_images(session: Session, claim: Claim) -> Claim:
    """Complete the claim of a copy unit: what it has to do, with the destinations held for it that are free."""
    unit = claim.unit
    first, last = unit.first_image, unit.last_image
    images = await ImageStore(session).list_unfinished(claim.job, unit.job_number, first=first, last=last)
    destinations = [image.image.destination for image in images]
    if claim.job.dry_run:  # writes nowhere
        return replace(claim, images=images, written_by=dict.fromkeys(destinations, 0))
    return replace(
        claim, images=images, written_by=await DestinationLockStore(session).lock(destinations, unit_id=unit.id)
    )


LOOK_SECONDS = 1.0
"""How often a worker looks whether a unit that has a slot only waits."""
COME_BACK_SECONDS = 5.0
"""After how long a unit that has none is looked at again."""
BYTES_PER_SECOND = 10 * 1024
"""A unit that moves less only waits."""
WAITING_PER_SLOT = 8
"""How many units may wait without a slot, for each slot that there is."""
SHARE = 4
"""One registry may have a quarter of these."""


class UnitSlots:
    """Slots for the units of one process.

    - `concurrency`: units at once that do something
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._free = asyncio.Semaphore(concurrency)
        self._room = WAITING_PER_SLOT * concurrency
        self._activities: dict[int, Activity] = {}
        self._waiting: set[int] = set()

    @asynccontextmanager
    async def slot(self, unit_id: int) -> AsyncIterator[None]:
        """Wait for a slot, and keep it for the block or until it is given back."""
        await self._free.acquire()
        activity = self._activities[unit_id] = Activity(bytes_per_second=BYTES_PER_SECOND)
        try:
            with acting(activity):
                yield
        finally:
            del self._activities[unit_id]
            if unit_id in self._waiting:
                self._waiting.remove(unit_id)
            else:
                self._free.release()

    def give_back(self, unit_id: int) -> bool:
        """Give a unit's slot back if it only waits and there is room; return whether it waits without one."""
        activity = self._activities.get(unit_id)
        if activity is None or not activity.is_waiting():
            return False
        if unit_id not in self._waiting:
            if len(self._waiting) >= self._room:
                return False
            self._waiting.add(unit_id)
            self._free.release()
        return True

    def crowded(self) -> frozenset[str]:
        """Return the registries that have their share of what waits without a slot."""
        counts = Counter(registry for unit_id in self._waiting for registry in self._activities[unit_id].registries)
        return frozenset(registry for registry, count in counts.items() if count >= self._room // SHARE)
