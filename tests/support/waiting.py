"""Waiting for a condition that no event tells of."""

import asyncio
from collections.abc import Callable

SOON_SECONDS = 90


async def until(reached: Callable[[], bool]) -> None:
    """Wait until something is so: looked for again and again, however slow or fast the machine is."""
    async with asyncio.timeout(SOON_SECONDS):
        while not reached():  # noqa: ASYNC110 — no event tells of it
            await asyncio.sleep(0.01)
