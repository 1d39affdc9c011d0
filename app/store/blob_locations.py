"""Blob locations: repositories that blobs may be mounted from, known from earlier jobs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.reference import Digest, Registry, Repository
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.registries import BlobLocationRow

_locations = table_of(BlobLocationRow)


@dataclass(frozen=True, slots=True, order=True)
class BlobLocation:
    """A repository that held a blob when it was last looked at."""

    repository: Repository
    digest: Digest


class BlobLocationStore:
    """Blob locations in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def record(self, locations: Collection[BlobLocation], *, now: datetime) -> None:
        """Note where blobs are."""
        if not locations:
            return
        statement = insert_into(self._session, _locations)
        statement = statement.on_conflict_do_update(
            index_elements=["host", "digest", "repository"], set_={"seen_at": statement.excluded.seen_at}
        )
        rows = [
            {"host": place.registry, "repository": place.path, "digest": location.digest, "seen_at": now}
            for location in sorted(set(locations))
            for place in [location.repository]
        ]
        await self._session.execute(statement, rows)

    async def list_latest(self, *, limit: int) -> tuple[BlobLocation, ...]:
        """Read what was seen last, the freshest first."""
        rows = await self._session.execute(select(_locations).order_by(_locations.c.seen_at.desc()).limit(limit))
        return tuple(BlobLocation(Repository(Registry(row.host), row.repository), Digest(row.digest)) for row in rows)

    async def delete_before(self, moment: datetime, *, limit: int) -> int:
        """Drop a few that were not seen since a moment; return how many."""
        old = (
            select(_locations.c.host, _locations.c.digest, _locations.c.repository)
            .where(_locations.c.seen_at < moment)
            .limit(limit)
        )
        key = tuple_(_locations.c.host, _locations.c.digest, _locations.c.repository)
        places = [tuple(row) for row in await self._session.execute(old)]
        await self._session.execute(delete(_locations).where(key.in_(places)))
        return len(places)
