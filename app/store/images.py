"""Images of jobs: added by planning, listed, and recorded by copying.

Every change of one carries a revision of its job's own counter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import ColumnElement, Row, Select, bindparam, delete, insert, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import NotFoundError
from app.domain.job import BlobCounts, ByteCounts, Image, ImageFilter, ImageState, Job
from app.domain.manifest import Platform
from app.domain.page import Page, PageRequest, SortKey, cursor_after
from app.domain.plan import FailedListing, PlannedCopy, RefusedCopy, SeenDigests
from app.domain.reference import Digest, Reference
from app.domain.report import (
    CompanionNames,
    CopyStep,
    ExecutionError,
    FailureCount,
    PlanAction,
    RowKind,
    SelectionCount,
    Tally,
    merged_counts,
)
from app.store.db.database import insert_into
from app.store.jobs import error_document, read_error, read_selection, selection_documents
from app.store.tables.declarative import table_of
from app.store.tables.jobs import ImageLogRow, ImageRow, JobRow

_images = table_of(ImageRow)
_logs = table_of(ImageLogRow)
_jobs = table_of(JobRow)
MAX_POSITION_DIGITS = 9
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


class StoredImage(Struct, frozen=True, gc=False):
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


class PlannedImage(Struct, frozen=True, gc=False):
    """A row that planning makes, with its place in the job; one with an error is done."""

    position: int
    copy_number: int
    source: str
    destination: str
    kind: RowKind = "image"
    copy: PlannedCopy | None = None
    rule: int | None = None
    error: ExecutionError | None = None

    @classmethod
    def of_copy(cls, copy: PlannedCopy, destination: Reference, *, position: int, copy_number: int) -> PlannedImage:
        """Make the row of one destination of a copy."""
        source = str(copy.source)
        return cls(position, copy_number, source, str(destination), copy=copy, rule=copy.rule)

    @classmethod
    def of_failure(cls, failed: FailedListing | RefusedCopy, *, position: int, copy_number: int) -> PlannedImage:
        """Make the row that stands for what could not be planned."""
        error = ExecutionError.of(failed.error)
        if isinstance(failed, RefusedCopy):
            rule = failed.rule
            return cls(position, copy_number, failed.source, failed.destination, "refused", rule=rule, error=error)
        listing = failed.listing
        return cls(position, copy_number, listing.source, failed.destination, "listing", rule=listing.rule, error=error)

    @property
    def action(self) -> PlanAction | None:
        """What planning alone says of it."""
        if self.error is None:
            return None
        return "refused" if self.kind == "refused" else "failed"

    @property
    def failure(self) -> FailureCount | None:
        """What it counts as where it is a failure."""
        if self.error is None:
            return None
        error = self.error
        return FailureCount(self.kind, error.code, error.side, 1, self.source, self.destination, error.message)


class ImageStore:
    """Images in the transaction of a session; a writer has locked their job."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, job_number: int, images: Sequence[PlannedImage], *, revision: int, now: datetime) -> None:
        """Add rows that planning makes. Revisions rise from the first."""
        rows = [
            _planned_row(job_number, image, revision=revision + offset, now=now) for offset, image in enumerate(images)
        ]
        if rows:
            await self._session.execute(insert(_images), rows)

    async def add_counts(self, job_number: int, counts: Sequence[SelectionCount], *, is_first: bool) -> None:
        """Note what rules take and drop, beside what was noted before unless this is the first time."""
        mine = _jobs.c.number == job_number
        if not is_first:
            known = (await self._session.execute(select(_jobs.c.selection_counts).where(mine))).scalar_one()
            counts = merged_counts(read_selection(known), counts)
        documents = selection_documents(merged_counts((), counts))
        await self._session.execute(update(_jobs).where(mine).values(selection_counts=documents))

    async def delete_some(self, job_number: int, *, limit: int) -> int:
        """Remove a few images of a job; return how many."""
        some = select(_images.c.position).where(_images.c.job_number == job_number).limit(limit)
        statement = (
            delete(_images)
            .where(_images.c.job_number == job_number, _images.c.position.in_(some.scalar_subquery()))
            .returning(_images.c.position)
        )
        return len((await self._session.execute(statement)).all())

    async def list(self, job_id: str, wanted: ImageFilter, page: PageRequest) -> Page[Image]:
        """Read a page of a job's images, in the order they were planned."""
        bound_to = f"{job_id} {wanted!r}"
        statement = _list_statement(job_id, wanted, page.limit, after=page.after(bound_to))
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
        return tuple(StoredImage(row.position, row.copy_number, copy_of(row), _image(job.id, row)) for row in rows)

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

    async def get_position(self, job_id: str, image: str) -> int:
        """Read the position of an image, given by its id; raise `NotFoundError`."""
        position = image.removeprefix(f"{job_id}-")
        if position != image and position.isdecimal() and len(position) <= MAX_POSITION_DIGITS:
            mine = _of_job(job_id).with_only_columns(_images.c.position).where(_images.c.position == int(position))
            found: int | None = (await self._session.execute(mine)).scalar_one_or_none()
            if found is not None:
                return found
        raise NotFoundError(f"the job has no image {image[:64]!r}")

    async def put_logs(self, job_number: int, logs: Mapping[int, Sequence[CopyStep]]) -> None:
        """Write what was done for images, by position, in place of what earlier attempts did."""
        rows = [
            {"job_number": job_number, "position": position, "steps": [_step_document(step) for step in steps]}
            for position, steps in logs.items()
        ]
        if rows:
            statement = insert_into(self._session, _logs)
            statement = statement.on_conflict_do_update(
                index_elements=["job_number", "position"], set_={"steps": statement.excluded.steps}
            )
            await self._session.execute(statement, rows)

    async def read_log(self, job_number: int, position: int) -> tuple[CopyStep, ...]:
        """Read what was done for an image; nothing where it did not fail."""
        mine = (_logs.c.job_number == job_number) & (_logs.c.position == position)
        steps = (await self._session.execute(select(_logs.c.steps).where(mine))).scalar_one_or_none()
        return tuple(_step(step) for step in steps or ())

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


