"""The life of a unit in one file: claim it, plan or copy it, record what became of it.

A unit is given a sync session: a planner and a copier, over the connections and knowledge that the process shares.
A plan unit lists, selects and maps a job's request, and hands out what it finds in copy units as it is found; what
can't be planned has a row of its own, and all else is copied. A copy unit copies its images, several at once; one that
fails does not stop the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from weakref import WeakValueDictionary

import structlog
from msgspec import structs
from structlog.contextvars import bound_contextvars

from app.concurrency import in_batches, retry_while_unavailable
from app.domain.errors import JobInterrupted, RegistrySyncError
from app.domain.job import Job
from app.domain.plan import PlannedCopy
from app.domain.registry import RegistryEntry
from app.domain.report import CopyResult, ExecutionError
from app.domain.request import Options, SyncRequest
from app.jobs.queue import JobQueue
from app.observability import Attribute, Span, is_tracing, span
from app.registry.client import ClientPool
from app.registry.ratelimit.token_bucket import TokenBucket
from app.store.db.database import Database
from app.store.images import StoredImage
from app.store.units import UnitKind
from app.sync.compare import DigestLists, ListSiblings, MissingTags
from app.sync.copier import Copier
from app.sync.destination import DestinationNotes, Observe
from app.sync.dry_run import ClaimBlobs, DryRun
from app.sync.known_blobs import KnownBlobs, UploadNotes
from app.sync.planner import Planned, Planner, PlanScope
from app.worker.claims import UNIT_RETRIES, Claim, ClaimDeferred, Claims, StopSignal
from app.worker.plan_writer import BATCH_IMAGES, PlanWriter
from app.worker.progress_writer import ProgressWriter

log = structlog.get_logger()

HAND_OUT_SECONDS = 1.0
"""How often what was found is handed out while lists take their time; smaller plans are over by then."""
IMAGES_AT_ONCE = 8
"""Enough that small images wait for each other's round trips and not for their own; large ones share what there is."""
SLICE_SECONDS = 20.0
"""After this long a unit begins no more images but goes back to the queue, where a more urgent one may wait."""
MAX_JOBS_REMEMBERED = 16
"""Jobs whose digest lists are remembered; of older ones they are asked for again."""
MAX_PLANS_REMEMBERED = 4
"""Plans of which is remembered what was looked at; of older ones the database knows what images share."""
PlanRequest = Callable[[SyncRequest, PlanScope], AsyncGenerator[Planned]]


class CopyImage(Protocol):
    """Copies one source to all its destinations; one result for each, in order."""

    async def __call__(self, copy: PlannedCopy, options: Options, /, *, observe: Observe) -> tuple[CopyResult, ...]:
        """Copy; a failure of a registry is a failed result, never an exception."""


@dataclass(frozen=True, slots=True)
class SyncSession:
    """A planner and a copier of `app.sync`."""

    plan: PlanRequest
    copy: CopyImage


WillBeResumed = Callable[[], bool]
"""Returns, when a unit is cut off, whether another worker resumes it."""
OpenSyncSession = Callable[[Job, tuple[RegistryEntry, ...], WillBeResumed], SyncSession]


