"""Uploads that a registry holds open: noted for whoever goes on with them, given back when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from app.domain.errors import TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Repository
from app.registry.client import RegistryClient
from app.registry.uploads import UploadSession

MIN_BYTES = 16 * 1024 * 1024
"""Smaller blobs are sent again sooner than anything is written down about them."""
GIVE_BACK_SECONDS = 2.0
"""What a cancelled copy spends on ending an upload that is just being opened."""


SessionOrNone = TypeVar("SessionOrNone", UploadSession, UploadSession | None)


async def begun(start: Coroutine[None, None, SessionOrNone]) -> SessionOrNone:
    """Begin an upload. Whoever is cancelled meanwhile waits a moment for the session, and gives it back."""
    task = asyncio.create_task(start)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(TransferError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                session = await task
                if session is not None:
                    await session.cancel()
        raise


async def give_back(sessions: Iterable[UploadSession | None]) -> None:
    """End those that were not closed; who is cancelled takes the time for it, which each session limits."""
    left = [session.cancel() for session in sessions if session is not None]
    if left:
        await asyncio.shield(asyncio.gather(*left))


@dataclass(frozen=True, slots=True)
class UploadNotes:
    """Where locations of uploads are kept; they may be signed, so they are secrets. None of these may raise."""

    take: Callable[[Repository, Digest], Awaitable[str | None]]
    """Hands out, once, what a process left or died over: two that write to one session spoil it."""
    put: Callable[[Repository, Digest, str], Awaitable[None]]
    """Keeps where an upload goes on; a note of somebody else's that is at work stands."""
    leave: Callable[[Repository, Digest], Awaitable[None]]
    """Lets others take an upload that this process writes to no more."""
    drop: Callable[[Repository, Digest], Awaitable[None]]
    hands_on: Callable[[], bool] = lambda: False
    """Says of what is cancelled whether another process goes on with it."""


class NotedUpload:
    """What is noted of one upload; without notes, or for a small blob, nothing."""

    def __init__(self, notes: UploadNotes | None, repository: Repository, blob: Descriptor) -> None:
        self._notes = notes if blob.size >= MIN_BYTES else None
        self._repository = repository
        self._digest = blob.digest
        self._noted: str | None = None

    async def resume(self, client: RegistryClient) -> UploadSession | None:
        """Take up what another process left, if the registry still knows of it."""
        if self._notes is None or self._noted is not None:
            return None
        location = await self._notes.take(self._repository, self._digest)
        if location is None:
            return None
        self._noted = location
        try:
            return await client.resume_upload(self._repository.path, location)
        except TransferError:
            return None

    async def keep(self, session: UploadSession) -> None:
        """Note where a session goes on, when that changed."""
        if self._notes is not None and session.location != self._noted:
            self._noted = session.location
            await self._notes.put(self._repository, self._digest, session.location)

    async def leave(self, session: UploadSession) -> bool:
        """Leave an unfinished upload to who goes on with the copy; return False when nobody is known to."""
        if self._notes is None or self._noted is None or not self._notes.hands_on():
            return False
        await self.keep(session)
        await self._notes.leave(self._repository, self._digest)
        return True

    async def drop(self) -> None:
        """Forget an upload that is over."""
        if self._notes is not None and self._noted is not None:
            self._noted = None
            await self._notes.drop(self._repository, self._digest)
