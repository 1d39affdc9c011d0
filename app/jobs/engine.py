"""The adapter to the job engine, PgQueuer: it says which unit to look at, on which process, and again if need be.

On PostgreSQL a nudge is a row of the engine's, made in the transaction that made the unit, and delivered again when a
worker stops showing signs of life. Beside SQLite the engine is in memory: what it forgets with its process, a sweep
over our rows tells it again. Known gaps of PgQueuer 1.6 that are closed here: its loop ends when its connection does
(`run` raises then, and is called again), it wakes nobody for what is given back (`_TellingQueries`), and it keeps a
log that it never empties (`tidy`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import TypedDict

import asyncpg  # type: ignore[import-untyped]  # it has no types of its own
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.inmemory import InMemoryDriver, InMemoryQueries
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job as EngineJob
from pgqueuer.domain.models import TableChangedEvent, TracebackRecord, utc_now
from pgqueuer.domain.types import Channel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import UnavailableError
from app.store.announcements import after_commit
from app.store.database import Database
from app.store.engine_tables import engine_settings
from app.store.units import Nudge, UnitStore

HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""After this long without a sign of life a unit is delivered to another worker."""
POLL_TIMEOUT = timedelta(seconds=3)
"""How often a worker looks for such units; for new ones, and those given back, it is woken."""
BUSY_POLL_INTERVAL = timedelta(seconds=0.02)
"""How soon a worker that was full looks again, when nothing wakes it: short beside the shortest unit."""
COMMAND_SECONDS = 10.0
"""Longer than any statement of the engine takes; a connection that died without a word is found out by it."""
LOG_RETENTION = timedelta(hours=1)
SWEPT_UNITS = 2_000
_ENTRYPOINT = "unit"
_FORGOTTEN_UNITS = f"""
    SELECT units.id, units.priority FROM units
    WHERE units.state <> 'done' AND (units.not_before IS NULL OR units.not_before <= :now)
    AND NOT EXISTS (
        SELECT FROM {engine_settings().queue_table} AS known
        WHERE known.dedupe_key = units.id::text AND known.status IN ('queued', 'picked')
    )
    ORDER BY units.id LIMIT :limit
"""  # noqa: S608 — the engine's table is named by us
_NO_AGGREGATION = timedelta(0)
_Queries = Queries | InMemoryQueries

Handle = Callable[[int], Awaitable[float | None]]
"""Does a unit; returns None when it is done, or after how many seconds to come again."""


class _Builders(TypedDict):
    qbe: QueryBuilderEnvironment
    qbq: QueryQueueBuilder
    qbs: QuerySchedulerBuilder


class Engine(ABC):
    """What both engines have in common: how nudges are given and handled."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.connected = asyncio.Event()
        """Set when a run has begun: then is the time to sweep."""

    @abstractmethod
    async def nudge(self, session: AsyncSession, nudges: Sequence[Nudge]) -> None:
        """Say that there is something to do, when the session's transaction commits. A unit nudged twice is one."""

    @abstractmethod
    async def sweep(self, session: AsyncSession, *, now: datetime) -> None:
        """Nudge what is unfinished in our rows and unknown to the engine."""

    @abstractmethod
    async def tidy(self) -> None:
        """Empty the engine's own log."""

    @abstractmethod
    def _connected(self) -> AbstractAsyncContextManager[tuple[_Queries, asyncio.Event]]:
        """Open what a run needs: queries, and an event that says they have broken."""

    async def run(self, handle: Handle, *, stop: asyncio.Event, concurrency: int) -> None:
        """Hand out units until told to stop, then wait for those at work; raise `UnavailableError` when cut off.

        Being cut off leaves the units at work alone: `handle` is cancelled, what it waits for need not be.
        """
        async with self._connected() as (queries, broken):
            manager = QueueManager(queries, Channel(engine_settings().channel))
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


class MemoryEngine(Engine):
    """The engine beside SQLite: one process, nothing kept."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._queries: InMemoryQueries | None = None

    async def nudge(self, session: AsyncSession, nudges: Sequence[Nudge]) -> None:
        """Nudge after the commit; without a worker in this process nobody is to be told."""

        async def tell() -> None:
            if self._queries is not None:
                await _enqueue(self._queries, nudges)

        after_commit(session, tell)

    async def sweep(self, session: AsyncSession, *, now: datetime) -> None:
        """Nudge all of it; what the engine knows it takes no second time."""
        await self.nudge(session, await UnitStore(session).list_unfinished(now=now))

    async def tidy(self) -> None:
        """Empty the engine's own log."""
        if self._queries is not None:
            await self._queries.clear_queue_log()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[_Queries, asyncio.Event]]:
        self._queries = InMemoryQueries(InMemoryDriver(), **_builders())
        try:
            yield self._queries, asyncio.Event()
        finally:
            self._queries = None


