"""What jobs come to, for metrics: counted once it is written, by the process that wrote it."""

from __future__ import annotations

from prometheus_client import Counter

from app.domain.job import ImageState
from app.observability import BLOBS, BYTES, IMAGES, JOB_SECONDS, JOBS_FINISHED
from app.store.job_rows import HeldJob


async def count_change(before: HeldJob, after: HeldJob) -> None:
    """Count what one change of a job came to."""
    was, now = before.progress, after.progress
    for state in ImageState:
        if state.done:
            _grow(IMAGES.labels(state), getattr(was.images, state), getattr(now.images, state))
    _grow(BLOBS.labels("present"), was.blobs.present, now.blobs.present)
    _grow(BLOBS.labels("mounted"), was.blobs.mounted, now.blobs.mounted)
    _grow(BLOBS.labels("transferred"), was.blobs.transferred, now.blobs.transferred)
    _grow(BYTES, was.bytes.transferred, now.bytes.transferred)
    if after.finished_at is not None and not before.done:
        JOBS_FINISHED.labels(after.state).inc()
        JOB_SECONDS.labels(after.state).observe((after.finished_at - after.created_at).total_seconds())


def _grow(counter: Counter, before: int, after: int) -> None:
    if after > before:
        counter.inc(after - before)
