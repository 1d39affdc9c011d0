"""How a running unit is told to stop, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, TypeVar

from app.domain.errors import JobInterrupted

T = TypeVar("T")

CLEAN_UP_SECONDS = 5.0
"""How long a cancelled copy may take to close what it has open at registries."""


class Reason(StrEnum):
    """Why a unit stops before its end."""

    STOPPING = "stopping"
    """Its job is cancelled, or fails fast: what has not ended is cancelled."""
    SHUTDOWN = "shutdown"
    """This process ends: the unit goes back to the queue."""
    LOST = "lost"
    """Another worker has claimed it: nothing more is written."""


class Halt:
    """One running unit's stop signal."""

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self.fence: int | None = None
        """The claim that the unit runs under, once it has one."""
        self._called = asyncio.Event()

    def call(self, reason: Reason) -> None:
        """Tell the unit to stop; a lost claim outweighs every other reason."""
        if self.reason is None or reason is Reason.LOST:
            self.reason = reason
        self._called.set()

    def hands_on(self) -> bool:
        """Say whether what is cut off here is gone on with elsewhere: then it stays as it is."""
        return self.reason in {Reason.SHUTDOWN, Reason.LOST}

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work to its end; when called to stop, cancel it, let it clean up, and raise `JobInterrupted`."""
        task, called = asyncio.create_task(work), asyncio.create_task(self._called.wait())
        try:
            await asyncio.wait({task, called}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            called.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CLEAN_UP_SECONDS)
        if self.reason is not None and (not task.done() or task.cancelled()):
            raise JobInterrupted(f"the unit was stopped: {self.reason}")
        return task.result()