class PostgresEngine(Engine):
    """The engine on PostgreSQL: any number of processes."""

    async def nudge(self, session: AsyncSession, nudges: Sequence[Nudge]) -> None:
        """Nudge in the transaction itself: it must have begun, with any statement, or else this commits by itself."""
        raw = await (await session.connection()).get_raw_connection()
        await _enqueue(Queries(AsyncpgDriver(raw.driver_connection), **_builders()), nudges)

    async def sweep(self, session: AsyncSession, *, now: datetime) -> None:
        """Nudge some of what the engine has no row for; the next sweep finds the others."""
        rows = await session.execute(text(_FORGOTTEN_UNITS), {"now": now, "limit": SWEPT_UNITS})
        await self.nudge(session, [Nudge(row.id, row.priority) for row in rows])

    async def tidy(self) -> None:
        """Empty the engine's own log."""
        table = engine_settings().queue_table_log
        async with self._database.transaction() as session:
            old = text(f"DELETE FROM {table} WHERE created < now() - :age")  # noqa: S608 — our name
            await session.execute(old, {"age": LOG_RETENTION})

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[_Queries, asyncio.Event]]:
        connection = await self._database.connect(command_seconds=COMMAND_SECONDS)
        driver = _WatchedDriver(connection)
        try:
            yield _TellingQueries(driver, **_builders()), driver.broken
        finally:
            connection.terminate()


class _TellingQueries(Queries):
    """The engine's statements; the one that gives a unit back tells the other workers too."""

    async def retry_job(self, job: EngineJob, delay: timedelta, traceback_record: TracebackRecord | None) -> None:
        """Give back, and wake those who wait for work."""
        await super().retry_job(job, delay, traceback_record)
        settings = self.qbq.settings
        event = TableChangedEvent(
            channel=Channel(settings.channel),
            operation="update",
            sent_at=utc_now(),
            table=settings.queue_table,
            type="table_changed_event",
        )
        await self.driver.notify(settings.channel, event.model_dump_json())


class _WatchedDriver(AsyncpgDriver):
    """The engine's connection, which says when it has broken instead of leaving that to whoever uses it next."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__(connection)
        self.broken = asyncio.Event()
        connection.add_termination_listener(lambda _: self.broken.set())

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a query; a connection that does not answer is broken."""
        try:
            return await super().fetch(query, *args)
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            self.broken.set()
            raise

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement; a connection that does not answer is broken."""
        try:
            return await super().execute(query, *args)
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            self.broken.set()
            raise


async def _supervised(
    loop: asyncio.Task[None], manager: QueueManager, *, stop: asyncio.Event, broken: asyncio.Event
) -> None:
    """Let the engine's loop run until told to stop; when its connection breaks, end it and say so."""
    stopping, breaking = asyncio.create_task(stop.wait()), asyncio.create_task(broken.wait())
    try:
        await asyncio.wait({loop, stopping, breaking}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            manager.shutdown.set()
            await asyncio.wait({loop, breaking}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        breaking.cancel()
        if not loop.done():
            loop.cancel()
            await asyncio.wait({loop})
    if broken.is_set():
        raise UnavailableError("the engine's connection to the database broke", code="database_unreachable")
    await loop


@cache
def _builders() -> _Builders:
    settings = engine_settings()
    return {
        "qbe": QueryBuilderEnvironment(settings),
        "qbq": QueryQueueBuilder(settings),
        "qbs": QuerySchedulerBuilder(settings),
    }


async def _enqueue(queries: _Queries, nudges: Sequence[Nudge]) -> None:
    if not nudges:
        return
    await queries.enqueue(
        [_ENTRYPOINT] * len(nudges),
        [str(nudge.unit_id).encode() for nudge in nudges],
        [nudge.priority for nudge in nudges],
        dedupe_key=[str(nudge.unit_id) for nudge in nudges],
        on_conflict="skip",
    )
