"""The slots of a worker: so many units at once, of those that do something.

A unit that only waits gives its slot back and goes on beside them, as far as there is room: a registry that trickles,
or that asks for pauses, must not keep the jobs of others waiting. Of that room one registry gets a share, and more of
its units are deferred.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.registry.activity import Activity, acting

LOOK_SECONDS = 1.0
"""How often a worker looks whether a unit that has a slot only waits."""
COME_BACK_SECONDS = 5.0
"""After how long a unit that has none is looked at again."""
BYTES_PER_SECOND = 10 * 1024
"""A unit that moves less only waits."""
WAITING_PER_SLOT = 8
"""How many units may wait without a slot, for each slot that there is."""
SHARE = 4
"""One registry may have a quarter of these."""


class UnitSlots:
    """Slots for the units of one process.

    - `concurrency`: units at once that do something
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._free = asyncio.Semaphore(concurrency)
        self._room = WAITING_PER_SLOT * concurrency
        self._activities: dict[int, Activity] = {}
        self._waiting: set[int] = set()

    @asynccontextmanager
    async def slot(self, unit_id: int) -> AsyncIterator[None]:
        """Wait for a slot, and keep it for the block or until it is given back."""
        await self._free.acquire()
        activity = self._activities[unit_id] = Activity(bytes_per_second=BYTES_PER_SECOND)
        try:
            with acting(activity):
                yield
        finally:
            del self._activities[unit_id]
            if unit_id in self._waiting:
                self._waiting.remove(unit_id)
            else:
                self._free.release()

    def give_back(self, unit_id: int) -> bool:
        """Give a unit's slot back if it only waits and there is room; return whether it waits without one."""
        activity = self._activities.get(unit_id)
        if activity is None or not activity.is_waiting():
            return False
        if unit_id not in self._waiting:
            if len(self._waiting) >= self._room:
                return False
            self._waiting.add(unit_id)
            self._free.release()
        return True

    def crowded(self) -> frozenset[str]:
        """Return the registries that have their share of what waits without a slot."""
        counts = Counter(registry for unit_id in self._waiting for registry in self._activities[unit_id].registries)
        return frozenset(registry for registry, count in counts.items() if count >= self._room // SHARE)
