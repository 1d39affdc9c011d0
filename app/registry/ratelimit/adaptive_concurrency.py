"""The concurrency window of a registry: AIMD over all requests of this process, and backoff when the registry asks.

The window says how many permits exist: it grows by additive increase while answers are good, is halved once per burst
of refusals (multiplicative decrease), and closes while the registry wants a pause (`Retry-After`). A request takes one
permit; a transfer takes permits of all its registries at once, all or none (`TransferPermits`). A task with permits
never waits for more, so no two jobs can wait for each other: its requests to those registries count against what it
has. While one of its registries trickles, the permits of the others are lent out.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from app.concurrency import waiting_for
from app.domain.errors import RegistryError
from app.domain.registry import RegistryLimits
from app.domain.registry_state import RegistryState
from app.domain.retry_policy import RetryPolicy
from app.net.stream import Piece
from app.registry.ratelimit.quota_headers import Quota, WindowNotes, rate_limited
from app.registry.ratelimit.token_bucket import TokenBucket

_FIRST_WINDOW = 4.0
_UNASKED_PAUSES = RetryPolicy(first_delay=1.0, max_delay=60.0)
"""After a 429 without `Retry-After`."""
_MAX_PAUSE_SECONDS = 86_400.0
"""The longest `Retry-After` that is believed; Docker Hub's rate limit windows are six hours."""

permits_of_task: ContextVar[Mapping[ConcurrencyWindow, int]] = ContextVar("permits_of_task", default={})  # noqa: B039 — never changed


@dataclass(frozen=True, slots=True)
class WindowState:
    """What processes can tell each other about one registry."""

    window: float
    changed_at: datetime
    """When the window was last halved."""
    paused_until: datetime | None = None


