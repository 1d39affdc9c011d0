"""The transfer of one blob to one or more destinations: sessions first, then one reading fed to all.

What breaks goes on where the destination says it stands; nothing that arrived is sent again. A destination that fails
leaves the others alone. Every session ends closed or cancelled, or is left to the process that goes on with the copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from app.concurrency import back_off, run_limited
from app.domain.errors import CopyError, RegistryError, TransferError
from app.domain.retry_policy import RetryPolicy
from app.net.stream import Piece
from app.observability import counted_bytes
from app.registry.client import RegistryClient
from app.registry.ratelimit.adaptive_concurrency import TransferPermits
from app.registry.uploads import UploadSession
from app.sync.known_blobs import NotedUpload, give_back
from app.sync.source_blob import SourceBlob, is_progress

MAX_SESSIONS = 3
"""Fresh sessions for one blob, when the one before can't be gone on with."""
_QUEUED_CHUNKS = 1
"""Chunks that wait for a destination beside the one it is sending."""


class Moved(Protocol):
    """Observes bytes that were handed to a destination."""

    def __call__(self, *, offset: int, sent: int) -> None:
        """Take in the offset reached, and how many bytes it were just now."""


class NoteStep(Protocol):
    """Takes a step for the log of an image."""

    def __call__(self, event: str, /, **details: str | int | None) -> None:
        """Note it."""


TakePermits = Callable[..., AbstractAsyncContextManager[TransferPermits]]
"""Takes the slots of several registries together, see `RegistryClients.slots`."""


@dataclass(slots=True, eq=False)
class Receiver:
    """One destination of a blob."""

    client: RegistryClient
    repository: str
    moved: Moved
    noted: NotedUpload
    note_step: NoteStep
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
    """Sends one blob from its source to one or more destinations.

    - `source`: the reader, which hashes what passes
    - `slots`: takes permits of all registries concerned together
    - `retry_policy`: attempts in a row without a byte more, and the backoff between them
    """

    def __init__(self, source: SourceBlob, slots: TakePermits, *, retry_policy: RetryPolicy) -> None:
        self._source = source
        self._blob = source.blob
        self._slots = slots
        self._retry_policy = retry_policy

    async def send(self, receivers: Sequence[Receiver]) -> None:
        """Send to all; afterwards each is done or has an error. Raises nothing but cancellation."""
        try:
            while group := _next_group(receivers):
                await self._wait(group)
                try:
                    async with self._slots(self._source.client, *(receiver.client for receiver in group)) as permits:
                        await self._send_to(group, permits)
                except CopyError as error:
                    if self._source.start_over(error):
                        await _give_up(receivers)  # what arrived so far may be what was damaged
                    else:
                        self._source_failed(error, group)
                except RegistryError as error:  # one of the registries wants a long pause: nothing was begun
                    for receiver in group:
                        self._note(receiver, error)
                await self._settle(group)
        finally:
            await _part_with(receivers)

    async def _send_to(self, group: Sequence[Receiver], permits: TransferPermits) -> None:
        """Open what is not open, and feed those that stand at the same byte; raise `CopyError` for the source."""
        fresh = [one for one in group if one.session is None or not one.sessions]
        await run_limited(map(self._open, fresh), at_once=len(group))
        ready = [receiver for receiver in group if receiver.is_open and receiver.wait is None]
        if not ready:
            return
        ready = [receiver for receiver in ready if receiver.offset == ready[0].offset]  # one may have been taken up
        if ready[0].offset >= self._blob.size:
            await self._prove(ready[0].offset)
        async with aclosing(permits.watch(self._source.read(ready[0].offset))) as chunks:
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
                receiver.note_step("upload_resumed", digest=self._blob.digest, offset=left.offset)
            if receiver.session is None:
                receiver.session = await receiver.client.start_upload(receiver.repository, self._blob)
            await receiver.noted.keep(receiver.session)
        except TransferError as error:
            self._note(receiver, error)

    async def _feed(self, receiver: Receiver, chunks: AsyncIterator[Piece]) -> None:
        session = receiver.session
        if session is None:
            return
        try:
            await session.send(
                _counted(receiver, session, chunks),
                size=self._blob.size,
                digest=self._blob.digest,
                passed=partial(receiver.noted.keep, session),
            )
        except CopyError:
            raise  # the source's
        except TransferError as error:
            self._note(receiver, error)
        else:
            receiver.is_done = True
            await receiver.noted.drop()

    async def _feed_all(self, receivers: Sequence[Receiver], chunks: AsyncIterator[Piece]) -> None:
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
        await run_limited([read(), *map(feed, receivers, channels)], at_once=len(channels) + 1)
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
        """Decide whether a receiver is retried after this; what the client has retried already only after a pause."""
        cause = error.cause if isinstance(error, CopyError) else error
        pause = cause.retry_after if isinstance(cause, RegistryError) else None
        if is_progress(receiver.offset - receiver.reached, error):
            receiver.failures, receiver.reached = 0, receiver.offset
        if isinstance(cause, RegistryError) and cause.code == "rate_limited":
            receiver.paused_seconds += pause or 0.0
            may_help = receiver.paused_seconds < self._retry_policy.max_pause
        else:
            may_help = not (isinstance(cause, RegistryError) and cause.retries_exhausted)
        receiver.failures += 1
        receiver.note_step(
            "transfer_interrupted",
            digest=self._blob.digest,
            offset=receiver.offset,
            code=error.code,
            message=error.message,
        )
        receiver.last_error = error
        if error.temporary and may_help and self._retry_policy.allows(receiver.failures):
            receiver.wait = pause or 0.0
        else:
            receiver.error = error

    async def _wait(self, group: Sequence[Receiver]) -> None:
        waits = [receiver.wait for receiver in group if receiver.wait is not None]
        if waits:
            failures = max(receiver.failures for receiver in group)
            await back_off(self._retry_policy, failures, at_least=max(waits))
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
    """Chunks for one writer; a writer that stops reading stops no other."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Piece | CopyError | None] = asyncio.Queue(_QUEUED_CHUNKS)
        self.is_closed = False

    async def put(self, chunk: Piece | CopyError | None) -> None:
        """Hand over a chunk, the end (None) or why there is no more; do nothing when the reader has stopped."""
        if not self.is_closed:
            await self._queue.put(chunk)

    async def chunks(self) -> AsyncIterator[Piece]:
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


async def _counted(receiver: Receiver, session: UploadSession, chunks: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    offset = session.offset
    with counted_bytes(receiver.client.entry.label, "sent") as count:
        async for chunk in chunks:
            await receiver.noted.keep(session)
            offset += len(chunk)
            count(len(chunk))
            receiver.moved(offset=offset, sent=len(chunk))
            yield chunk


async def _part_with(receivers: Sequence[Receiver]) -> None:
    """Leave unfinished sessions to a worker that resumes them, and cancel those that none will."""
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
