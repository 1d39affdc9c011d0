"""A unit's ledger: what becomes of its images, gathered in memory and written in short transactions.

Written about once a second while bytes move, soon after an image begins or ends, and at the end. Each write checks the
fence first; a claim that was lost writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

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
WAIT_SECONDS = 2.0
"""How long a unit rests whose images wait for another job's."""
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
        """Note how images ended; what was worth another try has been tried again by then."""
        for result in results:
            self._warnings.extend(result.warnings)
            position = self._positions[str(result.destination)]
            image = _with_tally(self._images[position], grown(self._bases[position], result.tally))
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
        self._rest_seconds = WAIT_SECONDS

    # --- writing ------------------------------------------------------------------------------------------------------

    async def keep(self, halt: Halt) -> None:
        """Write what there is to write, again and again, until told to `stop_keeping`; wait while the database is gone.

        When the claim turns out to be lost, the unit is told so.
        """
        while not self._closing.is_set():
            await self._something_to_write()
            try:
                await self.flush()
            except UnavailableError:
                await wait_for(self._closing, TALLY_SECONDS)
            except JobInterrupted:
                halt.call(Reason.LOST)
                return

    def stop_keeping(self) -> None:
        """End `keep`, after what it writes just now."""
        self._closing.set()
        self._soon.set()

    async def flush(self) -> None:
        """Write what has changed; raise `JobInterrupted` when the claim is lost."""
        async with self._lock:
            self._soon.clear()
            if not self._dirty:
                return
            taken, self._dirty = self._dirty, set()
            try:
                async with self._database.transaction() as session:
                    change, _ = await self._hold(session)
                    await self._write(session, change, taken)
                    await self._save(session, change)
            except BaseException:
                self._dirty |= taken
                raise

    async def close(self, reason: Reason | None) -> float | None:
        """Write what is left and end the unit, or give it back; return after how many seconds it is to come again."""
        self._settle(reason)
        async with self._lock, self._database.transaction() as session:
            change, unit = await self._hold(session)
            await self._write(session, change, set(self._images))
            left = [image for image in self._images.values() if not image.state.done]
            now = self._clock()
            rest = None if not left else 0.0 if reason is Reason.SHUTDOWN else self._rest_seconds
            await DestinationStore(session).release([image.destination for image in left], unit_id=unit.id)
            if rest is None:
                await UnitStore(session).finish(unit, now=now)
                change.finish_units(1)
            else:
                not_before = now + timedelta(seconds=rest) if rest else None
                await UnitStore(session).give_back(unit, now=now, not_before=not_before)
            await self._save(session, change)
        return rest

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

    async def _something_to_write(self) -> None:
        if await wait_for(self._soon, TALLY_SECONDS):
            await wait_for(self._closing, SOON_SECONDS)

    async def _hold(self, session: Session) -> tuple[JobChange, Unit]:
        held, unit = await UnitStore(session).hold(self._claim.unit.id, fence=self._claim.unit.fence)
        return JobChange(held, now=self._clock()), unit

    async def _write(self, session: Session, change: JobChange, positions: Collection[int]) -> None:
        images = ImageStore(session)
        before = await images.read_states(self._claim.unit.job_number, sorted(positions))
        changed = []
        for position, (state, tally) in sorted(before.items()):
            image = self._images[position]
            if state.done and not image.state.done:
                self._images[position] = replace(image, state=state)  # cancelled meanwhile, before it had begun here
                continue
            if state.done and state is image.state:
                continue
            change.count(state, image.state, growth=added(_tally_of(image), tally, sign=-1))
            changed.append((position, image))
        await images.record(self._claim.unit.job_number, changed, revision=change.take_revisions(len(changed)))
        change.warn(tuple(self._warnings))
        ended = [image for _, image in changed if image.state.done]
        await self._release(session, ended)
        if self._claim.job.request.options.fail_fast and any(image.state is ImageState.FAILED for image in ended):
            change.fail_fast()
            await stop_queued(session, change)

    async def _release(self, session: Session, ended: Sequence[Image]) -> None:
        holds, unit = DestinationStore(session), self._claim.unit
        written = [image.destination for image in ended if _was_written(image)]
        other = [image.destination for image in ended if not _was_written(image)]
        await holds.release(written, unit_id=unit.id, written_by=unit.job_number)
        await holds.release(other, unit_id=unit.id)

    async def _save(self, session: Session, change: JobChange) -> None:
        await save_change(session, change)
        await self._database.announcements.announce(session, self._claim.job.id)


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
