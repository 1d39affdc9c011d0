"""Writes down what planning finds, in short transactions under one claim, and hands it out in copy units.

Rows are only ever added: a planner that is killed is started anew by the next claim, begins with the rows there are,
and adds what is new. So copying may begin while lists are still read, and counts that were shown never shrink. With
`fail_fast` nothing is handed out before the planning has ended, and whatever can't be planned ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from app.concurrency import retry_while_unavailable
from app.domain.errors import RegistrySyncError, TransferError
from app.domain.job import ImageState, JobPause
from app.domain.plan import FailedListing, Listing, PlannedCopy
from app.domain.report import ExecutionError, JobWarning, SelectionCount
from app.domain.retry_policy import RetryPolicy
from app.jobs.cancellation import cancel_queued_images
from app.jobs.outbox import report_refused, save_transition
from app.jobs.queue import JobQueue
from app.jobs.submission import next_rank, unit_priority
from app.jobs.transitions import JobTransition
from app.store.db.database import Database, Session, after_commit
from app.store.images import ImageStore, PlannedImage
from app.store.jobs import JobStore
from app.store.planned_images import PlannedImageStore
from app.store.units import NewUnit, Unit, UnitKind, UnitStore
from app.sync.planner import DestinationClaims, Planned, PlanScope
from app.worker.claims import Claim, ClaimDeferred, StopReason, with_images

BATCH_IMAGES = 250
"""How many images are written down, and handed out, at once; up to twice as many where writing waits. On SQLite all
other writers wait meanwhile, for 20 ms."""
PLAN_RETRIES = RetryPolicy(attempts=2, first_delay=5.0, max_pause=86_400.0)
"""Of a planning: its requests were repeated by then, so it gets one more try. A registry's pauses put a list off until
so long after the job began; then it has failed."""
SHARES_PER_WORKER = 8
"""Into how many units for each worker a job is divided, where it has that many images: so all get some, to the end."""
MOST_IN_UNIT = 128
"""How many images a unit has at most: more would make it long without making the engine's part any less."""
LEAST_IN_UNIT = 16
"""How many it has at least where one worker does all: a unit copies as many at once."""
MAX_RETRIES_RECALLED = 100


