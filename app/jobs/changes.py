"""One change of a held job, worked out before it is written: states move along the allowed moves, counts follow."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime

from app.domain.errors import ConflictError
from app.domain.job import JOB_MOVES, BlobCounts, ByteCounts, ImageCounts, ImageState, JobState, Progress
from app.domain.report import ExecutionError, JobWarning, Tally
from app.store.job_rows import HeldJob

RATE_SECONDS = 1.0
"""How long bytes are counted before their rate is worked out anew."""


class JobChange:
    """Gathers what one transaction changes about a job; `result` is what to save."""

    def __init__(self, job: HeldJob, *, now: datetime) -> None:
        self._job = job
        self.before = job
        """The job as it was."""
        self.now = now
        self._version = job.version
        self._images: Counter[ImageState] = Counter()
        self._tally = Tally()
        self._has_news = False

    @property
    def job(self) -> HeldJob:
        """The job as changed so far, but for its counts."""
        return self._job

    @property
    def has_moved(self) -> bool:
        """Whether the job comes into another state with this change."""
        return self._job.state is not self.before.state

    def take_revisions(self, count: int) -> int:
        """Reserve numbers for changed images; return the first."""
        first = self._version + 1
        self._version += count
        return first

    def count(self, before: ImageState | None, after: ImageState, *, growth: Tally | None = None) -> None:
        """Count an image that moved, or is new; `growth` is what its tally grew by."""
        if before is not None:
            self._images[before] -= 1
        self._images[after] += 1
        self._tally = added(self._tally, growth or Tally())

    def count_many(self, before: ImageState | None, after: ImageState, number: int) -> None:
        """Count images that moved together, or are new."""
        if before is not None:
            self._images[before] -= number
        self._images[after] += number

    def discount(self, state: ImageState, number: int) -> None:
        """Take images back that turned out not to be wanted."""
        self._images[state] -= number

    def begin(self) -> None:
        """Note that some unit of it runs."""
        if self._job.state is JobState.QUEUED:
            self._move(JobState.RUNNING)
            self._job = replace(self._job, started_at=self.now)

    def plan(self, *, units: int, warnings: tuple[JobWarning, ...]) -> None:
        """Note that all images are known, and divided into units."""
        progress = replace(self._job.progress, planned=True)
        left = self._job.units_left + units
        self._job = replace(self._job, progress=progress, units_left=left, warnings=self._job.warnings + warnings)
        self._has_news = True

    def take_over(self, images: int) -> None:
        """Begin with a plan: so many images, taken from a job before."""
        self.take_revisions(images)
        self.count_many(None, ImageState.QUEUED, images)
        self._job = replace(self._job, progress=replace(self._job.progress, planned=True))

    def warn(self, warnings: tuple[JobWarning, ...]) -> None:
        """Add warnings, each once."""
        new = tuple(warning for warning in warnings if warning not in self._job.warnings)
        if new:
            self._job = replace(self._job, warnings=self._job.warnings + new)
            self._has_news = True

    def request_cancel(self) -> None:
        """Wish that it stops; its units look out for that."""
        self._job = replace(self._job, cancel_requested=True)
        self._has_news = True

    def fail_fast(self) -> None:
        """Stop all images that have not ended, because one failed."""
        self._job = replace(self._job, is_failing_fast=True)
        self._has_news = True

    def fail(self, error: ExecutionError) -> None:
        """Note why the whole job failed."""
        self._job = replace(self._job, error=error)
        self._has_news = True

    def finish_units(self, number: int) -> None:
        """Count ended units; the job ends with the last of them."""
        self._job = replace(self._job, units_left=self._job.units_left - number)
        if number and self._job.units_left == 0:
            self._move(self._end_state())
            self._job = replace(self._job, finished_at=self.now)

    def result(self) -> HeldJob:
        """Give the job to save, one version on."""
        version = self._version + 1
        job = replace(self._job, progress=self._progress(), version=version)
        if self._has_news:
            job = replace(job, state_version=version)
        return _with_rate(job, self.now)

    def _move(self, state: JobState) -> None:
        if state not in JOB_MOVES[self._job.state]:
            raise ConflictError(f"a job that is {self._job.state} can't become {state}", code="job_already_finished")
        self._job = replace(self._job, state=state)
        self._has_news = True

    def _end_state(self) -> JobState:
        images = self._progress().images
        was_cut = images.cancelled > 0 or not self._job.progress.planned
        if self._job.cancel_requested and was_cut:
            return JobState.CANCELLED
        return JobState.FAILED if self._job.error or images.failed else JobState.SUCCEEDED

    def _progress(self) -> Progress:
        progress, moved, tally = self._job.progress, self._images, self._tally
        images, blobs, amounts = progress.images, progress.blobs, progress.bytes
        return replace(
            progress,
            images=ImageCounts(**{state.value: getattr(images, state.value) + moved[state] for state in ImageState}),
            blobs=BlobCounts(
                blobs.present + tally.blobs_present,
                blobs.mounted + tally.blobs_mounted,
                blobs.transferred + tally.blobs_transferred,
            ),
            bytes=replace(
                amounts,
                total=amounts.total + tally.bytes_total,
                done=amounts.done + tally.bytes_done,
                transferred=amounts.transferred + tally.bytes_transferred,
            ),
        )


def grown(before: Tally, after: Tally) -> Tally:
    """Add what this attempt did to what earlier ones had done, taking back nothing that was shown.

    What was sent or mounted before, this attempt finds present: it counts once, as what it was the first time.
    """
    mounted = before.blobs_mounted + after.blobs_mounted
    transferred = before.blobs_transferred + after.blobs_transferred
    found_again = before.blobs_mounted + before.blobs_transferred
    return Tally(
        blobs_present=max(before.blobs_present, after.blobs_present - found_again),
        blobs_mounted=mounted,
        blobs_transferred=transferred,
        bytes_total=max(before.bytes_total, after.bytes_total),
        bytes_done=max(before.bytes_done, after.bytes_done),
        bytes_transferred=before.bytes_transferred + after.bytes_transferred,
    )


def added(one: Tally, other: Tally, *, sign: int = 1) -> Tally:
    """Add two tallies up, or take one from the other."""
    return Tally(
        blobs_present=one.blobs_present + sign * other.blobs_present,
        blobs_mounted=one.blobs_mounted + sign * other.blobs_mounted,
        blobs_transferred=one.blobs_transferred + sign * other.blobs_transferred,
        bytes_total=one.bytes_total + sign * other.bytes_total,
        bytes_done=one.bytes_done + sign * other.bytes_done,
        bytes_transferred=one.bytes_transferred + sign * other.bytes_transferred,
    )


def _with_rate(job: HeldJob, now: datetime) -> HeldJob:
    amounts = job.progress.bytes
    if job.done:
        return _rated(job, amounts, now=now, per_second=0)
    if job.rate_at is None:
        return replace(job, rate_at=now, rate_bytes=amounts.transferred)
    seconds = (now - job.rate_at).total_seconds()
    if seconds < RATE_SECONDS:
        return job
    return _rated(job, amounts, now=now, per_second=int((amounts.transferred - job.rate_bytes) / seconds))


def _rated(job: HeldJob, amounts: ByteCounts, *, now: datetime, per_second: int) -> HeldJob:
    progress = replace(job.progress, bytes=replace(amounts, per_second=per_second))
    return replace(job, progress=progress, rate_at=now, rate_bytes=amounts.transferred)
