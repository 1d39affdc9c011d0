"""The progress writer of a unit: what becomes of its images, gathered in memory and written in short transactions.

Written about once a second while bytes move, soon after an image begins or ends, and at the end. Each write checks the
fencing token first; a claim that was lost writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from app.concurrency import wait_for_event
from app.domain.errors import JobInterrupted, UnavailableError
from app.domain.job import BlobCounts, ByteCounts, Image, ImageState, JobPause
from app.domain.reference import Reference
from app.domain.report import EXISTS_DIFFERENT, CopyResult, CopyStep, ExecutionError, FailureCount, JobWarning, Tally
from app.domain.retry_policy import RetryPolicy
from app.jobs.cancellation import cancel_queued_images
from app.jobs.outbox import report_images, save_transition
from app.jobs.transitions import JobTransition, added, grown
from app.store.db.database import Database, Session, after_commit
from app.store.images import ImageStore
from app.store.units import DestinationLockStore, Unit, UnitStore
from app.worker.claims import Claim, StopReason, StopSignal

TALLY_SECONDS = 1.0
"""How often moving bytes are written down."""
SOON_SECONDS = 0.5
"""How long a begun or ended image waits for others, to be written with them."""
TAG_WAITS = RetryPolicy(first_delay=0.25, max_delay=5.0)
"""Of a unit whose images wait for another job's, which may be large ones."""
MAX_LOGGED_IMAGES = 1_000
"""Failed images of a job whose steps are kept; those of a job that fails as a whole are alike."""
IMAGE_RETRIES = RetryPolicy(attempts=3, first_delay=10.0, growth=3.0, max_pause=86_400.0)
"""Of an image, later: a registry that is started anew is back by then. Its pauses put an image off until so long after
it first began; then it has failed."""
T = TypeVar("T")
_Row = tuple[ImageState, Tally]

SUPERSEDED = "superseded"
"""The reason of an image whose destination a later job has written meanwhile."""


