"""A unit's ledger: what becomes of its images, gathered in memory and written in short transactions.

Written about once a second while bytes move, soon after an image begins or ends, and at the end. Each write checks the
fence first; a claim that was lost writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from app.domain.errors import JobInterrupted, UnavailableError
from app.domain.job import BlobCounts, ByteCounts, Image, ImageState
from app.domain.reference import Reference
from app.domain.report import CopyResult, ExecutionError, JobWarning, Tally
from app.jobs.changes import JobChange, added, grown
from app.jobs.claims import Claim
from app.jobs.halting import Halt, Reason
from app.jobs.notices import save_change
from app.jobs.patience import wait_for
from app.jobs.stopping import stop_queued
from app.store.database import Database, Session
from app.store.destinations import DestinationStore
from app.store.images import ImageStore
from app.store.units import Unit, UnitStore

TALLY_SECONDS = 1.0
"""How often moving bytes are written down."""
SOON_SECONDS = 0.1
"""How long a begun or ended image waits for others, to be written with them."""
FIRST_WAIT_SECONDS = 0.25
MOST_WAIT_SECONDS = 5.0
"""How long a unit rests whose images wait for another job's: twice as long each time, since that may be a large one."""
MAX_ATTEMPTS = 3
LATER_SECONDS = 10.0
"""Until an image's second attempt, and three times as long until the third: a registry that is started anew is back."""
T = TypeVar("T")
_Row = tuple[ImageState, Tally]

KEPT_DIFFERENT = "exists_different_digest"
"""The reason of an image whose destination was left as it was."""
SUPERSEDED = "superseded"
"""The reason of an image whose destination a later job has written meanwhile."""


