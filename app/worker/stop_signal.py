"""The stop signal of a running unit: cancellation of its job, shutdown of the process, or a lost claim.

Cancellation reaches a blob in the middle: the unit's task is cancelled, closes what it has open at registries within
`CLEAN_UP_SECONDS`, and the cancellation is never swallowed on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, TypeVar

from app.domain.errors import JobInterrupted

T = TypeVar("T")

CLEAN_UP_SECONDS = 5.0
"""How long a cancelled copy may take to close what it has open at registries."""


class StopReason(StrEnum):
    """Why a unit stops before its end."""

    STOPPING = "stopping"
    """Cancellation of its job, or `fail_fast`: what has not ended is cancelled."""
    SHUTDOWN = "shutdown"
    """This process ends: the unit goes back to the queue."""
    LOST = "lost"
    """Another worker has claimed it: nothing more is written."""


class StopSignal:
    """One running unit's stop signal."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.fence: int | None = None
        """The claim that the unit runs under, once it has one."""
        self._called = asyncio.Event()

    def call(self, reason: StopReason) -> None:
        """Stop the unit; a lost claim outweighs every other reason."""
        if self.reason is None or reason is StopReason.LOST:
            self.reason = reason
        self._called.set()

    @property
    def keeps_claim(self) -> bool:
        """Whether the unit was asked to stop while its claim is still its own: then what became of it is recorded."""
        return self.reason in {StopReason.STOPPING, StopReason.SHUTDOWN}

    def will_be_resumed(self) -> bool:
        """Return whether another worker resumes what is cut off here: then open uploads stay open."""
        return self.reason in {StopReason.SHUTDOWN, StopReason.LOST}

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run some work to its end; when called, cancel it, let it clean up, and raise `JobInterrupted`."""
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
