"""Uploads that registries hold open, kept where the worker that goes on after this one finds them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.domain.errors import UnavailableError
from app.domain.reference import Digest, Repository
from app.security import Sealer
from app.store.database import Database
from app.store.upload_sessions import OpenUpload, UploadSessionStore
from app.sync.open_uploads import UploadNotes


class UploadMemory:
    """Notes of uploads in the database. A database that is gone costs the note, never the copy."""

    def __init__(self, database: Database, sealer: Sealer, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock

    @property
    def notes(self) -> UploadNotes:
        """What copiers note uploads with."""
        return UploadNotes(find=self._find, put=self._put, drop=self._drop)

    async def _find(self, repository: Repository, digest: Digest) -> str | None:
        try:
            async with self._database.reading() as session:
                upload = await UploadSessionStore(session, self._sealer).find(repository, digest)
        except UnavailableError:
            return None
        return None if upload is None else upload.location

    async def _put(self, repository: Repository, digest: Digest, location: str) -> None:
        upload = OpenUpload(repository, digest, location)
        try:
            async with self._database.transaction() as session:
                await UploadSessionStore(session, self._sealer).put(upload, now=self._clock())
        except UnavailableError:
            return

    async def _drop(self, repository: Repository, digest: Digest) -> None:
        try:
            async with self._database.transaction() as session:
                await UploadSessionStore(session, self._sealer).delete(repository, digest)
        except UnavailableError:
            return  # a note of an upload that is over finds no session at the registry
