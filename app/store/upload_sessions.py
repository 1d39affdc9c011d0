"""Open uploads that another process may resume. Their URLs are sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.reference import Digest, Repository
from app.security import Sealer
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.registries import UploadSessionRow

_sessions = table_of(UploadSessionRow)


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload of one blob to one repository, and where it goes on."""

    repository: Repository
    digest: Digest
    location: str


class UploadSessionStore:
    """Open uploads in the transaction of a session, as one worker sees them: its own, and those that are left."""

    def __init__(self, session: AsyncSession, sealer: Sealer, *, worker: str) -> None:
        self._session = session
        self._sealer = sealer
        self._worker = worker

    async def put(self, upload: OpenUpload, *, now: datetime) -> None:
        """Note an upload of this worker's, in place of an older one of the same blob; another worker's stands."""
        statement = insert_into(self._session, _sessions).values(
            host=upload.repository.registry,
            repository=upload.repository.path,
            digest=upload.digest,
            location=self._sealer.seal(upload.location, context=_context(upload.repository, upload.digest)),
            updated_at=now,
            worker=self._worker,
        )
        columns = {name: statement.excluded[name] for name in ("location", "updated_at", "worker")}
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["host", "repository", "digest"], set_=columns, where=self._is_mine_or_left()
            )
        )

    async def has(self, repository: Repository, digest: Digest) -> bool:
        """Return whether any worker has noted an open upload of a blob."""
        found = await self._session.execute(select(_sessions.c.worker).where(*_is(repository, digest)))
        return found.first() is not None

    async def find_owner(self, repository: Repository, digest: Digest) -> str | None:
        """Return which other worker has a blob's open upload; None when it is this one's, or no worker's."""
        found = await self._session.execute(select(_sessions.c.worker).where(*_is(repository, digest)))
        owner = found.scalar_one_or_none()
        return None if owner == self._worker else owner

    async def take(self, repository: Repository, digest: Digest, *, dead: str | None = None) -> OpenUpload | None:
        """Make a blob's open upload this worker's: one that is left, its own, or that of a dead worker."""
        is_still_so = self._is_mine_or_left() if dead is None else _sessions.c.worker == dead
        statement = update(_sessions).where(*_is(repository, digest), is_still_so).values(worker=self._worker)
        taken = await self._session.execute(statement.returning(_sessions.c.location))
        token = taken.scalar_one_or_none()
        if token is None:
            return None  # another one was faster
        return OpenUpload(repository, digest, self._sealer.unseal(token, context=_context(repository, digest)))

    async def leave(self, repository: Repository, digest: Digest) -> None:
        """Release an upload of this worker, so that another one can resume it."""
        mine = _sessions.c.worker == self._worker
        await self._session.execute(update(_sessions).where(*_is(repository, digest), mine).values(worker=None))

    async def delete(self, repository: Repository, digest: Digest) -> None:
        """Delete the note of an upload that has ended; another worker's stands."""
        await self._session.execute(delete(_sessions).where(*_is(repository, digest), self._is_mine_or_left()))

    def _is_mine_or_left(self) -> ColumnElement[bool]:
        return or_(_sessions.c.worker.is_(None), _sessions.c.worker == self._worker)


async def delete_uploads_before(session: AsyncSession, moment: datetime, *, limit: int) -> int:
    """Delete a few uploads that are older than any registry keeps them; return how many."""
    key = tuple_(_sessions.c.host, _sessions.c.repository, _sessions.c.digest)
    old = select(_sessions.c.host, _sessions.c.repository, _sessions.c.digest).where(_sessions.c.updated_at < moment)
    places = [tuple(row) for row in await session.execute(old.limit(limit))]
    await session.execute(delete(_sessions).where(key.in_(places)))
    return len(places)


def _is(repository: Repository, digest: Digest) -> tuple[ColumnElement[bool], ...]:
    return (
        _sessions.c.host == repository.registry,
        _sessions.c.repository == repository.path,
        _sessions.c.digest == digest,
    )


def _context(repository: Repository, digest: Digest) -> str:
    return f"upload/{repository}/{digest}"