class JobRunner:
    """Runs units, each from its claim to what is recorded of it.

    - `queue`: takes the copy units of a plan
    - `claims`: gives a unit to one worker, under a fencing token
    - `open_sync_session`: planner and copier for one unit
    - `clock`: the time, in UTC
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        claims: Claims,
        *,
        open_sync_session: OpenSyncSession,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._queue = queue
        self._claims = claims
        self._open_sync_session = open_sync_session
        self._clock = clock

    async def run_unit(self, unit_id: int, stop_signal: StopSignal) -> float | None:
        """Return None when there is nothing left to do in a unit, or after how many seconds it is to be run again."""
        claim = await retry_while_unavailable(lambda: self._claims.claim(unit_id))
        if isinstance(claim, Claim):
            stop_signal.fence = claim.unit.fence
            about: dict[str, Attribute] = {"registry_sync.job": claim.job.id, "registry_sync.unit": unit_id}
            unit_span = span(f"{claim.unit.kind} unit", kind="consumer", parent=claim.job.traceparent, attributes=about)
            with unit_span, bound_contextvars(job=claim.job.id, unit=unit_id):
                try:
                    return await self._run(claim, stop_signal)
                except JobInterrupted:
                    return None  # the claim is lost: another worker has the unit now
        return claim.seconds if isinstance(claim, ClaimDeferred) else None

    async def _run(self, claim: Claim, stop_signal: StopSignal) -> float | None:
        sync_session = self._open_sync_session(claim.job, claim.registries, stop_signal.will_be_resumed)
        if claim.unit.kind is UnitKind.COPY:
            return await self._copy(claim, sync_session, stop_signal)
        planned = await plan_unit(
            claim, sync_session, stop_signal, database=self._database, queue=self._queue, clock=self._clock
        )
        if isinstance(planned, Claim):  # a small plan: its one copy unit is the planner's own to go on with
            return await self._copy(planned, sync_session, stop_signal)
        return planned.seconds if isinstance(planned, ClaimDeferred) else None

    async def _copy(self, claim: Claim, sync_session: SyncSession, stop_signal: StopSignal) -> float | None:
        writer = ProgressWriter(claim, self._database, clock=self._clock)
        async with writer.writing(stop_signal):
            await copy_unit(claim, sync_session, stop_signal, writer=writer)
        return await retry_while_unavailable(lambda: writer.close(stop_signal.reason))


async def plan_unit(
    claim: Claim,
    sync_session: SyncSession,
    stop_signal: StopSignal,
    *,
    database: Database,
    queue: JobQueue,
    clock: Callable[[], datetime],
) -> Claim | ClaimDeferred | None:
    """Find what a job's request comes to, write it down, and divide it into copy units; copy nothing.

    Return None when the planning has ended: its units are in the queue, or the job is over. Return a claim where it
    comes to one copy unit only, which is the planner's own to go on with, and a deferral where it is to be planned
    again. Raise `JobInterrupted` when the claim is lost.
    """
    writer = PlanWriter(claim, database, queue, clock=clock)
    if claim.retries_exhausted:
        return await writer.fail(
            RegistrySyncError(f"the worker died {UNIT_RETRIES.attempts} times during this planning (out of memory?)")
        )
    try:
        await stop_signal.run(_plan(claim, sync_session, writer))
    except JobInterrupted:
        if not stop_signal.keeps_claim:
            raise
        return await writer.stop(stop_signal.reason)
    except RegistrySyncError as error:
        return await writer.fail(error)
    except Exception as error:
        log.exception("planning_failed_unexpectedly")
        return await writer.fail(RegistrySyncError(f"{type(error).__name__} in this service; see its log"))
    return await writer.finish()


async def _plan(claim: Claim, sync_session: SyncSession, writer: PlanWriter) -> None:
    scope = await writer.recall()
    if claim.job.progress.planned:
        return
    plan = sync_session.plan(claim.job.request, scope)
    async with aclosing(in_batches(plan, size=BATCH_IMAGES, seconds=HAND_OUT_SECONDS)) as batches:
        async for batch, is_last in batches:
            for found in batch:
                writer.take(found)
            if not is_last:
                await writer.write()


async def copy_unit(
    claim: Claim,
    sync_session: SyncSession,
    stop_signal: StopSignal,
    *,
    writer: ProgressWriter,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Copy what a unit still has to do and may do now; everything else is left as it is.

    Cut off where `stop_signal` is called; `writer` gets what became of each image. Raise `JobInterrupted` when
    the claim is lost.
    """
    ready = [image for image in claim.images if _may_begin(image, claim, writer)]
    if claim.retries_exhausted:
        message = f"the worker died {UNIT_RETRIES.attempts} times during this unit (out of memory?)"
        writer.fail([image.position for image in ready], ExecutionError("internal", message))
        return
    try:
        await stop_signal.run(_copy_all(ready, claim, sync_session, writer=writer, monotonic=monotonic))
    except JobInterrupted:
        if not stop_signal.keeps_claim:
            raise


async def _copy_all(
    ready: Sequence[StoredImage],
    claim: Claim,
    sync_session: SyncSession,
    *,
    writer: ProgressWriter,
    monotonic: Callable[[], float],
) -> None:
    slots, begun = asyncio.Semaphore(IMAGES_AT_ONCE), monotonic()
    async with asyncio.TaskGroup() as group:
        for images in _by_copy(ready):
            await slots.acquire()
            if monotonic() - begun > SLICE_SECONDS:
                break
            task = group.create_task(_copy(images, claim, sync_session, writer=writer))
            task.add_done_callback(lambda _: slots.release())


async def _copy(
    images: Sequence[StoredImage], claim: Claim, sync_session: SyncSession, *, writer: ProgressWriter
) -> None:
    positions = [image.position for image in images]
    copy = _joined(images)
    writer.begin(positions)
    with span("copy image") as image_span:
        try:
            results = await sync_session.copy(copy, claim.job.request.options, observe=writer.observe)
        except Exception as error:
            log.exception("copy_failed_unexpectedly", job=claim.job.id, source=str(copy.source))
            image_span.fail("internal")
            writer.fail(positions, ExecutionError("internal", f"{type(error).__name__} in this service; see its log"))
            return
        if is_tracing():
            _describe(image_span, copy, results)
    writer.record(results)


