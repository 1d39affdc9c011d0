"""What planning wrote among a job's images, read again: copies, lists that failed, copies that were refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, insert, literal, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import ImageState
from app.domain.plan import Listing, PlannedCopy
from app.domain.report import RowKind
from app.store.db.column_types import Serial
from app.store.images import copy_of
from app.store.tables.declarative import table_of
from app.store.tables.jobs import ImageRow, JobRow

_images, _jobs = table_of(ImageRow), table_of(JobRow)
_PAGE = 2_000
"""Rows read at once where all of a job's are."""


@dataclass(frozen=True, slots=True)
class PriorImage:
    """A row that an earlier planning made; `copy` is set where it is a copy."""

    position: int
    kind: RowKind
    rule: int | None
    source: str
    destination: str
    copy: PlannedCopy | None


class PlannedImageStore:
    """Rows of plans in the transaction of a session; the caller that writes has locked their job."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list_copy_ends(self, job_number: int) -> tuple[int, ...]:
        """Read the last position of each copy that has not begun, in order."""
        mine = (_images.c.job_number == job_number) & (_images.c.state == ImageState.QUEUED)
        copies = select(func.max(_images.c.position)).where(mine)
        ends = copies.group_by(_images.c.copy_number).order_by(_images.c.copy_number)
        return tuple((await self._session.execute(ends)).scalars())

    async def list_planned(self, job_number: int, *, after: int) -> tuple[PriorImage, ...]:
        """Read a page of what was planned before, in order of position; empty at the end."""
        columns = (
            _images.c.position,
            _images.c.kind,
            _images.c.rule,
            _images.c.source,
            _images.c.destination,
            _images.c.selection,
            _images.c.seen_digest,
            _images.c.seen_destination_digest,
        )
        statement = select(*columns).where(_images.c.job_number == job_number, _images.c.position > after)
        rows = await self._session.execute(statement.order_by(_images.c.position).limit(_PAGE))
        return tuple(
            PriorImage(
                row.position,
                row.kind,
                row.rule,
                row.source,
                row.destination,
                copy_of(row) if row.kind == "image" else None,
            )
            for row in rows
        )

    async def list_failed_listings(self, job_number: int) -> frozenset[Listing]:
        """Read the lists that could not be had."""
        listing = (_images.c.job_number == job_number) & (_images.c.kind == "listing")
        failed = listing & (_images.c.state == ImageState.FAILED)
        rows = await self._session.execute(select(_images.c.rule, _images.c.source).where(failed))
        return frozenset(Listing(row.rule, row.source) for row in rows)

    async def add_failed_of(self, old_number: int, new_number: int, *, revision: int) -> int:
        """Add to a new job, queued, the copies of an old one that did not arrive; return how many.

        Revisions rise from the first.
        """
        not_there = _images.c.state.in_([ImageState.FAILED, ImageState.CANCELLED])
        seen = (_images.c.seen_digest, _images.c.seen_destination_digest)
        return await self._add_of(old_number, new_number, not_there, seen=seen, revision=revision)

    async def add_all_of(self, old_number: int, new_number: int, *, revision: int) -> int:
        """Add to a new job, queued, all copies of an old one that carried out a plan; return how many."""
        seen = (_images.c.seen_digest, _images.c.seen_destination_digest)
        return await self._add_of(old_number, new_number, true(), seen=seen, revision=revision)

    async def add_planned_of(self, plan_number: int, new_number: int, *, revision: int) -> int:
        """Add to a new job, queued, what a plan found to be done, with what it saw on both sides; return how many.

        That is what is to be copied, and what is there but lacks companions.
        """
        to_do = (_images.c.state == ImageState.PLANNED) | _images.c.companions.is_not(None)
        seen = (_images.c.digest, _images.c.previous_digest)
        return await self._add_of(plan_number, new_number, to_do, seen=seen, revision=revision)

    async def _add_of(
        self,
        old_number: int,
        new_number: int,
        wanted: ColumnElement[bool],
        *,
        seen: tuple[ColumnElement[Any], ColumnElement[Any]],
        revision: int,
    ) -> int:
        place = func.row_number().over(order_by=_images.c.position) - 1
        statement = insert(_images).from_select(
            [
                "job_number",
                "position",
                "copy_number",
                "source",
                "destination",
                "selection",
                "kind",
                "rule",
                "seen_digest",
                "seen_destination_digest",
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
                _images.c.kind,
                _images.c.rule,
                *seen,
                literal(ImageState.QUEUED.value),
                place + revision,
                literal(0),
            ).where(
                _images.c.job_number == old_number,
                _images.c.kind == "image",
                wanted,
            ),
            include_defaults=False,
        )
        await self._session.execute(statement)
        added = select(func.count()).select_from(_images).where(_images.c.job_number == new_number)
        return int((await self._session.execute(added)).scalar_one())
