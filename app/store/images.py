"""Images of jobs: planned, listed, recorded. Every change of one carries a revision of its job's own counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import BlobCounts, ByteCounts, Image, ImageState, Job
from app.domain.manifest import Platform
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Reference
from app.domain.report import Tally
from app.store.columns import Serial
from app.store.documents import error_document, read_error
from app.store.paging import Page, PageRequest, cursor_after
from app.store.tables import ImageRow, JobRow, table_of
from app.store.upsert import insert_into

_images = table_of(ImageRow)
_jobs = table_of(JobRow)
_PROGRESS: tuple[ColumnElement[Any], ...] = (
    _images.c.position,
    _images.c.state,
    _images.c.blobs_present,
    _images.c.blobs_mounted,
    _images.c.blobs_transferred,
    _images.c.bytes_total,
    _images.c.bytes_done,
    _images.c.bytes_transferred,
)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One destination of a planned copy, with its place in the job."""

    position: int
    copy_number: int
    copy: PlannedCopy
    destination: Reference


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image beside what has to be known to copy it."""

    position: int
    copy_number: int
    copy: PlannedCopy
    """With this image's destination alone."""
    image: Image

    @property
    def tally(self) -> Tally:
        """What became of its blobs so far."""
        blobs, amounts = self.image.blobs, self.image.bytes
        return Tally(blobs.present, blobs.mounted, blobs.transferred, amounts.total, amounts.done, amounts.transferred)


class ImageStore:
    """Images in the transaction of a session; whoever writes holds their job."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put_planned(self, job_number: int, images: Sequence[PlannedImage], *, revision: int) -> None:
        """Add images, queued, over those of an earlier attempt at planning. Revisions rise from the first."""
        statement = insert_into(self._session, _images)
        planned = ("copy_number", "source", "destination", "selection", "revision")
        statement = statement.on_conflict_do_update(
            index_elements=["job_number", "position"], set_={name: statement.excluded[name] for name in planned}
        )
        rows = [_planned_row(job_number, image, revision + offset) for offset, image in enumerate(images)]
        await self._session.execute(statement, rows)

    async def delete_from(self, job_number: int, position: int) -> None:
        """Remove what an earlier attempt at planning found and the last one did not."""
        await self._session.execute(
            delete(_images).where(_images.c.job_number == job_number, _images.c.position >= position)
        )

    async def delete_some(self, job_number: int, *, limit: int) -> int:
        """Remove a few images of a job; return how many."""
        some = select(_images.c.position).where(_images.c.job_number == job_number).limit(limit)
        statement = (
            delete(_images)
            .where(_images.c.job_number == job_number, _images.c.position.in_(some.scalar_subquery()))
            .returning(_images.c.position)
        )
        return len((await self._session.execute(statement)).all())

    async def list(self, job_id: str, *, state: ImageState | None, page: PageRequest) -> Page[Image]:
        """Read a page of a job's images, in the order they were planned."""
        bound_to = f"{job_id} {state}"
        after = page.after(bound_to)
        statement = _of_job(job_id).order_by(_images.c.position).limit(page.limit + 1)
        if state is not None:
            statement = statement.where(_images.c.state == state)
        if after is not None:
            statement = statement.where(_images.c.position > int(after[0]))
        rows = (await self._session.execute(statement)).all()
        items = tuple(_image(job_id, row) for row in rows[: page.limit])
        if len(rows) <= page.limit:
            return Page(items)
        return Page(items, cursor_after((rows[page.limit - 1].position,), bound_to=bound_to))

    async def list_changed(self, job_id: str, *, after: int, limit: int) -> tuple[tuple[int, Image], ...]:
        """Read the images that changed after a version of their job, each with its revision, in that order."""
        statement = _of_job(job_id).where(_images.c.revision > after).order_by(_images.c.revision).limit(limit)
        return tuple((row.revision, _image(job_id, row)) for row in await self._session.execute(statement))

    async def list_unfinished(self, job: Job, job_number: int, *, first: int, last: int) -> tuple[StoredImage, ...]:
        """Read those images of a range that are still to be done."""
        statement = select(_images).where(
            _images.c.job_number == job_number,
            _images.c.position.between(first, last),
            _images.c.state.in_([ImageState.QUEUED, ImageState.RUNNING]),
        )
        rows = await self._session.execute(statement.order_by(_images.c.position))
        return tuple(_stored_image(job.id, row) for row in rows)

    async def list_copy_ends(self, job_number: int) -> tuple[int, ...]:
        """Read the last position of each copy, in order."""
        copies = select(func.max(_images.c.position)).where(_images.c.job_number == job_number)
        ends = copies.group_by(_images.c.copy_number).order_by(_images.c.copy_number)
        return tuple((await self._session.execute(ends)).scalars())

    async def read_states(self, job_number: int, positions: Sequence[int]) -> dict[int, tuple[ImageState, Tally]]:
        """Read how far images are, according to their rows."""
        mine = (_images.c.job_number == job_number) & _images.c.position.in_(positions)
        rows = await self._session.execute(select(*_PROGRESS).where(mine))
        return {row.position: (ImageState(row.state), _tally(row)) for row in rows}

    async def record(self, job_number: int, images: Sequence[tuple[int, Image]], *, revision: int) -> None:
        """Write images as they are now, by position. Revisions rise from the first."""
        rows = [_recorded(position, image, revision + offset) for offset, (position, image) in enumerate(images)]
        if rows:
            mine = (_images.c.job_number == job_number) & (_images.c.position == bindparam("at_position"))
            await self._session.execute(update(_images).where(mine), rows)

    async def cancel_queued(self, job_number: int, *, first: int, last: int, now: datetime, revision: int) -> int:
        """Cancel the images of a range that have not begun; return how many. Revisions are `revision` + position."""
        queued = (
            (_images.c.job_number == job_number)
            & _images.c.position.between(first, last)
            & (_images.c.state == ImageState.QUEUED)
        )
        statement = update(_images).where(queued).returning(_images.c.position)
        statement = statement.values(
            state=ImageState.CANCELLED, finished_at=now, revision=_images.c.position + revision
        )
        return len((await self._session.execute(statement)).all())

    async def add_failed_of(self, old_number: int, new_number: int, *, revision: int) -> int:
        """Add to a new job, queued, the images of an old one that did not arrive; return how many.

        Revisions rise from the first.
        """
        place = func.row_number().over(order_by=_images.c.position) - 1
        statement = insert(_images).from_select(
            [
                "job_number",
                "position",
                "copy_number",
                "source",
                "destination",
                "selection",
                "state",
                "revision",
                "attempts",
            ],
            select(
                literal(new_number, Serial),
                place,
                func.dense_rank().over(order_by=_images.c.copy_number) - 1,
                _images.c.source,
                _images.c.destination,
                _images.c.selection,
                literal(ImageState.QUEUED.value),
                place + revision,
                literal(0),
            ).where(
                _images.c.job_number == old_number,
                _images.c.state.in_([ImageState.FAILED, ImageState.CANCELLED]),
            ),
            include_defaults=False,
        )
        await self._session.execute(statement)
        added = select(func.count()).select_from(_images).where(_images.c.job_number == new_number)
        return int((await self._session.execute(added)).scalar_one())