class ConcurrencyWindow:
    """The window, pause and rates of one registry.

    - `limits`: connections (the largest window), requests per second, bytes per second; as an operator set them
    - `clock`: the time, in UTC, for what is shared with other processes
    - `pause_max_seconds`: the longest pause that is waited for here; for a longer one a request fails at once

    AIMD as TCP has it (Chiu and Jain, 1989): plus one for each window of good answers, half for a burst of refusals.
    """

    def __init__(
        self,
        limits: RegistryLimits,
        *,
        clock: Callable[[], datetime],
        pause_max_seconds: float,
        registry: str = "the registry",
    ) -> None:
        self._clock = clock
        self.registry = registry
        self._pause_max = pause_max_seconds
        self.quota = Quota()
        self.in_use = 0
        self._transfers = 0
        self.waiting: deque[_Waiter] = deque()
        self._window = _FIRST_WINDOW
        self._is_probing = True  # before the first refusal
        self._epoch = 0  # refusals of requests sent before the last halving belong to the same burst
        self._halved_at = datetime.min.replace(tzinfo=clock().tzinfo)
        self._paused_until = 0.0
        self._refusals = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._one = {self: 1}
        self.notes = WindowNotes()
        self.limit(limits)

    def limit(self, limits: RegistryLimits) -> None:
        """Take limits as an operator set them, new ones at any time."""
        self.connections = limits.connections
        self._requests = TokenBucket(limits.requests_per_second) if limits.requests_per_second else None
        self._bytes = TokenBucket(limits.bytes_per_second) if limits.bytes_per_second else None
        self._window = min(self._window, float(limits.connections))

    @property
    def state(self) -> WindowState:
        """What another process should know."""
        seconds = self.pause_seconds
        until = self._clock() + timedelta(seconds=seconds) if seconds else None
        return WindowState(self._window, self._halved_at, until)

    @property
    def registry_state(self) -> RegistryState:
        """What operators are shown."""
        return self.notes.show(self.size, self.in_use, paused_until=self.state.paused_until, quota=self.quota)

    def adopt(self, state: WindowState) -> None:
        """Believe what another process learned: the later halving, the longer pause."""
        if state.changed_at > self._halved_at:
            self._window, self._halved_at = min(state.window, float(self.connections)), state.changed_at
            self._epoch += 1
            self._is_probing = False
        if state.paused_until is not None:
            self.pause((state.paused_until - self._clock()).total_seconds())

    @property
    def size(self) -> int:
        """How many permits there are."""
        return max(1, int(self._window))

    @property
    def pause_seconds(self) -> float:
        """How much longer the registry is to be left alone."""
        if not self._paused_until:
            return 0.0
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    def covers_this_task(self) -> bool:
        """Return whether the current task has permits of this registry."""
        return self in permits_of_task.get()

    async def permit(self, *, is_urgent: bool = False) -> Permit:
        """Return a permit, which the caller gives back. A task with permits of this registry waits for a pause only.

        What is urgent goes before what waits here and for the rate, in order among its like; it costs the same.
        """
        if self.covers_this_task():
            permit = Permit({})
            if seconds := self.pause_seconds:
                await asyncio.sleep(seconds)
        else:
            permit = await acquire(self._one, is_transfer=False, is_urgent=is_urgent)
        if self._requests is not None:
            try:
                await self._requests.acquire(1, is_urgent=is_urgent)
            except BaseException:
                permit.give_back()
                raise
        permit.epoch = self._epoch
        return permit

    async def pass_bytes(self, count: int) -> None:
        """Wait until so many bytes of a blob may go through."""
        if self._bytes is not None:
            await self._bytes.acquire(count)

    def went_well(self) -> None:
        """Widen the window: by one for each answer until the first refusal, after that by one for each window full."""
        self._refusals = 0
        if self._window < self.connections:
            step = 1.0 if self._is_probing else 1.0 / self._window
            self._window = min(float(self.connections), self._window + step)
            self.serve()

    def was_refused(
        self, permit: Permit, *, retry_after: float | None, is_rate_limit: bool, reason: str = "it refused a request"
    ) -> None:
        """Pause, and halve the window if this request was sent after the last halving: once per burst.

        `reason` is what it said, for operators.
        """
        self.notes.pause_reason = reason
        first_of_burst = permit.epoch == self._epoch
        if is_rate_limit and first_of_burst:
            self._epoch += 1
            self._is_probing = False
            self._window = max(1.0, self._window / 2)
            self._halved_at = self._clock()
            self._refusals += 1
        if retry_after is None and is_rate_limit:
            retry_after = _UNASKED_PAUSES.delay(self._refusals) if first_of_burst else 0.0
        self.pause(retry_after or 0.0)

    def pause(self, seconds: float) -> None:
        """Pause: give no permits for some seconds; a longer pause stands. Waiters of a long one are rejected."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, _MAX_PAUSE_SECONDS)
        if seconds > 0 and until > self._paused_until:
            self._paused_until = until
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = loop.call_at(until, self._resume)
        for waiter in list(self.waiting):
            if (error := self.pause_error()) is not None:
                waiter.reject(error)

    def pause_error(self) -> RegistryError | None:
        """Return the error (`rate_limited`) for a pause that is longer than is waited for; None for a shorter one."""
        seconds = self.pause_seconds
        return rate_limited(self.registry, seconds) if seconds > self._pause_max else None

    def _resume(self) -> None:
        # Set outright: timers may go off a clock tick early, and no second one would come.
        self._paused_until = 0.0
        self.serve()

    def close(self) -> None:
        """Let no timer live on."""
        if self._alarm is not None:
            self._alarm.cancel()

    def has_room(self, wanted: int) -> bool:
        """Return whether so many permits are free; more than the window holds go alone."""
        return self.pause_seconds == 0 and (not self.in_use or self.in_use + wanted <= self.size)

    def has_room_for_transfer(self, wanted: int) -> bool:
        """Whether a transfer leaves a quarter of the window to small requests, so that they don't queue behind it."""
        cap = max(1, self.size - max(1, self.size // 4))
        return not self._transfers or self._transfers + wanted <= cap

    def count(self, change: int, *, is_transfer: bool) -> None:
        """Note permits as taken, or released."""
        self.in_use += change
        if is_transfer:
            self._transfers += change

    def serve(self) -> None:
        """Give permits to waiting tasks, first come first served among those that can go.

        One that lacks a permit of another registry lets others pass: a slow registry never holds up a fast one.
        """
        if not self.waiting:
            return
        transfers_wait = False
        for waiter in list(self.waiting):
            if self.pause_seconds > 0 or (self.in_use and self.in_use >= self.size):
                return
            if waiter.granted.done() or (waiter.is_transfer and transfers_wait):
                continue
            if waiter.can_go():
                waiter.grant()
            elif all(
                other.can_take(wanted, is_transfer=waiter.is_transfer)
                for other, wanted in waiter.needs.items()
                if other is not self
            ):
                if not self.has_room(waiter.needs[self]):
                    return
                transfers_wait = True

    def can_take(self, wanted: int, *, is_transfer: bool) -> bool:
        """Return whether this registry, for its part, has so many permits to give."""
        return self.has_room(wanted) and (not is_transfer or self.has_room_for_transfer(wanted))


@dataclass(slots=True, eq=False)
class Permit:
    """Permits of one or more windows, and when they were taken."""

    needs: Mapping[ConcurrencyWindow, int]
    is_transfer: bool = False
    epoch: int = -1

    def give_back(self) -> None:
        """Let others go; twice does no harm."""
        needs, self.needs = self.needs, {}
        for window, count in needs.items():
            window.count(-count, is_transfer=self.is_transfer)
        for window in needs:
            window.serve()


@dataclass(slots=True, eq=False)
class _Waiter:
    """A task that waits for permits."""

    needs: Mapping[ConcurrencyWindow, int]
    is_transfer: bool
    granted: asyncio.Future[None]
    is_urgent: bool = False

    def enter(self) -> None:
        for window in self.needs:
            urgent = sum(other.is_urgent for other in window.waiting) if self.is_urgent else len(window.waiting)
            window.waiting.insert(urgent, self)

    def can_go(self) -> bool:
        return _can_take(self.needs, is_transfer=self.is_transfer)

    def grant(self) -> None:
        _take(self.needs, is_transfer=self.is_transfer)
        self.leave()
        self.granted.set_result(None)

    def reject(self, error: RegistryError) -> None:
        self.leave()
        if not self.granted.done():
            self.granted.set_exception(error)

    def leave(self) -> None:
        for window in self.needs:
            with suppress(ValueError):
                window.waiting.remove(self)


def _can_take(needs: Mapping[ConcurrencyWindow, int], *, is_transfer: bool) -> bool:
    return all(window.can_take(wanted, is_transfer=is_transfer) for window, wanted in needs.items())


def _take(needs: Mapping[ConcurrencyWindow, int], *, is_transfer: bool) -> None:
    for window, count in needs.items():
        window.count(count, is_transfer=is_transfer)


async def acquire(needs: Mapping[ConcurrencyWindow, int], *, is_transfer: bool, is_urgent: bool = False) -> Permit:
    """Wait until all these permits can be had, and take them together.

    Raise `RegistryError` (`rate_limited`) where one of the registries wants a longer pause than is waited for.
    """
    for window in needs:
        if (error := window.pause_error()) is not None:
            raise error
    permit = Permit(needs, is_transfer)
    if not any(window.waiting for window in needs) and _can_take(needs, is_transfer=is_transfer):
        _take(needs, is_transfer=is_transfer)
        return permit
    waiter = _Waiter(needs, is_transfer, asyncio.get_running_loop().create_future(), is_urgent)
    waiter.enter()
    for window in needs:
        window.serve()
    lacking = [
        window.registry for window, wanted in needs.items() if not window.can_take(wanted, is_transfer=is_transfer)
    ]
    try:
        with waiting_for(*lacking):
            await waiter.granted
    except asyncio.CancelledError:
        waiter.leave()
        if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
            permit.give_back()
        for window in needs:
            window.serve()
        raise
    return permit


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
