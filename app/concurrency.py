"""Concurrency: wait with a limit, run side by side, back off before a retry, retry while the database is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from random import SystemRandom
from typing import TypeVar

import structlog

from app.domain.errors import UnavailableError
from app.domain.retry_policy import RetryPolicy

log = structlog.get_logger()

T = TypeVar("T")

DATABASE_RETRIES = RetryPolicy(first_delay=0.2, max_delay=5.0)
"""A database that comes back is found within the longest backoff; until then it is asked so seldom."""
_chance = SystemRandom().random


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, but not longer than this; return whether it has come."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def back_off(policy: RetryPolicy, failures: int, *, at_least: float = 0.0) -> None:
    """Sleep after so many failures in a row, at least `at_least` seconds (what `Retry-After` asked for)."""
    await asyncio.sleep(max(at_least, policy.delay(failures, chance=_chance())))


async def retry_while_unavailable(action: Callable[[], Awaitable[T]]) -> T:
    """Run something that needs the database, retried until the database responds.

    A commit may have happened though its answer was lost, so the action must be one that can be done twice.
    """
    failures = 0
    while True:
        try:
            return await action()
        except UnavailableError:
            failures += 1
            await back_off(DATABASE_RETRIES, failures)


def log_unavailable(task: str, error: UnavailableError) -> None:
    """Log that a periodic task was postponed; of an outage of the database its two ends are logged elsewhere."""
    if error.code == "database_unreachable":
        log.debug("task_postponed", task=task, code=error.code)
    else:
        log.warning("task_postponed", task=task, code=error.code, error=error.message)


async def in_batches(items: AsyncGenerator[T], *, size: int, seconds: float) -> AsyncGenerator[tuple[list[T], bool]]:
    """Yield what comes in batches, each with whether it is the last: full ones, and every so often what there is.

    `items` is read no further ahead than two batches, and closed at the end; what it raises is raised. The last batch
    may be empty.
    """
    batch: list[T] = []
    is_due, has_room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async for item in items:
            batch.append(item)
            if len(batch) >= size:
                is_due.set()
            if len(batch) >= 2 * size:
                has_room.clear()
                await has_room.wait()

    async with aclosing(items):
        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: is_due.set())
        try:
            while not reading.done():
                await wait_for_event(is_due, seconds)
                is_due.clear()
                if batch and not reading.done():
                    taken = batch[:]
                    batch.clear()
                    has_room.set()
                    yield taken, False
            await reading
            yield batch, True
        finally:
            reading.cancel()
            await asyncio.wait({reading})


async def run_limited(coroutines: Iterable[Coroutine[None, None, T]], *, at_once: int) -> list[T]:
    """Run all, so many at a time, and return what they return, in order.

    The first exception ends the others and is raised as it is, not in a group: what happens at once here is one step.
    A single one, which is most often all there is, runs in the task that it is for.
    """
    waiting = list(coroutines)
    if len(waiting) <= 1:
        return [await coroutine for coroutine in waiting]
    gate = asyncio.Semaphore(at_once)

    async def run(coroutine: Coroutine[None, None, T]) -> T:
        try:
            async with gate:
                return await coroutine
        finally:
            coroutine.close()  # where it never began

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(coroutine)) for coroutine in waiting]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