class UnitLedger:
    """The images of one claim."""

    def __init__(self, claim: Claim, database: Database, *, clock: Callable[[], datetime]) -> None:
        self._claim = claim
        self._database = database
        self._clock = clock
        self._images: dict[int, Image] = {stored.position: stored.image for stored in claim.images}
        self._positions = {stored.image.destination: stored.position for stored in claim.images}
        self._bases = {stored.position: stored.tally for stored in claim.images}
        self._rows = {stored.position: (stored.image.state, stored.tally) for stored in claim.images}
        """What the rows say: nobody writes them under this claim but the ledger, and who stops the job."""
        self._knows_rows = True
        self._dirty: set[int] = set()
        self._warnings: list[JobWarning] = []
        self._rest_seconds = 0.0
        self._soon = asyncio.Event()
        self._closing = asyncio.Event()
        self._lock = asyncio.Lock()

    # --- what happens to images ---------------------------------------------------------------------------------------

    def begin(self, positions: Collection[int]) -> None:
        """Note that images are being copied."""
        for position in positions:
            image = self._images[position]
            started_at = image.started_at or self._clock()
            self._set(
                position,
                replace(
                    image, state=ImageState.RUNNING, attempts=image.attempts + 1, started_at=started_at, error=None
                ),
            )

    def observe(self, destination: Reference, tally: Tally) -> None:
        """Note what became of an image's blobs so far."""
        position = self._positions[str(destination)]
        self._images[position] = _with_tally(self._images[position], grown(self._bases[position], tally))
        self._dirty.add(position)

    def record(self, results: Sequence[CopyResult]) -> None:
        """Note how images ended, or that another attempt is to be made later."""
        for result in results:
            position = self._positions[str(result.destination)]
            image = _with_tally(self._images[position], grown(self._bases[position], result.tally))
            if result.may_pass and image.attempts < MAX_ATTEMPTS:
                self._set(position, replace(image, state=ImageState.QUEUED, error=result.error))
                self._rest_seconds = max(self._rest_seconds, LATER_SECONDS * 3 ** (image.attempts - 1))
                continue
            self._warnings.extend(result.warnings)
            self._set(position, _ended(image, result, self._clock()))

    def fail(self, positions: Collection[int], error: ExecutionError) -> None:
        """Note that images failed for a reason that is not their registry's."""
        for position in positions:
            self._end(position, ImageState.FAILED, error=error)

    def supersede(self, position: int) -> None:
        """Leave an image whose destination a later job has written meanwhile: that is the outcome asked for."""
        self._end(position, ImageState.UP_TO_DATE, reason=SUPERSEDED)

    def wait(self) -> None:
        """Note that some image waits for another job's."""
        rest = min(FIRST_WAIT_SECONDS * 2**self._claim.unit.failures, MOST_WAIT_SECONDS)
        self._rest_seconds = max(self._rest_seconds, rest)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def keep(self, halt: Halt) -> None:
        """Write what there is to write, again and again, until told to `stop_keeping`; wait while the database is gone.

        When the claim turns out to be lost, the unit is told so.
        """
        while not await self._is_closing():
            try:
                await self.flush()
            except UnavailableError:
                await wait_for(self._closing, TALLY_SECONDS)
            except JobInterrupted:
                halt.call(Reason.LOST)
                return

    def stop_keeping(self) -> None:
        """End `keep`, after what it writes just now; `close` writes the rest."""
        self._closing.set()
        self._soon.set()

    async def flush(self) -> None:
        """Write what has changed; raise `JobInterrupted` when the claim is lost."""

        async def nothing_else(_session: Session, _change: JobChange, _unit: Unit) -> None:
            return

        async with self._lock:
            self._soon.clear()
            if self._dirty:
                await self._commit(nothing_else)

    async def close(self, reason: Reason | None) -> float | None:
        """Write what is left and end the unit, or give it back; return after how many seconds it is to come again."""
        self._settle(reason)

        async def end_or_give_back(session: Session, change: JobChange, unit: Unit) -> float | None:
            left = [image.destination for image in self._images.values() if not image.state.done]
            if not left:
                await UnitStore(session).finish(unit, now=change.now)
                change.finish_units(1)
                return None
            rest = 0.0 if reason is Reason.SHUTDOWN else self._rest_seconds
            await DestinationStore(session).release(left, unit_id=unit.id)
            if rest:
                await UnitStore(session).retry(unit, now=change.now, not_before=change.now + timedelta(seconds=rest))
            else:
                await UnitStore(session).give_back(unit, now=change.now)
            return rest

        async with self._lock:
            return await self._commit(end_or_give_back)

    # --- below --------------------------------------------------------------------------------------------------------

    def _set(self, position: int, image: Image) -> None:
        self._images[position] = image
        self._dirty.add(position)
        self._soon.set()

    def _end(
        self, position: int, state: ImageState, *, reason: str | None = None, error: ExecutionError | None = None
    ) -> None:
        image = self._images[position]
        self._set(position, replace(image, state=state, reason=reason, error=error, finished_at=self._clock()))

    def _settle(self, reason: Reason | None) -> None:
        for position, image in self._images.items():
            if image.state.done:
                continue
            if reason is Reason.STOPPING:
                self._end(position, ImageState.CANCELLED)
            elif image.state is ImageState.RUNNING:
                self._set(position, replace(image, state=ImageState.QUEUED, attempts=image.attempts - 1))

    async def _is_closing(self) -> bool:
        if await wait_for(self._soon, TALLY_SECONDS):
            await wait_for(self._closing, SOON_SECONDS)
        return self._closing.is_set()

    async def _commit(self, also: Callable[[Session, JobChange, Unit], Awaitable[T]]) -> T:
        """Write what has changed, and what else there is to do, in one transaction under the fence."""
        taken, self._dirty = self._dirty, set()
        try:
            async with self._database.transaction() as session:
                held, unit = await UnitStore(session).hold(self._claim.unit.id, fence=self._claim.unit.fence)
                change = JobChange(held, now=self._clock())
                written = await self._write(session, change, taken)
                result = await also(session, change, unit)
                await save_change(session, change)
                self._database.announcements.announce(session, held.id)
        except BaseException:
            self._dirty |= taken
            self._knows_rows = False  # a commit whose answer was lost may have happened
            raise
        self._rows |= written
        self._knows_rows = True
        return result

    async def _write(self, session: Session, change: JobChange, positions: Collection[int]) -> dict[int, _Row]:
        images, number = ImageStore(session), self._claim.unit.job_number
        rows = {position: self._rows[position] for position in positions}
        if change.job.is_stopping or not self._knows_rows:
            rows = await images.read_states(number, list(self._images))
        changed = []
        for position, (state, tally) in sorted(rows.items()):
            image = self._images[position]
            if state.done and not image.state.done:
                self._images[position] = replace(image, state=state)  # cancelled meanwhile, before it had begun here
            elif not (state.done and state is image.state):
                change.count(state, image.state, growth=added(_tally_of(image), tally, sign=-1))
                changed.append((position, image))
        await images.record(number, changed, revision=change.take_revisions(len(changed)))
        change.warn(tuple(self._warnings))
        ended = [image for _, image in changed if image.state.done]
        await self._release(session, ended)
        if self._claim.job.request.options.fail_fast and any(image.state is ImageState.FAILED for image in ended):
            change.fail_fast()
            await stop_queued(session, change)
        return {position: (image.state, _tally_of(image)) for position, image in changed}

    async def _release(self, session: Session, ended: Sequence[Image]) -> None:
        holds, unit = DestinationStore(session), self._claim.unit
        written = [image.destination for image in ended if _was_written(image)]
        other = [image.destination for image in ended if not _was_written(image)]
        await holds.release(written, unit_id=unit.id, written_by=unit.job_number)
        await holds.release(other, unit_id=unit.id)


def _ended(image: Image, result: CopyResult, now: datetime) -> Image:
    return replace(
        image,
        state=ImageState(result.outcome),
        reason=result.reason,
        digest=result.digest,
        destination_digest=result.destination_digest,
        previous_digest=result.previous_digest,
        media_type=result.media_type,
        platforms=result.platforms,
        attempts=image.attempts + result.attempts - 1,
        error=result.error,
        finished_at=now,
    )


def _was_written(image: Image) -> bool:
    if image.state is ImageState.UP_TO_DATE:
        return image.reason not in {KEPT_DIFFERENT, SUPERSEDED}
    return image.state is ImageState.COPIED


def _with_tally(image: Image, tally: Tally) -> Image:
    blobs = BlobCounts(tally.blobs_present, tally.blobs_mounted, tally.blobs_transferred)
    return replace(image, blobs=blobs, bytes=ByteCounts(tally.bytes_total, tally.bytes_done, tally.bytes_transferred))


def _tally_of(image: Image) -> Tally:
    blobs, amounts = image.blobs, image.bytes
    return Tally(blobs.present, blobs.mounted, blobs.transferred, amounts.total, amounts.done, amounts.transferred)
