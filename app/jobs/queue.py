"""The job queue, an adapter to PgQueuer: it says which unit to look at, in which process, and again if need be.

On PostgreSQL a task is a row of the queue's, made in the transaction that made the unit, and redelivered when a
worker's heartbeat stops. Beside SQLite the queue is in memory, in the process that hands units out: what it forgets
with that is enqueued again from the units' rows (`requeue_lost`). Known gaps of PgQueuer 1.6, closed here: its loop
ends when its connection ends (`run` raises, and is called again), it wakes no worker for what is put back
(`_TellingQueries`), and it never empties its log (`delete_log`).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import cache, partial
from typing import TypedDict
from uuid import UUID, uuid4

import asyncpg  # type: ignore[import-untyped]  # it has no types of its own
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.inmemory import InMemoryDriver, InMemoryQueries
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job as EngineJob
from pgqueuer.domain.models import TableChangedEvent, TracebackRecord, utc_now
from pgqueuer.domain.types import Channel, QueueManagerId
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import UnavailableError
from app.store.db.database import Database, after_commit
from app.store.tables.queue import queue_settings
from app.store.units import QueueItem, UnitStore

HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""After this long without a sign of life a unit is delivered to another worker."""
POLL_TIMEOUT = timedelta(seconds=3)
"""How often a worker looks for such units; for new ones, and those put back, it is woken."""
BUSY_POLL_INTERVAL = timedelta(seconds=0.02)
"""How soon a worker that was full looks again, when nothing wakes it: short beside the shortest unit."""
COMMAND_SECONDS = 10.0
"""Longer than any statement of the queue takes; a connection that died silently is found by it."""
CANCEL_SECONDS = 0.2
LOG_RETENTION = timedelta(hours=1)
SWEPT_UNITS = 2_000
_ENTRYPOINT = "unit"
_FORGOTTEN_UNITS = f"""
    SELECT units.id, units.priority FROM units
    WHERE units.state <> 'done' AND (units.not_before IS NULL OR units.not_before <= :now)
    AND NOT EXISTS (
        SELECT FROM {queue_settings().queue_table} AS known
        WHERE known.dedupe_key = units.id::text AND known.status IN ('queued', 'picked')
    )
    ORDER BY units.id LIMIT :limit
"""  # noqa: S608 — the queue's table is named by us
_NO_AGGREGATION = timedelta(0)
_Queries = Queries | InMemoryQueries

Handle = Callable[[int], Awaitable[float | None]]
"""Does a unit; returns None when it is done, or after how many seconds to come again."""


class _Builders(TypedDict):
    qbe: QueryBuilderEnvironment
    qbq: QueryQueueBuilder
    qbs: QuerySchedulerBuilder


class JobQueue(ABC):
    """Which unit to look at, on which process, and again if need be."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        """Set when a run has begun: then is the time to requeue what was lost."""

    @abstractmethod
    async def enqueue(self, session: AsyncSession, queue_items: Sequence[QueueItem]) -> None:
        """Enqueue when the session's transaction commits. A unit enqueued twice is one."""

    @abstractmethod
    async def requeue_lost(self, database: Database, *, now: datetime) -> None:
        """Enqueue units that are unfinished in their rows and unknown to the queue; raise `UnavailableError`."""

    @abstractmethod
    async def release(self, session: AsyncSession, worker_ids: Sequence[str]) -> None:
        """Deliver again at once what was delivered to workers that are known to have ended."""

    @abstractmethod
    async def delete_log(self) -> None:
        """Empty the queue's own log."""

    @abstractmethod
    async def run(self, handle: Handle, *, stop: asyncio.Event, concurrency: int) -> None:
        """Hand out units until `stop` is set, then wait for the running ones; raise `UnavailableError` when cut off.

        Being cut off leaves the units at work alone: `handle` is cancelled, what it waits for need not be.
        """