class ProgressWriter:
    """The images of one claim, and what is written of them, under its fencing token.

    - `claim`: the unit, its job and images
    - `clock`: the time, in UTC
    """

    def __init__(self, claim: Claim, database: Database, *, clock: Callable[[], datetime]) -> None:
        self._claim = claim
        self._database = database
        self._clock = clock
        self._images: dict[int, Image] = {stored.position: stored.image for stored in claim.images}
        self._positions = {stored.image.destination: stored.position for stored in claim.images}
        self._bases = {stored.position: stored.tally for stored in claim.images}
        self._rows = {stored.position: (stored.image.state, stored.tally) for stored in claim.images}
        """What the rows say: under this claim only this writer and a cancellation of the job write them."""
        self._knows_rows = True
        self._moving: dict[int, Tally] = {}
        """What images came to that have not ended; one comes with each piece of a blob, few are looked at."""
        self._dirty: set[int] = set()
        self._warnings: dict[int, tuple[JobWarning, ...]] = {}
        """By image: they count when its end is written, and so once."""
        self._steps: dict[int, tuple[CopyStep, ...]] = {}
        """By image, of its last attempt: what is written where it has failed."""
        self._rests: dict[int, float] = {}
        """After how many seconds an image is to come again that is not done."""
        self._pauses: dict[int, JobPause] = {}
        """What images wait for whose registry asked to be left alone."""
        self._soon = asyncio.Event()
        self._closing = asyncio.Event()
        self._lock = asyncio.Lock()

    # --- what happens to images ---------------------------------------------------------------------------------------

    def begin(self, positions: Collection[int]) -> None:
        """Note that images are being copied."""
        for position in positions:
            image = self._image(position)
            attempts, started_at = image.attempts + 1, image.started_at or self._clock()
            image = replace(image, state=ImageState.RUNNING, attempts=attempts, started_at=started_at, error=None)
            self._set(position, image)

    def observe(self, destination: Reference, tally: Tally) -> None:
        """Note what became of an image's blobs so far."""
        position = self._positions[str(destination)]
        self._moving[position] = tally
        self._dirty.add(position)

    def record(self, results: Sequence[CopyResult]) -> None:
        """Note how images ended, or that another attempt is to be made later."""
        for result in results:
            position = self._positions[str(result.destination)]
            self._steps[position] = result.steps
            self._moving.pop(position, None)
            image, counts = self._images[position], _counts(grown(self._bases[position], result.tally))
            if result.retry_after and self._may_wait(image):
                self._put_off(position, replace(image, **counts), error=result.error, seconds=result.retry_after)
            elif result.retry_later and IMAGE_RETRIES.allows(image.attempts):
                self._set(position, replace(image, state=ImageState.QUEUED, error=result.error, **counts))
                self._rests[position] = IMAGE_RETRIES.delay(image.attempts)
            else:
                self._warnings[position] = result.warnings
                self._set(position, _ended(image, result, now=self._clock(), counts=counts))

    def fail(self, positions: Collection[int], error: ExecutionError) -> None:
        """Note that images failed for a reason that is not their registry's."""
        for position in positions:
            self._end(position, ImageState.FAILED, error=error)

    def supersede(self, position: int) -> None:
        """Leave an image whose destination a later job has written meanwhile: that is the outcome asked for."""
        self._end(position, ImageState.UP_TO_DATE, reason=SUPERSEDED)

    def defer(self, position: int) -> None:
        """Note that an image waits for another job's: the unit comes again for it."""
        self._rests[position] = TAG_WAITS.delay(self._claim.unit.failures + 1)

    # --- writing ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def writing(self, stop_signal: StopSignal) -> AsyncIterator[None]:
        """Write periodically while inside; `close` writes the rest, and ends the unit."""
        writing = asyncio.create_task(self.run_periodically(stop_signal))
        try:
            yield
        finally:
            self._closing.set()
            self._soon.set()
            await writing

    async def run_periodically(self, stop_signal: StopSignal) -> None:
        """Write what there is to write, again and again, until the unit ends; wait while the database is gone.

        When the claim turns out to be lost, the unit's stop signal is set.
        """
        while not await self._is_closing():
            try:
                await self.flush()
            except UnavailableError:
                await wait_for_event(self._closing, TALLY_SECONDS)
            except JobInterrupted:
                stop_signal.call(StopReason.LOST)
                return

    async def flush(self) -> None:
        """Write what has changed; raise `JobInterrupted` when the claim is lost."""

        async def nothing_else(_session: Session, _change: JobTransition, _unit: Unit) -> None:
            return

        async with self._lock:
            self._soon.clear()
            if self._dirty:
                await self._commit(nothing_else)

    async def close(self, reason: StopReason | None) -> float | None:
        """Write what is left and end the unit, or give it back; return after how many seconds it is to come again."""
        self._settle(reason)

        async def end_or_give_back(session: Session, transition: JobTransition, unit: Unit) -> float | None:
            left = [image.destination for image in self._images.values() if not image.state.done]
            if not left:
                await UnitStore(session).finish(unit, now=transition.now)
                transition.finish_units(1)
                return None
            rest = 0.0 if reason is StopReason.SHUTDOWN else self._rest_seconds
            for pause in self._pauses.values():
                transition.wait_for(pause)
            await DestinationLockStore(session).release(left, unit_id=unit.id)
            if rest:
                later = transition.now + timedelta(seconds=rest)
                await UnitStore(session).retry(unit, now=transition.now, not_before=later)
            else:
                await UnitStore(session).give_back(unit, now=transition.now)
            return rest

        async with self._lock:
            return await self._commit(end_or_give_back)

    # --- below --------------------------------------------------------------------------------------------------------

    @property
    def _rest_seconds(self) -> float:
        """When the first of what is not done is to come again; at once where the time was too short to begin it."""
        left = [position for position, image in self._images.items() if not image.state.done]
        return min((self._rests.get(position, 0.0) for position in left), default=0.0)

    def _may_wait(self, image: Image) -> bool:
        longest = timedelta(seconds=IMAGE_RETRIES.max_pause)
        return image.started_at is None or self._clock() - image.started_at < longest

    def _put_off(self, position: int, image: Image, *, error: ExecutionError | None, seconds: float) -> None:
        """Have an image come again when its registry may be asked again; that was no attempt."""
        self._set(position, replace(image, state=ImageState.QUEUED, attempts=image.attempts - 1, error=error))
        self._rests[position] = seconds
        if error is not None:
            until = self._clock() + timedelta(seconds=seconds)
            self._pauses[position] = JobPause(error.registry or "", until, error.message)

    def _image(self, position: int) -> Image:
        """Return an image as it is by now, with what its blobs came to."""
        if (tally := self._moving.pop(position, None)) is not None:
            counts = _counts(grown(self._bases[position], tally))
            self._images[position] = replace(self._images[position], **counts)
        return self._images[position]

    def _set(self, position: int, image: Image) -> None:
        self._images[position] = image
        self._dirty.add(position)
        self._soon.set()

    def _end(
        self, position: int, state: ImageState, *, reason: str | None = None, error: ExecutionError | None = None
    ) -> None:
        image = self._image(position)
        self._set(position, replace(image, state=state, reason=reason, error=error, finished_at=self._clock()))

    def _settle(self, reason: StopReason | None) -> None:
        for position in self._images:
            image = self._image(position)
            if image.state.done:
                continue
            if reason is StopReason.STOPPING:
                self._end(position, ImageState.CANCELLED)
            elif image.state is ImageState.RUNNING:
                self._set(position, replace(image, state=ImageState.QUEUED, attempts=image.attempts - 1))

    async def _is_closing(self) -> bool:
        if await wait_for_event(self._soon, TALLY_SECONDS):
            await wait_for_event(self._closing, SOON_SECONDS)
        return self._closing.is_set()

    async def _commit(self, also: Callable[[Session, JobTransition, Unit], Awaitable[T]]) -> T:
        """Write what has changed, and what else there is to do, in one transaction under the fence."""
        taken, self._dirty = self._dirty, set()
        try:
            async with self._database.transaction(is_short=True) as session:
                locked, unit = await UnitStore(session).lock(self._claim.unit.id, fence=self._claim.unit.fence)
                transition = JobTransition(locked, now=self._clock())
                written = await self._write(session, transition, taken)
                result = await also(session, transition, unit)
                await save_transition(session, transition, self._database.change_feed)
        except BaseException:
            self._dirty |= taken
            self._knows_rows = False  # a commit whose answer was lost may have happened
            raise
        self._rows |= written
        self._knows_rows = True
        return result

    async def _write(self, session: Session, transition: JobTransition, positions: Collection[int]) -> dict[int, _Row]:
        images, number = ImageStore(session), self._claim.unit.job_number
        rows = {position: self._rows[position] for position in positions}
        if transition.job.is_stopping or not self._knows_rows:
            rows = await images.read_states(number, list(self._images))
        changed = []
        for position, (state, tally) in sorted(rows.items()):
            image = self._image(position)
            if state.done and not image.state.done:
                self._images[position] = replace(image, state=state)  # cancelled meanwhile, before it had begun here
            elif not (state.done and state is image.state):
                transition.count(state, image.state, growth=added(_tally_of(image), tally, sign=-1))
                changed.append((position, image))
        await images.record(number, changed, revision=transition.take_revisions(len(changed)))
        ended = [image for _, image in changed if image.state.done]
        after_commit(session, partial(report_images, transition.job.id, transition.job.policy, ended))
        transition.count_rows(ended)
        transition.count_failures(_failure_of(image) for image in ended if image.state is ImageState.FAILED)
        done = (position for position, image in changed if image.state.done)
        transition.warn(warning for position in done for warning in self._warnings.get(position, ()))
        await self._write_logs(images, transition, changed)
        await self._release(session, ended)
        if self._claim.job.request.options.fail_fast and any(image.state is ImageState.FAILED for image in ended):
            transition.fail_fast()
            await cancel_queued_images(session, transition)
        return {position: (image.state, _tally_of(image)) for position, image in changed}

    async def _write_logs(
        self, images: ImageStore, transition: JobTransition, changed: Sequence[tuple[int, Image]]
    ) -> None:
        if transition.job.progress.images.failed >= MAX_LOGGED_IMAGES:
            return
        failed = (position for position, image in changed if image.state is ImageState.FAILED)
        await images.put_logs(
            transition.job.number, {position: self._steps[position] for position in failed if self._steps.get(position)}
        )

    async def _release(self, session: Session, ended: Sequence[Image]) -> None:
        holds, unit = DestinationLockStore(session), self._claim.unit
        written = [image.destination for image in ended if _was_written(image)]
        other = [image.destination for image in ended if not _was_written(image)]
        await holds.release(written, unit_id=unit.id, written_by=unit.job_number)
        await holds.release(other, unit_id=unit.id)


