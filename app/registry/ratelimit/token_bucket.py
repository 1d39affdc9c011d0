"""The token bucket: a rate of requests, or bytes, per second."""

from __future__ import annotations

import asyncio

REST_SECONDS = 0.1
"""How much of a rest is made up for: who is late by a moment keeps the rate, and no second has over a tenth more."""


class TokenBucket:
    """Lets `rate` units (requests or bytes) per second pass, and after a rest a tenth of that at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_until = 0.0

    async def acquire(self, units: float) -> None:
        """Wait until these units may pass; the next caller pays for them, so any size goes through."""
        now = asyncio.get_running_loop().time()
        begin = max(self._paid_until, now - REST_SECONDS)
        self._paid_until = begin + units / self.rate
        if begin > now:
            await asyncio.sleep(begin - now)
