"""How hard one registry is asked, by everything in this process together.

A registry has a window: so many turns at once, growing while all is well, halved once per burst of refusals, closed
while the registry wants a pause. A request takes one turn; a transfer takes turns of both its registries at once, all
or none (`slots`). Whoever holds turns never waits for more, so no two jobs can wait for each other: requests made
while holding slots of their registry count against those slots.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType

from app.domain.registry import RegistryLimits
from app.registry.bucket import Bucket
from app.registry.quota import Quota

_FIRST_WINDOW = 4.0
_FIRST_PAUSE_SECONDS = 1.0
_MAX_UNASKED_PAUSE_SECONDS = 60.0
"""Pauses after a 429 that does not say how long, doubled with each one in a row."""

_held: ContextVar[Mapping[Pressure, int]] = ContextVar("held_slots", default={})  # noqa: B039 — never changed


@dataclass(frozen=True, slots=True)
class PressureState:
    """What processes can tell each other about one registry."""

    window: float
    changed_at: datetime
    """When the window was last halved."""
    paused_until: datetime | None = None


class Pressure:
    """The window, pause and rates of one registry."""

    def __init__(self, limits: RegistryLimits, *, clock: Callable[[], datetime], pause_max_seconds: float) -> None:
        self._clock = clock
        self._pause_max = pause_max_seconds
        self.quota = Quota()
        self.in_use = 0
        self._transfers = 0
        self.waiting: deque[_Wish] = deque()
        self._window = _FIRST_WINDOW
        self._is_probing = True  # before the first refusal
        self._epoch = 0  # refusals of requests sent before the last halving belong to the same burst
        self._halved_at = datetime.min.replace(tzinfo=clock().tzinfo)
        self._paused_until = 0.0
        self._refusals = 0
        self._alarm: asyncio.TimerHandle | None = None
        self.limit(limits)

    def limit(self, limits: RegistryLimits) -> None:
        """Take limits as an operator set them, new ones at any time."""
        self.connections = limits.connections
        self._requests = Bucket(limits.requests_per_second) if limits.requests_per_second else None
        self._bytes = Bucket(limits.bytes_per_second) if limits.bytes_per_second else None
        self._window = min(self._window, float(limits.connections))

    @property
    def state(self) -> PressureState:
        """What another process should know."""
        seconds = self.pause_seconds
        until = self._clock() + timedelta(seconds=seconds) if seconds else None
        return PressureState(self._window, self._halved_at, until)

    def adopt(self, state: PressureState) -> None:
        """Believe what another process learned: the later halving, the longer pause."""
        if state.changed_at > self._halved_at:
            self._window, self._halved_at = min(state.window, float(self.connections)), state.changed_at
            self._epoch += 1
            self._is_probing = False
        if state.paused_until is not None:
            self.pause((state.paused_until - self._clock()).total_seconds())

    @property
    def window(self) -> int:
        """How many turns may be taken at once."""
        return max(1, int(self._window))

    @property
    def pause_seconds(self) -> float:
        """How much longer the registry is to be left alone."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    def covers_this_task(self) -> bool:
        """Whether whoever asks holds slots of this registry."""
        return self in _held.get()

    async def turn(self) -> Turn:
        """Wait for a turn; the caller gives it back. With slots of this registry in hand only a pause is waited for."""
        if self.covers_this_task():
            turn = Turn({})
            await asyncio.sleep(self.pause_seconds)
        else:
            turn = await take({self: 1}, is_transfer=False)
        if self._requests is not None:
            try:
                await self._requests.take(1)
            except BaseException:
                turn.give_back()
                raise
        turn.epoch = self._epoch
        return turn

    async def pass_bytes(self, count: int) -> None:
        """Wait until so many bytes of a blob may go through."""
        if self._bytes is not None:
            await self._bytes.take(count)

    def went_well(self) -> None:
        """Widen the window: by one for each answer until the first refusal, after that by one for each window full."""
        self._refusals = 0
        if self._window < self.connections:
            step = 1.0 if self._is_probing else 1.0 / self._window
            self._window = min(float(self.connections), self._window + step)
            self.serve()

    def was_refused(self, turn: Turn, *, retry_after: float | None, is_rate_limit: bool) -> None:
        """Pause, and halve the window if this request was sent after the last halving: once per burst."""
        first_of_burst = turn.epoch == self._epoch
        if is_rate_limit and first_of_burst:
            self._epoch += 1
            self._is_probing = False
            self._window = max(1.0, self._window / 2)
            self._halved_at = self._clock()
            self._refusals += 1
        if retry_after is None and is_rate_limit:
            retry_after = min(_FIRST_PAUSE_SECONDS * 2 ** (self._refusals - 1), _MAX_UNASKED_PAUSE_SECONDS)
            retry_after = retry_after if first_of_burst else 0.0
        self.pause(retry_after or 0.0)

    def pause(self, seconds: float) -> None:
        """Give no turns for a while; a longer pause stands."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, self._pause_max)
        if seconds > 0 and until > self._paused_until:
            self._paused_until = until
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = loop.call_at(until, self._resume)

    def _resume(self) -> None:
        # Said outright: timers may go off a clock tick early, and nobody would come again.
        self._paused_until = 0.0
        self.serve()

    def close(self) -> None:
        """Let no timer live on."""
        if self._alarm is not None:
            self._alarm.cancel()

    def has_room(self, wanted: int) -> bool:
        """Whether so many turns are free; more than the window holds go alone."""
        return self.pause_seconds == 0 and (not self.in_use or self.in_use + wanted <= self.window)

    def has_room_for_transfer(self, wanted: int) -> bool:
        """Whether a transfer leaves a quarter of the window to small requests, so that they don't queue behind it."""
        cap = max(1, self.window - max(1, self.window // 4))
        return not self._transfers or self._transfers + wanted <= cap

    def count(self, change: int, *, is_transfer: bool) -> None:
        """Note turns as taken, or given back."""
        self.in_use += change
        if is_transfer:
            self._transfers += change

    def serve(self) -> None:
        """Give turns to those who wait, first come first served among those who can go.

        One that lacks a turn of another registry lets others pass: a slow registry never holds up a fast one.
        """
        transfers_wait = False
        for wish in list(self.waiting):
            if self.pause_seconds > 0 or (self.in_use and self.in_use >= self.window):
                return
            if wish.granted.done() or (wish.is_transfer and transfers_wait):
                continue
            if wish.can_go():
                wish.grant()
            elif all(other.can_take(wish) for other in wish.needs if other is not self):
                if not self.has_room(wish.needs[self]):
                    return
                transfers_wait = True

    def can_take(self, wish: _Wish) -> bool:
        """Whether this registry, for its part, lets somebody go."""
        wanted = wish.needs[self]
        return self.has_room(wanted) and (not wish.is_transfer or self.has_room_for_transfer(wanted))


@dataclass(slots=True, eq=False)
class Turn:
    """Turns in hand, and when they were taken."""

    needs: Mapping[Pressure, int]
    is_transfer: bool = False
    epoch: int = -1

    def give_back(self) -> None:
        """Let others go; twice does no harm."""
        needs, self.needs = self.needs, {}
        for pressure, count in needs.items():
            pressure.count(-count, is_transfer=self.is_transfer)
        for pressure in needs:
            pressure.serve()


@dataclass(slots=True, eq=False)
class _Wish:
    """Somebody who wants turns."""

    needs: Mapping[Pressure, int]
    is_transfer: bool
    granted: asyncio.Future[None]

    def can_go(self) -> bool:
        return all(pressure.can_take(self) for pressure in self.needs)

    def grant(self) -> None:
        for pressure, count in self.needs.items():
            pressure.count(count, is_transfer=self.is_transfer)
        self.leave()
        self.granted.set_result(None)

    def leave(self) -> None:
        for pressure in self.needs:
            with suppress(ValueError):
                pressure.waiting.remove(self)


async def take(needs: Mapping[Pressure, int], *, is_transfer: bool) -> Turn:
    """Wait until all these turns can be had, and take them together."""
    wish = _Wish(needs, is_transfer, asyncio.get_running_loop().create_future())
    turn = Turn(needs, is_transfer)
    if wish.can_go() and not any(pressure.waiting for pressure in needs):
        wish.grant()
        return turn
    for pressure in needs:
        pressure.waiting.append(wish)
    for pressure in needs:
        pressure.serve()
    try:
        await wish.granted
    except asyncio.CancelledError:
        wish.leave()
        if wish.granted.done() and not wish.granted.cancelled():
            turn.give_back()
        for pressure in needs:
            pressure.serve()
        raise
    return turn


class Slots:
    """`async with` holds slots of several registries, one for each time a registry is named."""

    def __init__(self, pressures: Iterable[Pressure]) -> None:
        self._needs = Counter(pressures)
        self._turn: Turn | None = None

    async def __aenter__(self) -> None:
        if _held.get():
            raise RuntimeError("slots are taken together, never more while holding some")
        self._turn = await take(dict(self._needs), is_transfer=True)
        self._token = _held.set(self._turn.needs)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.reset(self._token)
        if self._turn is not None:
            self._turn.give_back()
