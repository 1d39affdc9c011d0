"""Waiting: for an event with a limit, and for a database that is gone for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.domain.errors import UnavailableError

T = TypeVar("T")

FIRST_SECONDS = 0.2
MOST_SECONDS = 5.0
"""A database that comes back is found within this time; until then it is asked so seldom."""


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, but not longer than this; return whether it has come."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def patiently(action: Callable[[], Awaitable[T]]) -> T:
    """Do something that needs the database, as often as it takes until the database answers.

    A commit may have happened though its answer was lost, so the action must be one that can be done twice.
    """
    pause = FIRST_SECONDS
    while True:
        try:
            return await action()
        except UnavailableError:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_SECONDS)