class PlanWriter:
    """What was found of a plan so far, and how it is written under one claim."""

    def __init__(self, claim: Claim, database: Database, queue: JobQueue, *, clock: Callable[[], datetime]) -> None:
        self._claim = claim
        self._database = database
        self._queue = queue
        self._clock = clock
        self._is_strict = claim.job.request.options.fail_fast
        self._rows: list[PlannedImage] = []
        """What is not written down yet."""
        self._images = claim.job.progress.images.total
        self._copies = 0
        self._ends: list[int] = []
        """The last position of each copy that no unit has yet."""
        self._first = 0
        """The first position that no unit has yet."""
        self._next_unit = 1
        self._last_priority = claim.unit.priority
        self._warnings: list[JobWarning] = []
        self._counts: list[SelectionCount] = []
        self._postponed: list[FailedListing] = []
        """Lists that may be had a little later."""

    async def recall(self) -> PlanScope:
        """Read what was planned before, by an earlier claim or by the job that this one is a retry of.

        Return what is left to be planned: nothing that has a row, and no destination that is claimed.
        """
        return await retry_while_unavailable(self._recall)

    def take(self, found: Planned) -> None:
        """Take in what was found, to be written; with `fail_fast`, raise what can't be planned."""
        if isinstance(found, JobWarning):
            self._warnings.append(found)
        elif isinstance(found, SelectionCount):
            self._counts.append(found)
        elif isinstance(found, PlannedCopy):
            for destination in found.destinations:
                row = PlannedImage.of_copy(found, destination, position=self._images, copy_number=self._copies)
                self._rows.append(row)
                self._images += 1
            self._ends.append(self._images - 1)
            self._copies += 1
        elif self._is_strict:
            raise found.error
        elif isinstance(found, FailedListing) and self._may_help(found.error):
            self._postponed.append(found)
        else:
            self._rows.append(PlannedImage.of_failure(found, position=self._images, copy_number=self._copies))
            self._images += 1
            self._copies += 1

    async def write(self) -> None:
        """Write down what was taken in, and hand it out, while the planning goes on."""
        units = await retry_while_unavailable(self._write)
        if units is not None:
            self._rows = []
        if units:
            self._ends, self._first = [], self._images
            self._next_unit += units

    async def finish(self) -> Claim | ClaimDeferred | None:
        """End the planning: write and hand out what is left.

        Return the claim of the only copy unit where there is but one, and a deferral where lists are to be had again.
        """
        return await retry_while_unavailable(self._finish)

    async def fail(self, error: RegistrySyncError) -> ClaimDeferred | None:
        """End the planning and the job with it, or have it come again."""
        return await retry_while_unavailable(lambda: self._fail(error))

    async def stop(self, reason: StopReason | None) -> ClaimDeferred | None:
        """End the planning before its end, or give it back."""
        return await retry_while_unavailable(lambda: self._stop(reason))

    # --- what was planned before --------------------------------------------------------------------------------------

    async def _recall(self) -> PlanScope:
        job, unit = self._claim.job, self._claim.unit
        only = unit.listings if unit.listings is not None else job.listings
        if not self._images and job.listings is None:
            return PlanScope(only=only)
        claims, failed = DestinationClaims(), set[Listing]()
        async with self._database.reading() as session:
            self._next_unit = await UnitStore(session).read_next_index(unit.job_number)
            if self._next_unit == 1:
                self._ends = list(await PlannedImageStore(session).list_copy_ends(unit.job_number))
            else:
                self._first = self._images
            self._copies = self._images  # more than there were: numbers need not be without gaps
            if job.progress.planned:
                return PlanScope(only=only)  # a retry, whose copies all come from the job before
            await _recall_rows(session, unit.job_number, claims=claims, failed=failed)
            for number in await _list_retried(session, job.retry_of if job.listings is not None else None):
                await _recall_rows(session, number, claims=claims, failed=set())
        return PlanScope(only, frozenset(failed), claims)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _may_help(self, error: TransferError) -> bool:
        """Return whether it may be different a little later, or when the registry's pause is over."""
        if error.asked_pause:
            started_at = self._claim.job.started_at
            return started_at is None or self._clock() - started_at < timedelta(seconds=PLAN_RETRIES.max_pause)
        return error.temporary and PLAN_RETRIES.allows(self._claim.unit.failures + 1)

    async def _write(self) -> int | None:
        """Return how many units were handed out; None where nothing is to be written any more."""
        ranges = self._ranges() if not self._is_strict else []
        async with self._database.transaction(is_short=True) as session:
            transition, _ = await self._lock_unit(session)
            if transition.job.is_stopping:
                return None
            if await self._put_rows(session, transition):
                await self._hand_out(session, transition, ranges)
            await self._save(session, transition)
        return len(ranges)

    def _ranges(self) -> list[tuple[int, int]]:
        size = MOST_IN_UNIT if len(self._ends) >= BATCH_IMAGES else None
        return divided(self._ends, workers=self._claim.workers, first=self._first, size=size)

    async def _put_rows(self, session: Session, transition: JobTransition) -> bool:
        """Write rows; return False where that was done already, by a commit whose answer was lost."""
        if transition.job.progress.images.total >= self._images:
            return False
        failures = [row.failure for row in self._rows if row.failure]
        revision = transition.take_revisions(len(self._rows))
        store = ImageStore(session)
        await store.add(transition.job.number, self._rows, revision=revision, now=transition.now)
        transition.count_many(None, ImageState.QUEUED, len(self._rows) - len(failures))
        transition.count_many(None, ImageState.FAILED, len(failures))
        transition.count_failures(failures)
        transition.count_planned(row.action for row in self._rows)
        after_commit(session, partial(report_refused, transition.job.id, transition.job.policy, failures))
        return True

    async def _hand_out(self, session: Session, transition: JobTransition, ranges: Sequence[tuple[int, int]]) -> None:
        if not ranges:
            return
        job, store = transition.job, UnitStore(session)
        rank, apart = await next_rank(store, job, created_by=self._claim.job.created_by, last=self._last_priority)
        units = [
            NewUnit(job.number, index, UnitKind.COPY, unit_priority(job.priority, rank + number * apart), first, last)
            for number, (index, (first, last)) in enumerate(enumerate(ranges, start=self._next_unit))
        ]
        self._last_priority = units[-1].priority
        transition.add_units(len(units))
        await self._queue.enqueue(session, await store.add(units, now=transition.now))

    async def _finish(self) -> Claim | ClaimDeferred | None:
        async with self._database.transaction(is_short=True) as session:
            transition, unit = await self._lock_unit(session)
            if transition.job.is_stopping:
                await cancel_queued_images(session, transition)
                await self._end(session, transition, unit)
                return None
            await self._put_rows(session, transition)
            transition.warn(self._warnings)
            if self._counts:
                is_first = unit.listings is None and self._claim.job.listings is None
                await ImageStore(session).add_counts(unit.job_number, self._counts, is_first=is_first)
            if self._postponed:
                return await self._come_again(session, transition, unit)
            transition.plan()
            ranges = divided(self._ends, workers=self._claim.workers, first=self._first, copies=self._copies)
            if len(ranges) != 1 or self._next_unit > 1:
                await self._hand_out(session, transition, ranges)
                await self._end(session, transition, unit)
                return None
            ((first, last),) = ranges
            unit = await UnitStore(session).convert_to_copy(
                unit, first_image=first, last_image=last, now=transition.now
            )
            await self._save(session, transition)
            return await with_images(session, replace(self._claim, unit=unit))

    async def _come_again(self, session: Session, transition: JobTransition, unit: Unit) -> ClaimDeferred:
        """Put the planning off; the lists it could not have are all that is left of it."""
        await self._hand_out(session, transition, self._ranges())
        left = replace(unit, listings=frozenset(failed.listing for failed in self._postponed))
        return await self._put_off(session, transition, left, errors=[failed.error for failed in self._postponed])

    async def _put_off(
        self, session: Session, transition: JobTransition, unit: Unit, *, errors: Sequence[TransferError]
    ) -> ClaimDeferred:
        rest = max(PLAN_RETRIES.first_delay, *(error.asked_pause or 0.0 for error in errors))
        later = transition.now + timedelta(seconds=rest)
        for error in errors:
            if error.asked_pause:
                shown = ExecutionError.of(error)
                transition.wait_for(JobPause(shown.registry or "", later, shown.message))
        await self._save(session, transition)
        is_failure = not all(error.asked_pause for error in errors)
        await UnitStore(session).retry(unit, now=transition.now, not_before=later, is_failure=is_failure)
        return ClaimDeferred(rest)

    async def _fail(self, error: RegistrySyncError) -> ClaimDeferred | None:
        async with self._database.transaction() as session:
            transition, unit = await self._lock_unit(session)
            if isinstance(error, TransferError) and self._may_help(error):
                return await self._put_off(session, transition, unit, errors=[error])
            transition.fail(ExecutionError.of(error))
            transition.fail_fast()  # some of it may be at work already
            transition.warn(self._warnings)
            await cancel_queued_images(session, transition)
            await self._end(session, transition, unit)
        return None

    async def _stop(self, reason: StopReason | None) -> ClaimDeferred | None:
        async with self._database.transaction() as session:
            transition, unit = await self._lock_unit(session)
            if reason is StopReason.SHUTDOWN:
                await UnitStore(session).give_back(unit, now=self._clock())
                return ClaimDeferred(0.0)
            await cancel_queued_images(session, transition)
            await self._end(session, transition, unit)
        return None

    async def _lock_unit(self, session: Session) -> tuple[JobTransition, Unit]:
        locked, unit = await UnitStore(session).lock(self._claim.unit.id, fence=self._claim.unit.fence)
        return JobTransition(locked, now=self._clock()), unit

    async def _end(self, session: Session, transition: JobTransition, unit: Unit) -> None:
        await UnitStore(session).finish(unit, now=transition.now)
        transition.finish_units(1)
        await self._save(session, transition)

    async def _save(self, session: Session, transition: JobTransition) -> None:
        await save_transition(session, transition, self._database.change_feed)


