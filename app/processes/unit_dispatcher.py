"""The queue beside SQLite, in the supervisor: units wait in memory, and each is handed to one worker process.

The most urgent unit goes to the least busy process. What a process had when it ended is handed to another at once;
whether that may begin is for the rows to say (`app/worker/claims.py`). Nothing polls: a unit is handed out when it
arrives, when its rest is over, or when a process has room.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.process_channel import ProcessChannel, Topic


@dataclass(slots=True)
class _Worker:
    """A worker process as the dispatcher sees it."""

    channel: ProcessChannel
    slots: int
    units: set[int] = field(default_factory=set)
    """The units it runs."""


class UnitDispatcher:
    """Hands units to worker processes."""

    def __init__(self) -> None:
        self._priorities: dict[int, int] = {}
        """Of each unit that waits, rests or runs: a unit enqueued twice is one."""
        self._waiting: list[tuple[int, int, int]] = []
        """A heap: the most urgent first, among equals the first that came."""
        self._arrivals = itertools.count()
        self._workers: dict[str, _Worker] = {}
        self._is_stopping = False

    def serve(self, name: str, channel: ProcessChannel) -> None:
        """Listen to what a process says of units."""
        channel.on(Topic.ENQUEUE, self._enqueue)
        channel.on(Topic.READY, lambda slots: self._join(name, channel, slots))
        channel.on(Topic.DRAINING, lambda _: self._drain(name))
        channel.on(Topic.DONE, lambda done: self._end(name, *done))

    def leave(self, name: str) -> None:
        """Take back what a process had that has ended."""
        worker = self._workers.pop(name, None)
        for unit_id in worker.units if worker else ():
            self._put(unit_id)

    def stop(self) -> None:
        """Hand out nothing more; what is at work is for its process to end or to give back."""
        self._is_stopping = True

    def _enqueue(self, items: Sequence[Sequence[int]]) -> None:
        for unit_id, priority in items:
            if unit_id not in self._priorities:
                self._priorities[unit_id] = priority
                self._put(unit_id)

    def _join(self, name: str, channel: ProcessChannel, slots: int) -> None:
        self._workers[name] = _Worker(channel, slots)
        self._hand_out()

    def _drain(self, name: str) -> None:
        if name in self._workers:
            self._workers[name].slots = 0

    def _end(self, name: str, unit_id: int, again_seconds: float | None) -> None:
        worker = self._workers.get(name)
        if worker is None or unit_id not in worker.units:
            return
        worker.units.remove(unit_id)
        if again_seconds is None:
            del self._priorities[unit_id]
            self._hand_out()
        elif again_seconds > 0:
            asyncio.get_running_loop().call_later(again_seconds, self._put, unit_id)
            self._hand_out()
        else:
            self._put(unit_id)

    def _put(self, unit_id: int) -> None:
        heapq.heappush(self._waiting, (-self._priorities[unit_id], next(self._arrivals), unit_id))
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and not self._is_stopping and (worker := self._least_busy()) is not None:
            *_, unit_id = heapq.heappop(self._waiting)
            worker.units.add(unit_id)
            worker.channel.send(Topic.RUN, unit_id)

    def _least_busy(self) -> _Worker | None:
        free = [worker for worker in self._workers.values() if len(worker.units) < worker.slots]
        return min(free, key=lambda worker: len(worker.units) / worker.slots, default=None)
