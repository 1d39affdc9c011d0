"""The queue of a process beside SQLite: the units wait in the supervisor, which hands them out over a channel.

Rows are the truth here too. What is sent over the channel says which unit to look at; what is lost with a process is
found again by `requeue_lost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from app.jobs.queue import Handle, JobQueue
from app.process_channel import ProcessChannel, Topic
from app.store.db.database import Database, Session, after_commit
from app.store.units import QueueItem, UnitStore


class ChannelQueue(JobQueue):
    """The queue as one of several processes has it.

    - `channel`: the way to the supervisor, which keeps the queue in memory
    """

    def __init__(self, channel: ProcessChannel) -> None:
        super().__init__()
        self._channel = channel

    async def enqueue(self, session: Session, queue_items: Sequence[QueueItem]) -> None:
        """Tell the supervisor after the commit."""
        after_commit(session, partial(self._put, queue_items))

    async def requeue_lost(self, database: Database, *, now: datetime) -> None:
        """Enqueue all that is unfinished; the supervisor knows what it has already."""
        async with database.reading() as session:  # no lock is held while thousands are read
            unfinished = await UnitStore(session).list_unfinished(now=now)
        await self._put(unfinished)

    async def release(self, session: Session, worker_ids: Sequence[str]) -> None:
        """Do nothing: the supervisor hands out again what a process had that has ended."""

    async def delete_log(self) -> None:
        """Do nothing: the supervisor empties the log of its queue."""

    async def run(self, handle: Handle, *, stop: asyncio.Event, concurrency: int) -> None:
        """Run the units that are handed to this process until `stop` is set, then wait for those at work."""
        running: set[asyncio.Task[None]] = set()

        def begin(unit_id: int) -> None:
            task = asyncio.create_task(self._run_one(handle, unit_id))
            running.add(task)
            task.add_done_callback(running.discard)

        try:
            with self._channel.listening(Topic.RUN, begin):
                self._channel.send(Topic.READY, concurrency)
                self.connected.set()
                await stop.wait()
                self._channel.send(Topic.DRAINING)
                while running:
                    await asyncio.wait(set(running))
        finally:
            for task in running:
                task.cancel()

    async def _put(self, queue_items: Sequence[QueueItem]) -> None:
        if queue_items:
            self._channel.send(Topic.ENQUEUE, [[item.unit_id, item.priority] for item in queue_items])

    async def _run_one(self, handle: Handle, unit_id: int) -> None:
        again_seconds = await handle(unit_id)
        self._channel.send(Topic.DONE, [unit_id, again_seconds])
