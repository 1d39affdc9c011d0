"""Concurrency: wait with a limit, run side by side, back off before a retry; and note what a unit of work waits for.

The worker makes an `Activity` for each unit that it runs, and all that the unit does finds it in its context: the
registries that it has requests at, and how much has moved for it lately. By it the worker sees which units only wait,
for a registry that trickles or asks for pauses, and gives their slots to others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from contextvars import ContextVar
from random import SystemRandom
from time import monotonic
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


ANSWER_BYTES = 4 * 1024
"""What an answer counts as beside its body: a unit whose images are all there already moves next to nothing."""

_current: ContextVar[Activity | None] = ContextVar("activity", default=None)
_asked: ContextVar[str] = ContextVar("asked_registry", default="")


class Activity:
    """Of one unit.

    - `bytes_per_second`: a unit for which less than this moves only waits
    """

    def __init__(self, *, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self.waits: Counter[str] = Counter()
        self._awaited: Counter[Activity] = Counter()
        self._moved = 0
        self._looked_at = monotonic()

    def is_waiting(self) -> bool:
        """Return whether the unit has only waited since this was asked the last time."""
        now = monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        moved, self._moved = self._moved, 0
        return moved < seconds * self._bytes_per_second

    @property
    def registries(self) -> frozenset[str]:
        """The registries that it waits for, itself or for another unit that waits for them."""
        return frozenset(+self.waits).union(*(+awaited.waits for awaited in +self._awaited))

    def move(self, size: int) -> None:
        """Count bytes that moved, either way."""
        self._moved += size

    def wait(self, registry: str, change: int) -> None:
        """Count a request to a registry that has begun (1) or ended (-1), its retries included."""
        self.waits[registry] += change

    def wait_for_unit(self, activity: Activity, change: int) -> None:
        """Count a wait for what another unit does that has begun (1) or ended (-1)."""
        self._awaited[activity] += change


@contextmanager
def acting(activity: Activity) -> Iterator[None]:
    """Have all that is done inside, and in tasks made inside, count as this activity."""
    token = _current.set(activity)
    try:
        yield
    finally:
        _current.reset(token)


class _Waiting:
    """Notes waits of an activity while inside: by hand, as a generator costs several times as much per request."""

    __slots__ = ("_activity", "_change", "_registries", "_token")

    def __init__(self, activity: Activity, registries: tuple[str, ...], change: int) -> None:
        self._activity, self._registries, self._change = activity, registries, change

    def __enter__(self) -> None:
        for registry in self._registries:
            self._activity.wait(registry, self._change)
        if self._change > 0:
            self._token = _asked.set(self._registries[0] if len(self._registries) == 1 else "")

    def __exit__(self, *_: object) -> None:
        for registry in self._registries:
            self._activity.wait(registry, -self._change)
        if self._change > 0:
            _asked.reset(self._token)


_NOT_NOTED = nullcontext()


def waiting_for(*registries: str) -> AbstractContextManager[None]:
    """Note a request to a registry, or a wait for its permits, for as long as the block lasts."""
    activity = _current.get()
    return _NOT_NOTED if activity is None else _Waiting(activity, registries, 1)


@contextmanager
def waiting_for_unit(other: Activity | None) -> Iterator[None]:
    """Note, for as long as the block lasts, a wait for what another unit does."""
    activity = _current.get()
    if activity is None or other is None:
        yield
        return
    activity.wait_for_unit(other, 1)
    try:
        yield
    finally:
        activity.wait_for_unit(other, -1)


def waiting_elsewhere() -> AbstractContextManager[None]:
    """Note that a request's own body is waited for: its registry has nothing to do with that."""
    activity, registry = _current.get(), _asked.get()
    return _NOT_NOTED if activity is None or not registry else _Waiting(activity, (registry,), -1)


def current_activity() -> Activity | None:
    """Return the activity of the unit that this is done for; None outside of units."""
    return _current.get()


def note_moved(size: int) -> None:
    """Count bytes that moved for the current unit, if there is one."""
    activity = _current.get()
    if activity is not None:
        activity.move(size)