async def _recall_rows(session: Session, job_number: int, *, claims: DestinationClaims, failed: set[Listing]) -> None:
    """Take in the rows of a job, a page at a time; its lists that failed go to `failed`."""
    after = -1
    while rows := await PlannedImageStore(session).list_planned(job_number, after=after):
        for row in rows:
            if row.copy is not None:
                claims.recall(row.copy)
            elif row.kind == "refused":
                claims.recall_refusal(row.source, row.destination)
            elif row.rule is not None:
                failed.add(Listing(row.rule, row.source))
        after = rows[-1].position


async def _list_retried(session: Session, job_id: str | None) -> list[int]:
    """Return the numbers of the jobs that a retry goes back to, as far as they are still there, the last first."""
    numbers: list[int] = []
    while job_id is not None and len(numbers) < MAX_RETRIES_RECALLED:
        job = await JobStore(session).find(job_id)
        if job is None:
            break
        numbers.append(await JobStore(session).get_number(job_id))
        job_id = job.retry_of
    return numbers


def divided(
    ends: Sequence[int], *, workers: int, first: int = 0, copies: int = 0, size: int | None = None
) -> list[tuple[int, int]]:
    """Divide copies, given by the last position of each, into the ranges of positions that units have.

    They begin at `first`; each has `size` copies, or as many as give every one of `workers` several units of the
    whole job, which has `copies` of them.
    """
    if size is None:
        least = LEAST_IN_UNIT if workers == 1 else 1
        size = min(max(max(len(ends), copies) // (SHARES_PER_WORKER * workers), least), MOST_IN_UNIT)
    lasts = [*ends[size - 1 :: size], *([ends[-1]] if len(ends) % size else [])]
    return list(zip([first, *(last + 1 for last in lasts)], lasts, strict=False))
