"""Who is alive: each worker raises its beat in the database, and watches the beats of the others.

A worker is dead when its beat has stood still for a while as seen from here, and only time in which the database could
be asked counts: after an outage nobody is taken for dead before having had the time to show up again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from app.domain.errors import UnavailableError
from app.store.database import Database
from app.store.workers import WorkerStore

BEAT_SECONDS = 2.0
DEAD_SECONDS = 9.0
"""Shorter than the engine takes to deliver a unit again, so that it finds the way clear."""
FORGOTTEN = timedelta(hours=1)


class Roster:
    """This worker's own beat, and what it knows of the others."""

    def __init__(
        self,
        database: Database,
        *,
        worker: str,
        name: str,
        concurrency: int,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self.worker = worker
        self._name = name
        self._concurrency = concurrency
        self._clock = clock
        self._monotonic = monotonic
        self._stands: dict[str, tuple[int | None, float]] = {}
        """Each worker's beat, None for one that is not on the roster, and since when it stands."""
        self._looked_at = -math.inf

    async def beat(self) -> None:
        """Show that this worker lives, and look at the others; raise `UnavailableError`."""
        now = self._clock()
        async with self._database.transaction() as session:
            workers = WorkerStore(session)
            await workers.beat(self.worker, name=self._name, concurrency=self._concurrency, now=now)
            signs = await workers.list()
            await workers.delete_unseen_since(now - FORGOTTEN)
        self._look({sign.id: sign.beat for sign in signs})

    async def leave(self) -> None:
        """Take this worker off the roster; what it had it has given back."""
        try:
            async with self._database.transaction() as session:
                await WorkerStore(session).delete(self.worker)
        except UnavailableError:
            return  # then the others find out by themselves

    def is_dead(self, worker: str) -> bool:
        """Say whether a worker will write no more, as far as can be seen from here."""
        if self._database.is_sqlite:
            return worker != self.worker  # one process: any other's work is from before
        _, since = self._stands.setdefault(worker, (None, self._looked_at))
        return self._looked_at - since >= DEAD_SECONDS

    @property
    def alive(self) -> int:
        """How many workers there are, this one included."""
        return max(1, sum(beat is not None and not self.is_dead(worker) for worker, (beat, _) in self._stands.items()))

    def _look(self, beats: dict[str, int]) -> None:
        now = self._monotonic()
        was_away = now - self._looked_at > 3 * BEAT_SECONDS
        for worker in {*self._stands, *beats}:
            beat, since = self._stands.get(worker, (None, now))
            stands = beat == beats.get(worker) and not was_away
            self._stands[worker] = (beats.get(worker), since if stands else now)
        self._looked_at = now