class _PgQueuerQueue(JobQueue):
    """What PgQueuer's two backends have in common.

    - `worker_id`: the UUID that deliveries to this process are noted under; a new one by default
    """

    def __init__(self, *, worker_id: str | None = None) -> None:
        super().__init__()
        self._manager_id = UUID(worker_id) if worker_id else uuid4()

    @abstractmethod
    def _connected(self) -> AbstractAsyncContextManager[tuple[_Queries, asyncio.Event]]:
        """Open what a run needs: queries, and an event that says they have broken."""

    async def run(self, handle: Handle, *, stop: asyncio.Event, concurrency: int) -> None:
        """Hand out units until `stop` is set, then wait for the running ones; raise `UnavailableError` when cut off."""
        async with self._connected() as (queries, broken):
            manager = QueueManager(queries, Channel(queue_settings().channel))
            manager.queue_manager_id = QueueManagerId(self._manager_id)
            manager.min_dequeue_poll_interval = BUSY_POLL_INTERVAL

            async def unit(job: EngineJob) -> None:
                again_seconds = await handle(int(job.payload or b""))
                if again_seconds is not None:
                    raise RetryRequested(timedelta(seconds=again_seconds))

            manager.entrypoint(_ENTRYPOINT, accepts_context=False)(unit)
            self.connected.set()
            loop = asyncio.create_task(
                manager.run(
                    dequeue_timeout=POLL_TIMEOUT,
                    batch_size=max(1, concurrency // 2),
                    max_concurrent_tasks=max(2, concurrency),
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    log_aggregation_interval=_NO_AGGREGATION,
                    shutdown_on_listener_failure=True,
                )
            )
            await _supervised(loop, manager, stop=stop, broken=broken)


class MemoryQueue(_PgQueuerQueue):
    """PgQueuer in memory, beside SQLite: in the process that hands units out; nothing is stored."""

    def __init__(self) -> None:
        super().__init__()
        self._queries: InMemoryQueries | None = None

    async def put(self, queue_items: Sequence[QueueItem]) -> None:
        """Enqueue units; nothing happens while no run is on."""
        if self._queries is not None:
            await _enqueue(self._queries, queue_items)

    async def enqueue(self, session: AsyncSession, queue_items: Sequence[QueueItem]) -> None:
        """Enqueue units after the commit."""
        after_commit(session, partial(self.put, queue_items))

    async def requeue_lost(self, database: Database, *, now: datetime) -> None:
        """Enqueue all of it; what the queue knows it takes no second time."""
        async with database.reading() as session:  # no lock is held while thousands are read
            await self.put(await UnitStore(session).list_unfinished(now=now))

    async def release(self, session: AsyncSession, worker_ids: Sequence[str]) -> None:
        """Do nothing: what this process delivered goes with it."""

    async def delete_log(self) -> None:
        """Empty the queue's own log."""
        if self._queries is not None:
            await self._queries.clear_queue_log()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[_Queries, asyncio.Event]]:
        self._queries = InMemoryQueries(InMemoryDriver(), **_builders())
        try:
            yield self._queries, asyncio.Event()
        finally:
            self._queries = None


class PostgresQueue(_PgQueuerQueue):
    """The engine on PostgreSQL: any number of processes."""

    def __init__(self, database: Database, *, worker_id: str | None = None) -> None:
        super().__init__(worker_id=worker_id)
        self._database = database

    async def enqueue(self, session: AsyncSession, queue_items: Sequence[QueueItem]) -> None:
        """Enqueue in the transaction itself: it must have begun, with any statement, or else this commits by itself."""
        raw = await (await session.connection()).get_raw_connection()
        await _enqueue(Queries(AsyncpgDriver(raw.driver_connection), **_builders()), queue_items)

    async def requeue_lost(self, database: Database, *, now: datetime) -> None:
        """Enqueue some of what the queue has no row for; the next call finds the others."""
        async with database.transaction() as session:
            rows = await session.execute(text(_FORGOTTEN_UNITS), {"now": now, "limit": SWEPT_UNITS})
            await self.enqueue(session, [QueueItem(row.id, row.priority) for row in rows])

    async def release(self, session: AsyncSession, worker_ids: Sequence[str]) -> None:
        """Deliver again what ended workers had, without the wait for their sign of life."""
        await session.execute(text(_released(":workers")), {"workers": [UUID(worker_id) for worker_id in worker_ids]})
        raw = await (await session.connection()).get_raw_connection()
        await _wake_workers(Queries(AsyncpgDriver(raw.driver_connection), **_builders()))

    async def delete_log(self) -> None:
        """Empty the queue's own log."""
        table = queue_settings().queue_table_log
        async with self._database.transaction() as session:
            old = text(f"DELETE FROM {table} WHERE created < now() - :age")  # noqa: S608 — our name
            await session.execute(old, {"age": LOG_RETENTION})

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[_Queries, asyncio.Event]]:
        connection = await self._database.connect(command_seconds=COMMAND_SECONDS)
        driver = _WatchedDriver(connection)
        try:
            # What the run before had, whose end could not be written: it counts against `max_concurrent_tasks`, and
            # once that is reached the engine delivers nothing at all, not even what is stale.
            await driver.execute(_released("$1"), [self._manager_id])
            yield _TellingQueries(driver, **_builders()), driver.broken
        finally:
            connection.terminate()