def _step_document(step: CopyStep) -> dict[str, Any]:
    return {"at": step.at.isoformat(), "event": step.event, "details": dict(step.details)}


def _step(document: Mapping[str, Any]) -> CopyStep:
    return CopyStep(datetime.fromisoformat(document["at"]), document["event"], document["details"])


def image_id(job_id: str, position: int) -> str:
    """Return an image's id: its job's id and its place there."""
    return f"{job_id}-{position}"


def _of_job(job_id: str) -> Select[Any]:
    number = select(_jobs.c.number).where(_jobs.c.id == job_id).scalar_subquery()
    return select(_images).where(_images.c.job_number == number)


def _list_statement(job_id: str, wanted: ImageFilter, limit: int, *, after: SortKey | None) -> Select[Any]:
    """Return the statement of a page of images, and one more that says whether there is another."""
    listed = _of_job(job_id)
    if after is not None:
        listed = listed.where(_images.c.position > int(after[0]))
    if wanted.q is not None:
        error = _images.c.error
        texts = [_images.c.source, _images.c.destination, _images.c.digest, _images.c.reason]
        texts += [error["code"].as_string(), error["message"].as_string()]
        listed = listed.where(or_(*(text.icontains(wanted.q, autoescape=True) for text in texts)))
    listed = listed.order_by(_images.c.position).limit(limit + 1)
    states = dict.fromkeys(wanted.states)
    if len(states) < 2:  # noqa: PLR2004 — none, or one
        return listed.where(*(_images.c.state == state for state in states))
    # One index range a state, each in its order: so no more is sorted than a page of each.
    listed = listed.with_only_columns(_images.c.position)
    pages = [listed.where(_images.c.state == state).subquery() for state in states]
    positions = union_all(*(select(page.c.position) for page in pages))
    statement = _of_job(job_id).where(_images.c.position.in_(positions))
    return statement.order_by(_images.c.position).limit(limit + 1)


def _recorded(position: int, image: Image, revision: int) -> dict[str, Any]:
    return {
        "at_position": position,
        "state": image.state,
        "action": image.action,
        "reason": image.reason,
        "digest": image.digest,
        "destination_digest": image.destination_digest,
        "previous_digest": image.previous_digest,
        "media_type": image.media_type,
        "platforms": list(image.platforms) or None,
        "companions": structs.asdict(image.companions) if image.companions.count else None,
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


def copy_of(row: Any) -> PlannedCopy:
    """Read what is to be copied, to the destination of this row alone."""
    selection, destination = row.selection or {}, Reference.parse(row.destination)
    return PlannedCopy(
        source=Reference.parse(row.source),
        destinations=(destination,),
        platforms=tuple(Platform.parse(text) for text in selection.get("platforms", ())),
        platform_mode=selection.get("mode", "auto"),
        digest_tags=selection.get("digest_tags", "unknown"),
        many=selection.get("many", False),
        rule=row.rule,
        seen=_seen(row, destination),
    )


def _seen(row: Any, destination: Reference) -> dict[Reference, SeenDigests]:
    if row.seen_digest is None:
        return {}
    return {destination: SeenDigests(Digest(row.seen_digest), _digest(row.seen_destination_digest))}


def _image(job_id: str, row: Row[Any]) -> Image:
    return Image(
        id=image_id(job_id, row.position),
        job_id=job_id,
        source=row.source,
        destination=row.destination,
        state=ImageState(row.state),
        kind=row.kind,
        rule=row.rule,
        action=row.action,
        reason=row.reason,
        digest=_digest(row.digest),
        destination_digest=_digest(row.destination_digest),
        previous_digest=_digest(row.previous_digest),
        media_type=row.media_type,
        platforms=tuple(row.platforms or ()),
        companions=_companions(row.companions),
        blobs=BlobCounts(row.blobs_present, row.blobs_mounted, row.blobs_transferred),
        bytes=ByteCounts(row.bytes_total, row.bytes_done, row.bytes_transferred),
        attempts=row.attempts,
        error=read_error(row.error),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _companions(document: Mapping[str, Any] | None) -> CompanionNames:
    return CompanionNames(document["count"], tuple(document["first"])) if document else CompanionNames()


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


def _planned_row(job_number: int, planned: PlannedImage, *, revision: int, now: datetime) -> dict[str, Any]:
    return {
        "job_number": job_number,
        "position": planned.position,
        "copy_number": planned.copy_number,
        "kind": planned.kind,
        "rule": planned.rule,
        "source": planned.source,
        "destination": planned.destination,
        "selection": _selection(planned.copy) if planned.copy else None,
        "state": ImageState.FAILED if planned.error else ImageState.QUEUED,
        "action": planned.action,
        "error": error_document(planned.error),
        "finished_at": now if planned.error else None,
        "revision": revision,
    }


def _selection(copy: PlannedCopy) -> dict[str, Any] | None:
    selection: dict[str, Any] = {}
    if copy.platforms:
        selection |= {"platforms": [str(platform) for platform in copy.platforms], "mode": copy.platform_mode}
    if copy.digest_tags != "unknown":
        selection["digest_tags"] = copy.digest_tags
    if copy.many:
        selection["many"] = True
    return selection or None