def _ended(image: Image, result: CopyResult, *, now: datetime, counts: Mapping[str, Any]) -> Image:
    return replace(
        image,
        state=ImageState(result.outcome),
        action=result.action,
        reason=result.reason,
        digest=result.digest,
        destination_digest=result.destination_digest,
        previous_digest=result.previous_digest,
        media_type=result.media_type,
        platforms=result.platforms,
        companions=result.companions,
        attempts=image.attempts + result.attempts - 1,
        error=result.error,
        finished_at=now,
        **counts,
    )


def _failure_of(image: Image) -> FailureCount:
    error = image.error or ExecutionError("internal", "no reason was given")
    return FailureCount(image.kind, error.code, error.side, 1, image.source, image.destination, error.message)


def _was_written(image: Image) -> bool:
    if image.state is ImageState.UP_TO_DATE:
        return image.reason not in {EXISTS_DIFFERENT, SUPERSEDED}
    return image.state is ImageState.COPIED


def _counts(tally: Tally) -> dict[str, Any]:
    """Return what an image shows of its tally."""
    return {
        "blobs": BlobCounts(tally.blobs_present, tally.blobs_mounted, tally.blobs_transferred),
        "bytes": ByteCounts(tally.bytes_total, tally.bytes_done, tally.bytes_transferred),
    }


def _tally_of(image: Image) -> Tally:
    blobs, amounts = image.blobs, image.bytes
    return Tally(blobs.present, blobs.mounted, blobs.transferred, amounts.total, amounts.done, amounts.transferred)
