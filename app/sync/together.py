"""Several things at once, ended together by the first that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar

T = TypeVar("T")


async def together(coroutines: Iterable[Coroutine[None, None, T]], *, at_once: int) -> list[T]:
    """Run all, so many at a time, and return what they return, in order.

    The first exception ends the others and is raised as it is, not in a group: what happens at once here is one step.
    """
    gate = asyncio.Semaphore(at_once)

    async def run(coroutine: Coroutine[None, None, T]) -> T:
        try:
            async with gate:
                return await coroutine
        finally:
            coroutine.close()  # where it never began

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(coroutine)) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
