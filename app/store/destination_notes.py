"""Notes of destinations: what an image lacks there on purpose, what hangs on it, what a repository refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.reference import Digest, Repository
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.destinations import DestinationNoteRow

_notes = table_of(DestinationNoteRow)
NotedPlace = tuple[Repository, Digest | None]
"""A repository and the digest of an image in it; None is the repository itself."""


class DestinationNoteStore:
    """Notes of destinations in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, places: Iterable[NotedPlace]) -> Mapping[NotedPlace, Mapping[str, str]]:
        """Read what is noted of images, or of repositories themselves: kind → value, of each asked for."""
        asked = list(places)
        found: dict[tuple[str, str, str], dict[str, str]] = {_key(place): {} for place in asked}
        key = (_notes.c.host, _notes.c.repository, _notes.c.digest)
        for row in await self._session.execute(select(_notes).where(tuple_(*key).in_(found))):
            found[row.host, row.repository, row.digest][row.kind] = row.value
        return {place: found[_key(place)] for place in asked}

    async def put(self, notes: Iterable[tuple[Repository, Digest | None, str, str]], *, now: datetime) -> None:
        """Note things in one statement, each in place of what was noted of its kind before; the last one counts."""
        latest = {
            (repository.registry, repository.path, digest or "", kind): value
            for repository, digest, kind, value in notes
        }
        rows = [
            {"host": host, "repository": path, "digest": digest, "kind": kind, "value": value, "noted_at": now}
            for (host, path, digest, kind), value in sorted(latest.items())  # in one order: no two wait for each other
        ]
        statement = insert_into(self._session, _notes).values(rows)
        columns = {name: statement.excluded[name] for name in ("value", "noted_at")}
        key = ["host", "repository", "digest", "kind"]
        await self._session.execute(statement.on_conflict_do_update(index_elements=key, set_=columns))

    async def drop(self, repository: Repository, digest: Digest | None, *, kind: str) -> None:
        """Delete what is not so any more."""
        await self._session.execute(delete(_notes).where(*_is(repository, digest), _notes.c.kind == kind))

    async def delete_before(self, moment: datetime, *, limit: int) -> int:
        """Delete a few notes that were not renewed since a moment; return how many."""
        key = (_notes.c.host, _notes.c.repository, _notes.c.digest, _notes.c.kind)
        found = await self._session.execute(select(*key).where(_notes.c.noted_at < moment).limit(limit))
        places = [tuple(row) for row in found]
        await self._session.execute(delete(_notes).where(tuple_(*key).in_(places)))
        return len(places)


def _key(place: NotedPlace) -> tuple[str, str, str]:
    repository, digest = place
    return repository.registry, repository.path, digest or ""


def _is(repository: Repository, digest: Digest | None) -> tuple[ColumnElement[bool], ...]:
    return (
        _notes.c.host == repository.registry,
        _notes.c.repository == repository.path,
        _notes.c.digest == (digest or ""),
    )
