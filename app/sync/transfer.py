"""One blob on its way to one or more destinations: sessions first, then one reading fed to all at the slowest's pace.

What breaks goes on where the destination says it stands; nothing that arrived is sent again. A destination that fails
leaves the others alone. Every session ends closed or cancelled, or is left to the process that goes on with the copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Protocol

from app.domain.errors import CopyError, RegistryError, TransferError
from app.registry.client import RegistryClient
from app.registry.uploads import UploadSession
from app.sync.open_uploads import NotedUpload, begun, give_back
from app.sync.patience import Patience
from app.sync.stream import SourceBlob
from app.sync.together import together

MAX_SESSIONS = 3
"""Fresh sessions for one blob, when the one before can't be gone on with."""
_QUEUED_CHUNKS = 1
"""Chunks that wait for a destination beside the one it is sending."""


class Moved(Protocol):
    """Is told that bytes were handed to a destination."""

    def __call__(self, *, offset: int, sent: int) -> None:
        """Take in the offset reached, and how many bytes it were just now."""


Slots = Callable[..., AbstractAsyncContextManager[None]]
"""Takes the slots of several registries together, see `RegistryClients.slots`."""


@dataclass(slots=True, eq=False)
class Receiver:
    """One destination of a blob."""

    client: RegistryClient
    repository: str
    moved: Moved
    noted: NotedUpload
    session: UploadSession | None = None
    error: TransferError | None = None
    last_error: TransferError | None = None
    is_done: bool = False
    sessions: int = 0
    failures: int = 0
    reached: int = 0
    paused_seconds: float = 0.0
    wait: float | None = field(default=None)
    """Seconds the registry asked for before the next try; None when the last one did not fail."""

    @property
    def is_open(self) -> bool:
        """Whether it still is to get bytes."""
        return not self.is_done and self.error is None

    @property
    def offset(self) -> int:
        """Where its next byte belongs."""
        return self.session.offset if self.session else 0


class Transfer:
    """Sends one blob."""

    def __init__(self, source: SourceBlob, slots: Slots, *, patience: Patience) -> None:
        self._source = source
        self._blob = source.blob
        self._slots = slots
        self._patience = patience

    async def send(self, receivers: Sequence[Receiver]) -> None:
        """Send to all; afterwards each is done or has an error. Raises nothing but cancellation."""
        try:
            while group := _next_group(receivers):
                await self._wait(group)
                try:
                    async with self._slots(self._source.client, *(receiver.client for receiver in group)):
                        await self._send_to(group)
                except CopyError as error:
                    self._source_failed(error, group)
                await self._settle(group)
        finally:
            await _part_with(receivers)

    async def _send_to(self, group: Sequence[Receiver]) -> None:
        """Open what is not open, and feed those that stand at the same byte; raise `CopyError` for the source."""
        fresh = [one for one in group if one.session is None or not one.sessions]
        await together(map(self._open, fresh), at_once=len(group))
        ready = [receiver for receiver in group if receiver.is_open and receiver.wait is None]
        if not ready:
            return
        ready = [receiver for receiver in ready if receiver.offset == ready[0].offset]  # one may have been taken up
        if ready[0].offset >= self._blob.size:
            await self._prove(ready[0].offset)
        async with aclosing(self._source.read(ready[0].offset)) as chunks:
            if len(ready) == 1:
                await self._feed(ready[0], chunks)
            else:
                await self._feed_all(ready, chunks)

    async def _open(self, receiver: Receiver) -> None:
        receiver.sessions += 1
        try:
            if (left := await receiver.noted.resume(receiver.client)) is not None:
                await give_back([receiver.session])
                receiver.session = left
            if receiver.session is None:
                receiver.session = await begun(receiver.client.start_upload(receiver.repository, self._blob))
            await receiver.noted.keep(receiver.session)
        except TransferError as error:
            self._note(receiver, error)

    async def _feed(self, receiver: Receiver, chunks: AsyncIterator[bytes]) -> None:
        session = receiver.session
        if session is None:
            return
        try:
            await session.send(_counted(receiver, session, chunks), size=self._blob.size, digest=self._blob.digest)
        except CopyError:
            raise  # the source's
        except TransferError as error:
            self._note(receiver, error)
        else:
            receiver.is_done = True
            await receiver.noted.drop()

    async def _feed_all(self, receivers: Sequence[Receiver], chunks: AsyncIterator[bytes]) -> None:
        channels = [_Channel() for _ in receivers]

        async def feed(receiver: Receiver, channel: _Channel) -> None:
            try:
                await self._feed(receiver, channel.chunks())
            except CopyError:
                pass  # raised by who reads, once for all
            finally:
                channel.close()

        async def read() -> None:
            end: CopyError | None = None
            try:
                async for chunk in chunks:
                    for channel in channels:
                        await channel.put(chunk)
                    if all(channel.is_closed for channel in channels):
                        break
            except CopyError as error:
                end = error
            for channel in channels:
                await channel.put(end)
            failures.extend([end] if end else [])

        failures: list[CopyError] = []
        await together([read(), *map(feed, receivers, channels)], at_once=len(channels) + 1)
        if failures:
            raise failures[0]

    async def _prove(self, offset: int) -> None:
        """Read for the proof's sake: a session that lacks no byte is closed without asking for any."""
        async with aclosing(self._source.read(offset)) as chunks:
            async for _ in chunks:
                pass

    def _source_failed(self, error: CopyError, group: Sequence[Receiver]) -> None:
        """Give up, unless the source only wants to be left alone for longer than slots may be held."""
        cause = error.cause
        for receiver in group:
            if not receiver.is_open:
                continue
            if isinstance(cause, RegistryError) and cause.code == "rate_limited":
                self._note(receiver, error)
            else:
                receiver.error = error

    def _note(self, receiver: Receiver, error: TransferError) -> None:
        """Decide whether a receiver is tried again after this; what the road repeated already only after a pause."""
        cause = error.cause if isinstance(error, CopyError) else error
        pause = cause.retry_after if isinstance(cause, RegistryError) else None
        if receiver.offset > receiver.reached:
            receiver.failures, receiver.reached = 0, receiver.offset
        if isinstance(cause, RegistryError) and cause.code == "rate_limited":
            receiver.paused_seconds += pause or 0.0
            may_help = receiver.paused_seconds < self._patience.pause_seconds
        else:
            may_help = not (isinstance(cause, RegistryError) and cause.given_up)
        receiver.failures += 1
        receiver.last_error = error
        if error.temporary and may_help and receiver.failures < self._patience.attempts:
            receiver.wait = pause or 0.0
        else:
            receiver.error = error

    async def _wait(self, group: Sequence[Receiver]) -> None:
        waits = [receiver.wait for receiver in group if receiver.wait is not None]
        if waits:
            failures = max(receiver.failures for receiver in group)
            await self._patience.wait(failures, at_least=max(waits))
        for receiver in group:
            receiver.wait = None

    async def _settle(self, group: Sequence[Receiver]) -> None:
        """Ask each session that broke how much arrived; without an answer the next try begins in a new one."""
        for receiver in group:
            if not receiver.is_open or receiver.session is None or receiver.wait is None:
                continue
            try:
                await receiver.session.status()
            except TransferError as error:
                await _give_up([receiver])
                if receiver.sessions >= MAX_SESSIONS:
                    receiver.error = receiver.last_error or error


