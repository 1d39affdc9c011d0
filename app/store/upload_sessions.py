"""Uploads that a registry still holds open: another process may go on with them. Their URLs are sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.reference import Digest, Repository
from app.security import Sealer
from app.store.tables import UploadSessionRow, table_of
from app.store.upsert import insert_into

_sessions = table_of(UploadSessionRow)


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload of one blob to one repository, and where it goes on."""

    repository: Repository
    digest: Digest
    location: str


class UploadSessionStore:
    """Open uploads in the transaction of a session."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self._sealer = sealer

    async def put(self, upload: OpenUpload, *, now: datetime) -> None:
        """Note an open upload, in place of an older one of the same blob."""
        statement = insert_into(self._session, _sessions).values(
            host=upload.repository.registry,
            repository=upload.repository.path,
            digest=upload.digest,
            location=self._sealer.seal(upload.location, context=_context(upload.repository, upload.digest)),
            updated_at=now,
        )
        columns = {name: statement.excluded[name] for name in ("location", "updated_at")}
        await self._session.execute(
            statement.on_conflict_do_update(index_elements=["host", "repository", "digest"], set_=columns)
        )

    async def find(self, repository: Repository, digest: Digest) -> OpenUpload | None:
        """Read the open upload of a blob."""
        statement = select(_sessions.c.location).where(*_is(repository, digest))
        token = (await self._session.execute(statement)).scalar_one_or_none()
        if token is None:
            return None
        return OpenUpload(repository, digest, self._sealer.unseal(token, context=_context(repository, digest)))

    async def delete(self, repository: Repository, digest: Digest) -> None:
        """Forget an upload that has ended."""
        await self._session.execute(delete(_sessions).where(*_is(repository, digest)))


async def delete_uploads_before(session: AsyncSession, moment: datetime, *, limit: int) -> int:
    """Forget a few uploads that are older than any registry keeps them; return how many."""
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
