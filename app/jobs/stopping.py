"""What stopping has in common, whoever stops a job: what has not begun is cancelled at once."""

from __future__ import annotations

from app.domain.job import ImageState
from app.jobs.changes import JobChange
from app.store.database import Session
from app.store.images import ImageStore
from app.store.units import UnitStore


async def stop_queued(session: Session, change: JobChange) -> None:
    """Cancel all of a held job's images that have not begun, and end its units that nobody has."""
    await cancel_some(session, change, first=0, count=change.job.progress.images.total + 1)


async def cancel_some(session: Session, change: JobChange, *, first: int, count: int) -> bool:
    """Cancel those of a held job's images from `first` that have not begun; return whether those were the last.

    With the last of them, the units that nobody has end too.
    """
    job = change.job
    cancelled = await ImageStore(session).cancel_queued(
        job.number, first=first, last=first + count - 1, now=change.now, revision=change.take_revisions(count) - first
    )
    change.count_many(ImageState.QUEUED, ImageState.CANCELLED, cancelled)
    if first + count < job.progress.images.total:
        return False
    change.finish_units(await UnitStore(session).finish_queued(job.number, now=change.now))
    return True