class _Channel:
    """Chunks for one writer; whoever stops reading stops nobody else."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | CopyError | None] = asyncio.Queue(_QUEUED_CHUNKS)
        self.is_closed = False

    async def put(self, chunk: bytes | CopyError | None) -> None:
        """Hand over a chunk, the end (None) or why there is no more; nothing happens when nobody reads."""
        if not self.is_closed:
            await self._queue.put(chunk)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what was put."""
        while (chunk := await self._queue.get()) is not None:
            if isinstance(chunk, CopyError):
                raise chunk
            yield chunk

    def close(self) -> None:
        """Read no more."""
        self.is_closed = True
        while not self._queue.empty():
            self._queue.get_nowait()


def _next_group(receivers: Sequence[Receiver]) -> list[Receiver]:
    """Choose who goes next together: those that have not failed yet, then one by one those that have."""
    waiting = [receiver for receiver in receivers if receiver.is_open]
    fresh = [receiver for receiver in waiting if receiver.wait is None]
    if fresh:
        return [receiver for receiver in fresh if receiver.offset == fresh[0].offset]
    return waiting[:1]


async def _counted(receiver: Receiver, session: UploadSession, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    offset = session.offset
    async for chunk in chunks:
        await receiver.noted.keep(session)
        offset += len(chunk)
        receiver.moved(offset=offset, sent=len(chunk))
        yield chunk


async def _part_with(receivers: Sequence[Receiver]) -> None:
    """Leave unfinished sessions to whoever goes on with them, and give up those that nobody does."""
    for receiver in receivers:
        session = receiver.session
        if session is not None and not receiver.is_done and await receiver.noted.leave(session):
            receiver.session = None
    await _give_up(receivers)


async def _give_up(receivers: Sequence[Receiver]) -> None:
    unfinished = [receiver for receiver in receivers if receiver.session is not None and not receiver.is_done]
    await give_back(receiver.session for receiver in unfinished)
    for receiver in unfinished:
        receiver.session = None
        await receiver.noted.drop()
