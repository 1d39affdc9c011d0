"""Bytes read before a request needs them: a chunk begins when all of it is here, and is over soon.

Distribution 2 ends a session in the middle of whose chunk the connection breaks. A chunk that waits for its source
would be open nearly all of the time; one that is read first is open only while it is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from app.net.stream import BUFFER_BYTES, Piece


class ReadAheadBuffer:
    """The pieces of a stream, read by a task of its own up to `most` bytes ahead of who takes them."""

    def __init__(self, chunks: AsyncIterator[Piece], *, most: int) -> None:
        self._chunks = chunks
        self._most = most
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(lambda _: self._arrived.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def gather(self, length: int) -> None:
        """Wait until so many bytes are here; raise what the stream raised before that."""
        while self._size < length and not self._task.done():
            self._arrived.clear()
            await self._arrived.wait()
        if self._size < length:
            self._task.result()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        """Return the next piece; raise what the stream raised."""
        await self.gather(1)
        if not self._pieces:
            raise StopAsyncIteration
        piece = self._pieces.popleft()
        self._size -= len(piece)
        self._room.set()
        return piece

    async def _read(self) -> None:
        async for piece in self._chunks:
            if not piece:
                continue
            # A small view would keep the whole of its buffer.
            self._pieces.append(piece if len(piece) >= BUFFER_BYTES // 2 else bytes(piece))
            self._size += len(piece)
            self._arrived.set()
            while self._size >= self._most:
                self._room.clear()
                await self._room.wait()