def image_id(job_id: str, position: int) -> str:
    """Name an image: its job's id and its place there."""
    return f"{job_id}-{position}"


def _of_job(job_id: str) -> Select[Any]:
    number = select(_jobs.c.number).where(_jobs.c.id == job_id).scalar_subquery()
    return select(_images).where(_images.c.job_number == number)


def _planned_row(job_number: int, planned: PlannedImage, revision: int) -> dict[str, Any]:
    copy = planned.copy
    selection: dict[str, Any] = {}
    if copy.platforms:
        selection |= {"platforms": [str(platform) for platform in copy.platforms], "mode": copy.platform_mode}
    if copy.digest_tags != "unknown":
        selection["digest_tags"] = copy.digest_tags
    return {
        "job_number": job_number,
        "position": planned.position,
        "copy_number": planned.copy_number,
        "source": str(copy.source),
        "destination": str(planned.destination),
        "selection": selection or None,
        "state": ImageState.QUEUED,
        "revision": revision,
    }


def _recorded(position: int, image: Image, revision: int) -> dict[str, Any]:
    return {
        "at_position": position,
        "state": image.state,
        "reason": image.reason,
        "digest": image.digest,
        "destination_digest": image.destination_digest,
        "previous_digest": image.previous_digest,
        "media_type": image.media_type,
        "platforms": list(image.platforms) or None,
        "blobs_present": image.blobs.present,
        "blobs_mounted": image.blobs.mounted,
        "blobs_transferred": image.blobs.transferred,
        "bytes_total": image.bytes.total,
        "bytes_done": image.bytes.done,
        "bytes_transferred": image.bytes.transferred,
        "attempts": image.attempts,
        "error": error_document(image.error),
        "started_at": image.started_at,
        "finished_at": image.finished_at,
        "revision": revision,
    }


def _stored_image(job_id: str, row: Row[Any]) -> StoredImage:
    selection = row.selection or {}
    copy = PlannedCopy(
        source=Reference.parse(row.source),
        destinations=(Reference.parse(row.destination),),
        platforms=tuple(Platform.parse(text) for text in selection.get("platforms", ())),
        platform_mode=selection.get("mode", "sparse"),
        digest_tags=selection.get("digest_tags", "unknown"),
    )
    return StoredImage(row.position, row.copy_number, copy, _image(job_id, row))


def _image(job_id: str, row: Row[Any]) -> Image:
    return Image(
        id=image_id(job_id, row.position),
        job_id=job_id,
        source=row.source,
        destination=row.destination,
        state=ImageState(row.state),
        reason=row.reason,
        digest=_digest(row.digest),
        destination_digest=_digest(row.destination_digest),
        previous_digest=_digest(row.previous_digest),
        media_type=row.media_type,
        platforms=tuple(row.platforms or ()),
        blobs=BlobCounts(row.blobs_present, row.blobs_mounted, row.blobs_transferred),
        bytes=ByteCounts(row.bytes_total, row.bytes_done, row.bytes_transferred),
        attempts=row.attempts,
        error=read_error(row.error),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _tally(row: Row[Any]) -> Tally:
    return Tally(
        row.blobs_present,
        row.blobs_mounted,
        row.blobs_transferred,
        row.bytes_total,
        row.bytes_done,
        row.bytes_transferred,
    )


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest(text)
