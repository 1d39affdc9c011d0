"""Cancellation of what has not begun: common to the API's cancel, `fail_fast` and the end of a worker."""

from __future__ import annotations

from app.domain.job import ImageState
from app.jobs.transitions import JobTransition
from app.store.db.database import Session
from app.store.images import ImageStore
from app.store.units import UnitStore


async def cancel_queued_images(session: Session, transition: JobTransition) -> None:
    """Cancel all images of a locked job that have not begun, and end its unclaimed units."""
    await cancel_images(session, transition, first=0, count=transition.job.progress.images.total + 1)


async def cancel_images(session: Session, transition: JobTransition, *, first: int, count: int) -> bool:
    """Cancel those of a locked job's images from `first` that have not begun; return whether those were the last.

    With the last of them, the unclaimed units end too.
    """
    job = transition.job
    cancelled = await ImageStore(session).cancel_queued(
        job.number,
        first=first,
        last=first + count - 1,
        now=transition.now,
        revision=transition.take_revisions(count) - first,
    )
    transition.count_many(ImageState.QUEUED, ImageState.CANCELLED, cancelled)
    if first + count < job.progress.images.total:
        return False
    transition.finish_units(await UnitStore(session).finish_queued(job.number, now=transition.now))
    return True
