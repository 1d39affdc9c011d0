"""The permits of a transfer: of source and destinations, taken together, and lent out while one of them trickles."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Self

from app.net.buffers import Piece
from app.registry.ratelimit.window import ConcurrencyWindow, Permit, acquire, permits_of_task

LOOK_SECONDS = 1.0
"""How often is looked how much has moved."""
TRICKLE_BYTES_PER_SECOND = 10 * 1024
"""A transfer that is slower waits for its source, or for a destination; the others could as well serve another."""


class TransferPermits:
    """`async with` takes permits of several registries, one for each time a registry is named.

    - `windows`: the source's first, then those of the destinations

    While the source trickles, the permits of the destinations are lent out; while a destination does, the source's are.
    Else a registry that trickles (slowloris) would use up the windows of all that it is copied to or from. Lent permits
    are taken back without a wait: for that long a registry may have more transfers than its window is wide.
    """

    def __init__(self, windows: Iterable[ConcurrencyWindow]) -> None:
        self._windows = tuple(windows)
        self._permit: Permit | None = None
        self._lent: Mapping[ConcurrencyWindow, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._moved = 0
        self._is_reading = True
        self._since = self._looked_at = 0.0
        self._reading_seconds = 0.0

    async def __aenter__(self) -> Self:
        if permits_of_task.get():
            raise RuntimeError("permits are taken together, never more while having some")
        self._permit = await acquire(dict(Counter(self._windows)), is_transfer=True)
        self._token = permits_of_task.set(self._permit.needs)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permits_of_task.reset(self._token)
        if self._timer is not None:
            self._timer.cancel()
        self._take_back()
        if self._permit is not None:
            self._permit.give_back()

    async def watch(self, chunks: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        """Yield what comes from the source, and look meanwhile which side is waited for."""
        self._since = self._looked_at = self._loop.time()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        async with aclosing(chunks):
            async for chunk in chunks:
                self._moved += len(chunk)
                self._switch(is_reading=False)
                yield chunk
                self._switch(is_reading=True)

    def _switch(self, *, is_reading: bool) -> None:
        now = self._loop.time()
        if self._is_reading:
            self._reading_seconds += now - self._since
        self._since, self._is_reading = now, is_reading

    def _look(self) -> None:
        self._switch(is_reading=self._is_reading)
        seconds, self._looked_at = self._since - self._looked_at, self._since
        is_slow = self._moved < seconds * TRICKLE_BYTES_PER_SECOND
        is_source_slow = self._reading_seconds > seconds / 2
        self._moved, self._reading_seconds = 0, 0.0
        if not is_slow:
            self._take_back()
        elif not self._lent:
            self._lend(to_keep=self._windows[:1] if is_source_slow else self._windows[1:])
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _lend(self, *, to_keep: tuple[ConcurrencyWindow, ...]) -> None:
        self._lent = Counter(window for window in self._windows if window not in to_keep)
        for window, count in self._lent.items():
            window.count(-count, is_transfer=True)
        for window in self._lent:
            window.serve()

    def _take_back(self) -> None:
        for window, count in self._lent.items():
            window.count(count, is_transfer=True)
        self._lent = {}
