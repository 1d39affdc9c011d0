"""Turns: one at a time, in the order they came, but who is urgent need not wait for all who came before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Turns:
    """Gives turns; who is urgent goes before the others, every second turn at most, so that nobody waits for ever."""

    def __init__(self) -> None:
        self._is_taken = False
        self._was_urgent = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self, *, is_urgent: bool) -> AsyncIterator[None]:
        """Wait for a turn and have it."""
        await self._enter(self._urgent if is_urgent else self._others)
        self._was_urgent = is_urgent
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, queue: deque[asyncio.Future[None]]) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        mine = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # it was ours already
            else:
                with suppress(ValueError):
                    queue.remove(mine)
            raise

    def _leave(self) -> None:
        while self._urgent or self._others:
            is_urgent = bool(self._urgent) and not (self._was_urgent and self._others)
            following = (self._urgent if is_urgent else self._others).popleft()
            if not following.done():
                following.set_result(None)
                return
        self._is_taken = False
