"""The token bucket: a rate of requests, or bytes, per second."""

from __future__ import annotations

import asyncio
from collections import deque

REST_SECONDS = 0.1
"""How much of a rest is made up for: who is late by a moment keeps the rate, and no second has over a tenth more."""


class TokenBucket:
    """Lets `rate` units (requests or bytes) per second pass, and after a rest a tenth of that at once.

    First come, first served, but what is urgent goes before all else; who is cancelled while waiting costs those behind
    it nothing.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_until = 0.0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._urgent: deque[tuple[asyncio.Future[None], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, units: float, *, is_urgent: bool = False) -> None:
        """Wait until these units may pass; the next caller pays for them, so any size goes through."""
        loop = asyncio.get_running_loop()
        if not self._waiting and not self._urgent and self._paid_until <= (now := loop.time()):
            self._pay(units, now)
            return
        granted = loop.create_future()
        (self._urgent if is_urgent else self._waiting).append((granted, units))
        if self._timer is None:
            self._timer = loop.call_at(self._paid_until, self._serve)
        await granted

    def _pay(self, units: float, now: float) -> None:
        self._paid_until = max(self._paid_until, now - REST_SECONDS) + units / self.rate

    def _serve(self) -> None:
        self._timer, loop = None, asyncio.get_running_loop()
        is_first = True  # timers may go off a clock tick early
        while queue := self._urgent or self._waiting:
            granted, units = queue[0]
            if not granted.cancelled():
                now = loop.time()
                if self._paid_until > now and not is_first:
                    self._timer = loop.call_at(self._paid_until, self._serve)
                    return
                self._pay(units, now)
                granted.set_result(None)
                is_first = False
            queue.popleft()
