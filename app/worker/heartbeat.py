"""Heartbeats: each worker raises its own in the database, and watches the others'. A dead worker's units are stalled.

A worker is dead when its heartbeat has stood still for a while as seen from here, and only time in which the database
could be asked counts: after an outage no worker is taken for dead before having had the time to show up again. Of the
processes of its own host a worker hears at once, from their supervisor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from app.domain.errors import UnavailableError
from app.process_channel import ProcessChannel, Topic
from app.store.db.database import Database
from app.store.heartbeats import HeartbeatStore

HEARTBEAT_SECONDS = 2.0
DEAD_SECONDS = 9.0
"""Shorter than the queue takes to redeliver a unit, which is then free to be claimed."""
FORGOTTEN = timedelta(hours=1)


class Heartbeat:
    """This worker's own heartbeat, and what it knows of the others.

    - `worker`: its id; `name`: the host; `concurrency`: units at once
    - `clock`: the time, in UTC, for what is stored
    - `channel`: the way to the supervisor, which knows the processes of this host; None where there is none
    - `monotonic`: seconds, for how long a heartbeat has stood still
    """

    def __init__(
        self,
        database: Database,
        *,
        worker: str,
        name: str,
        concurrency: int,
        clock: Callable[[], datetime],
        channel: ProcessChannel | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self.worker = worker
        self._name = name
        self._concurrency = concurrency
        self._clock = clock
        self._channel = channel
        self._monotonic = monotonic
        self._stands: dict[str, tuple[int | None, float]] = {}
        """Each worker's count, None for one that has no row, and since when it stands."""
        self._looked_at = -math.inf
        self.alive = 1
        """How many workers there are, this one included: counted when heartbeats are read, and when the supervisor
        tells of one that began or ended."""
        if channel is not None:
            channel.on(Topic.PROCESSES, lambda _: self._count())
        self._count()

    async def record(self) -> None:
        """Raise this worker's heartbeat, and read the others'; raise `UnavailableError`."""
        now = self._clock()
        async with self._database.transaction(is_short=True) as session:
            workers = HeartbeatStore(session)
            await workers.record(self.worker, name=self._name, concurrency=self._concurrency, now=now)
            signs = await workers.list()
            await workers.delete_unseen_since(now - FORGOTTEN)
        self._look({sign.id: sign.count for sign in signs})

    async def leave(self) -> None:
        """Delete this worker's heartbeat; its units are back in the queue."""
        try:
            async with self._database.transaction() as session:
                await HeartbeatStore(session).delete(self.worker)
        except UnavailableError:
            return  # then the others find out by themselves

    def is_dead(self, worker: str) -> bool:
        """Return whether a worker is dead, as far as can be seen from here: its units are stalled."""
        if self._channel is not None and worker in self._channel.processes.gone:
            return True
        if self._database.is_sqlite:
            return worker not in self._alive_beside_sqlite()  # any other's work is from before
        _, since = self._stands.setdefault(worker, (None, self._looked_at))
        return self._looked_at - since >= DEAD_SECONDS

    def _count(self) -> None:
        if self._database.is_sqlite:
            self.alive = len(self._alive_beside_sqlite())
        else:
            shown = [worker for worker, (count, _) in self._stands.items() if count is not None]
            self.alive = max(1, sum(not self.is_dead(worker) for worker in shown))

    def _alive_beside_sqlite(self) -> frozenset[str]:
        siblings = self._channel.processes.alive if self._channel is not None else frozenset[str]()
        return siblings | {self.worker}

    def _look(self, heartbeats: dict[str, int]) -> None:
        now = self._monotonic()
        was_away = now - self._looked_at > 3 * HEARTBEAT_SECONDS
        for worker in {*self._stands, *heartbeats}:
            count, since = self._stands.get(worker, (None, now))
            stands = count == heartbeats.get(worker) and not was_away
            self._stands[worker] = (heartbeats.get(worker), since if stands else now)
        self._looked_at = now
        self._count()
