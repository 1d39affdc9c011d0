"""The state machine of a job, applied: one change of a locked job, computed before it is written, with its counts.

Which states may follow a state is `JOB_MOVES` in `app.domain.job`; only this module moves a job through them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from msgspec import structs

from app.domain.errors import ConflictError
from app.domain.job import (
    JOB_MOVES,
    BlobCounts,
    ByteCounts,
    Image,
    ImageCounts,
    ImageState,
    JobPause,
    JobState,
    Progress,
)
from app.domain.report import (
    ExecutionError,
    FailureCount,
    JobWarning,
    PlanAction,
    Tally,
    counted_failures,
    merged_warnings,
)
from app.store.jobs import LockedJob

RATE_SECONDS = 1.0
"""How long bytes are counted before their rate is worked out anew."""


class JobTransition:
    """Gathers what one transaction changes about a job; `result` is what to save."""

    def __init__(self, job: LockedJob, *, now: datetime) -> None:
        self._job = job
        self.before = job
        """The job as it was."""
        self.now = now
        self._version = job.version
        self._images: Counter[ImageState] = Counter()
        self._tally = Tally()
        self._has_news = False

    @property
    def job(self) -> LockedJob:
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

    def begin(self) -> None:
        """Note that some unit of it runs."""
        if self._job.state is JobState.QUEUED:
            self._move(JobState.RUNNING)
            self._job = replace(self._job, started_at=self.now)

    def add_units(self, number: int) -> None:
        """Note that so many units are there to be done beside those known."""
        self._job = replace(self._job, units_left=self._job.units_left + number)

    def plan(self) -> None:
        """Note that all images are known."""
        self._job = replace(self._job, progress=replace(self._job.progress, planned=True))
        self._has_news = True

    def take_over(self, images: int, *, is_all: bool) -> None:
        """Begin with images taken from a job before; `is_all` says that there will be no others."""
        self.take_revisions(images)
        self.count_many(None, ImageState.QUEUED, images)
        self._job = replace(self._job, progress=replace(self._job.progress, planned=is_all))

    def warn(self, warnings: Iterable[JobWarning]) -> None:
        """Add warnings; those of one code and rule are one, with a count. Each time counts, so warn of a thing once."""
        merged = merged_warnings(self._job.warnings, warnings)
        if merged != self._job.warnings:
            self._job = replace(self._job, warnings=merged)
            self._has_news = True

    def count_failures(self, failures: Iterable[FailureCount]) -> None:
        """Count what images failed for, as they come to be failed."""
        self._job = replace(self._job, failures=counted_failures(self._job.failures, failures))

    def count_rows(self, images: Iterable[Image]) -> None:
        """Count what ended images come to by what was found to be done."""
        totals = self._job.totals
        for image in images:
            totals = totals.counting(image.action, companions=image.companions.count)
        self._job = replace(self._job, totals=totals)

    def count_planned(self, actions: Iterable[PlanAction | None]) -> None:
        """Count rows that ended with the planning."""
        totals = self._job.totals
        for action in actions:
            totals = totals.counting(action)
        self._job = replace(self._job, totals=totals)

    def wait_for(self, pause: JobPause) -> None:
        """Note that work of it waits for a registry; of several pauses the longest is shown."""
        known = self._job.waiting_for
        if known is None or known.until < pause.until:
            self._job = replace(self._job, waiting_for=pause)
            self._has_news = True

    def end_wait(self) -> None:
        """Note that the pause it waited for is over."""
        known = self._job.waiting_for
        if known is not None and known.until <= self.now:
            self._job = replace(self._job, waiting_for=None)
            self._has_news = True

    def request_cancel(self) -> None:
        """Request cancellation; the job's units look out for that."""
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
            error = self._job.error
            if error is None and self._job.state is JobState.FAILED:
                error = ExecutionError.of_failures(self._job.failures)
            self._job = replace(self._job, finished_at=self.now, error=error, waiting_for=None)

    def result(self) -> LockedJob:
        """Return the job to save, one version on."""
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
            bytes=structs.replace(
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


def _with_rate(job: LockedJob, now: datetime) -> LockedJob:
    amounts = job.progress.bytes
    if job.done:
        return _rated(job, amounts, now=now, per_second=0)
    if job.rate_at is None:
        return replace(job, rate_at=now, rate_bytes=amounts.transferred)
    seconds = (now - job.rate_at).total_seconds()
    if seconds < RATE_SECONDS:
        return job
    return _rated(job, amounts, now=now, per_second=int((amounts.transferred - job.rate_bytes) / seconds))


def _rated(job: LockedJob, amounts: ByteCounts, *, now: datetime, per_second: int) -> LockedJob:
    progress = replace(job.progress, bytes=structs.replace(amounts, per_second=per_second))
    return replace(job, progress=progress, rate_at=now, rate_bytes=amounts.transferred)
