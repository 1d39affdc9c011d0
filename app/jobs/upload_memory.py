"""Uploads that registries hold open, kept where the worker that goes on after this one finds them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.domain.errors import UnavailableError
from app.domain.reference import Digest, Repository
from app.jobs.roster import Roster
from app.security import Sealer
from app.store.database import Database, Session
from app.store.upload_sessions import OpenUpload, UploadSessionStore
from app.sync.open_uploads import UploadNotes


class UploadMemory:
    """One worker's notes of uploads in the database. A database that is gone costs the note, never the copy."""

    def __init__(self, database: Database, sealer: Sealer, *, roster: Roster, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._roster = roster
        self._clock = clock

    @property
    def notes(self) -> UploadNotes:
        """What copiers note uploads with."""
        return UploadNotes(take=self._take, put=self._put, leave=self._leave, drop=self._drop)

    async def _take(self, repository: Repository, digest: Digest) -> str | None:
        try:
            async with self._database.transaction() as session:
                upload = await self._uploads(session).take(repository, digest, is_dead=self._roster.is_dead)
        except UnavailableError:
            return None
        return None if upload is None else upload.location

    async def _put(self, repository: Repository, digest: Digest, location: str) -> None:
        upload = OpenUpload(repository, digest, location)
        try:
            async with self._database.transaction() as session:
                await self._uploads(session).put(upload, now=self._clock())
        except UnavailableError:
            return

    async def _leave(self, repository: Repository, digest: Digest) -> None:
        try:
            async with self._database.transaction() as session:
                await self._uploads(session).leave(repository, digest)
        except UnavailableError:
            return  # then it is found when this worker is off the roster

    async def _drop(self, repository: Repository, digest: Digest) -> None:
        try:
            async with self._database.transaction() as session:
                await self._uploads(session).delete(repository, digest)
        except UnavailableError:
            return  # a note of an upload that is over finds no session at the registry

    def _uploads(self, session: Session) -> UploadSessionStore:
        return UploadSessionStore(session, self._sealer, worker=self._roster.worker)