_BROKEN = (
    OSError,
    TimeoutError,
    *(asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError),
    *(asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError),
)
"""What says that the queue's connection is gone, or about to go."""


class _TellingQueries(Queries):
    """The queue's statements; the one that puts a unit back wakes the other workers too."""

    async def retry_job(self, job: EngineJob, delay: timedelta, traceback_record: TracebackRecord | None) -> None:
        """Put tasks back, and wake workers that wait for one.

        Where the connection has just broken nothing is said: the next run puts back what this one had.
        """
        with suppress(*_BROKEN):
            await super().retry_job(job, delay, traceback_record)
            await _wake_workers(self)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return whether PgQueuer logs anything but what it could not write while the database is gone, line by line."""
    return record.module != "buffers"


logging.getLogger("pgqueuer").addFilter(_is_worth_a_line)


class _WatchedDriver(AsyncpgDriver):
    """The queue's connection, which says when it has broken instead of leaving that to its next use.

    One that does not answer is ended: nothing that is cancelled then may be written down as ended.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__(connection)
        self.broken = asyncio.Event()
        connection.add_termination_listener(lambda _: self.broken.set())

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a query; a connection that does not answer is broken."""
        try:
            return await super().fetch(query, *args)
        except _BROKEN:
            self._break()
            raise

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement; a connection that does not answer is broken."""
        try:
            return await super().execute(query, *args)
        except _BROKEN:
            self._break()
            raise

    def _break(self) -> None:
        self.broken.set()
        self._connection.terminate()


async def _supervised(
    loop: asyncio.Task[None], manager: QueueManager, *, stop: asyncio.Event, broken: asyncio.Event
) -> None:
    """Run the queue's loop until `stop` is set; when its connection breaks, end it and raise."""
    stopping, breaking = asyncio.create_task(stop.wait()), asyncio.create_task(broken.wait())
    try:
        await asyncio.wait({loop, stopping, breaking}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            manager.shutdown.set()
            await asyncio.wait({loop, breaking}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        breaking.cancel()
        while not loop.done():  # the first one ends the loop, which waits for what it handed out; the next ends that
            loop.cancel()
            await asyncio.wait({loop}, timeout=CANCEL_SECONDS)
    if broken.is_set():
        raise UnavailableError("the queue's connection to the database broke", code="database_unreachable")
    await loop


@cache
def _builders() -> _Builders:
    settings = queue_settings()
    return {
        "qbe": QueryBuilderEnvironment(settings),
        "qbq": QueryQueueBuilder(settings),
        "qbs": QuerySchedulerBuilder(settings),
    }


def _released(workers: str) -> str:
    """Return the statement that puts back what workers were given; `workers` is its parameter, an array of UUIDs."""
    return (
        f"UPDATE {queue_settings().queue_table} SET status = 'queued', execute_after = now(), updated = now(), "  # noqa: S608 — our names
        f"queue_manager_id = NULL WHERE queue_manager_id = ANY({workers}) AND status = 'picked'"
    )


async def _wake_workers(queries: Queries) -> None:
    settings = queries.qbq.settings
    event = TableChangedEvent(
        channel=Channel(settings.channel),
        operation="update",
        sent_at=utc_now(),
        table=settings.queue_table,
        type="table_changed_event",
    )
    await queries.driver.notify(settings.channel, event.model_dump_json())


async def _enqueue(queries: _Queries, queue_items: Sequence[QueueItem]) -> None:
    if not queue_items:
        return
    await queries.enqueue(
        [_ENTRYPOINT] * len(queue_items),
        [str(enqueue.unit_id).encode() for enqueue in queue_items],
        [enqueue.priority for enqueue in queue_items],
        dedupe_key=[str(enqueue.unit_id) for enqueue in queue_items],
        on_conflict="skip",
    )