def _describe(image_span: Span, copy: PlannedCopy, results: Sequence[CopyResult]) -> None:
    image_span.set(
        {
            "registry_sync.source": str(copy.source),
            "registry_sync.destinations": " ".join(str(result.destination) for result in results),
            "registry_sync.outcomes": " ".join(result.outcome for result in results),
            "registry_sync.digest": next((result.digest for result in results if result.digest), None),
            "registry_sync.bytes": sum(result.tally.bytes_transferred for result in results),
        }
    )
    for result in results:
        if result.error is not None:
            image_span.fail(result.error.code)


def _may_begin(image: StoredImage, claim: Claim, writer: ProgressWriter) -> bool:
    written_by = claim.written_by.get(image.image.destination)
    if written_by is None:
        writer.defer(image.position)
        return False  # another job writes it just now
    if written_by > claim.unit.job_number:
        writer.supersede(image.position)
        return False
    return True


def _by_copy(images: Sequence[StoredImage]) -> list[list[StoredImage]]:
    copies: defaultdict[int, list[StoredImage]] = defaultdict(list)
    for image in images:
        copies[image.copy_number].append(image)
    return list(copies.values())


def _joined(images: Sequence[StoredImage]) -> PlannedCopy:
    if len(images) == 1:
        return images[0].copy
    destinations = tuple(destination for image in images for destination in image.copy.destinations)
    seen = {place: digests for image in images for place, digests in image.copy.seen.items()}
    return structs.replace(images[0].copy, destinations=destinations, seen=seen)


@dataclass(frozen=True, slots=True)
class _JobMemory:
    """What is remembered of a job over its units."""

    digest_lists: DigestLists  # a list is as old as its job's first look at it, at most
    missing: MissingTags
    dry_run: DryRun | None = None


class SyncSessions:
    """Opens sync sessions over what the process shares: connections, known blobs, notes of open uploads."""

    def __init__(
        self,
        pool: ClientPool,
        blobs: KnownBlobs,
        notes: UploadNotes,
        *,
        destination_notes: DestinationNotes,
        claim_blobs: ClaimBlobs | None = None,
        list_siblings: ListSiblings | None = None,
    ) -> None:
        self._pool = pool
        self._blobs, self._notes = blobs, notes
        self._destination_notes, self._claim_blobs, self._list_siblings = destination_notes, claim_blobs, list_siblings
        self._rate_limits: WeakValueDictionary[str, TokenBucket] = WeakValueDictionary()
        """By job; each lasts as long as a copier of that job."""
        self._memories: dict[str, _JobMemory] = {}
        """The one used last at the end."""

    def open(self, job: Job, entries: tuple[RegistryEntry, ...], will_be_resumed: WillBeResumed) -> SyncSession:
        """Open a sync session for one unit of a job."""
        clients = self._pool.clients(entries)
        memory = self._remember(job)
        copier = Copier(
            clients,
            self._blobs,
            rate_limit=self._rate_limit(job),
            notes=replace(self._notes, will_be_resumed=will_be_resumed),
            destination_notes=self._destination_notes,
            digest_lists=memory.digest_lists,
            missing=memory.missing,
            dry_run=memory.dry_run,
        )
        first_seen = self._destination_notes.read_only() if job.dry_run else self._destination_notes
        return SyncSession(Planner(clients, notes=first_seen).plan, copier.copy)

    def _remember(self, job: Job) -> _JobMemory:
        memory = self._memories.pop(job.id, None)
        if memory is None:
            dry_run = DryRun(job.id, claim=self._claim_blobs) if job.dry_run else None
            memory = _JobMemory(DigestLists(job.id, siblings=self._list_siblings), MissingTags(), dry_run)
        self._memories[job.id] = memory
        alike = [name for name, one in self._memories.items() if (one.dry_run is not None) == job.dry_run]
        for name in alike[: -(MAX_PLANS_REMEMBERED if job.dry_run else MAX_JOBS_REMEMBERED)]:
            del self._memories[name]
        return memory

    def _rate_limit(self, job: Job) -> TokenBucket | None:
        rate = job.request.options.max_bytes_per_second
        return None if rate is None else self._rate_limits.setdefault(job.id, TokenBucket(rate))
