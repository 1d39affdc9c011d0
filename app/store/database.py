"""The database: connections, transactions, what happens when one commits, and whether it answers at all.

SQLite is for one process: write-ahead log, every commit on disk before it is answered, and one writer at a time, in the
order they came. PostgreSQL is for many; its lost connections become `UnavailableError`, and who can wait waits it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it has no types of its own
from sqlalchemy import Connection, event, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.domain.errors import UnavailableError
from app.store.schema import check_revision

JOBS_CHANNEL = "registry_sync_jobs"
"""What PostgreSQL processes tell each other on: the ids of jobs that changed."""
BUSY_SECONDS = 10
"""How long SQLite waits for another process's write; ours wait in order before that."""
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 30.0
"""Longer than any statement of ours takes on a healthy database."""
POOL_SIZE = 10
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_TRY_AGAIN = ("08", "53", "57P", "40001", "40P01", "55P03", "25006")
"""SQLSTATEs that pass: connections, resources, shutdown and start, deadlocks, locks, a replica not promoted yet."""
_SQLITE_READING = {"registry_sync_begin": "BEGIN"}
_POSTGRES_READING = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""All statements of a reading see the same moment; on SQLite they do so by themselves."""

Session = AsyncSession
"""What a transaction is done with; rooms above pass it on to stores."""
AfterCommit = Callable[[], Awaitable[None]]
Listener = Callable[[str], None]


class Database:
    """One database, as many short transactions as one likes."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, application: str = "registry-sync") -> None:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.file = parsed.database if self.is_sqlite else None
        """The embedded database's file."""
        self.url = parsed.render_as_string(hide_password=False)
        self._engine = (
            _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url, pool_size, application)
        )
        self._reader = self._engine.execution_options(**(_SQLITE_READING if self.is_sqlite else _POSTGRES_READING))
        self._writer = asyncio.Lock()
        self._listeners: set[Listener] = set()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction to write in; it commits when the block ends well.

        Keep it short: on SQLite all others wait. Raise `UnavailableError` when the database does not answer; whether a
        commit that failed so has happened is then unknown.
        """
        one_at_a_time: AbstractAsyncContextManager[object] = self._writer if self.is_sqlite else nullcontext()
        after: list[AfterCommit] = []
        async with one_at_a_time:
            with _unavailable_when_gone():
                async with AsyncSession(self._engine, expire_on_commit=False, autoflush=False) as session:
                    session.info["after_commit"] = after
                    async with session.begin():
                        yield session
        for action in after:
            await action()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction to read in; raise `UnavailableError` when the database does not answer."""
        with _unavailable_when_gone():
            async with AsyncSession(self._reader, expire_on_commit=False, autoflush=False) as session, session.begin():
                yield session

    def after_commit(self, session: AsyncSession, action: AfterCommit) -> None:
        """Do something when the session's transaction has committed, and not otherwise."""
        session.info["after_commit"].append(action)

    async def announce(self, session: AsyncSession, job_id: str) -> None:
        """Tell all processes, when this transaction commits, that a job changed."""
        if not self.is_sqlite:
            await session.execute(select(func.pg_notify(JOBS_CHANNEL, job_id)))
            return

        async def tell() -> None:
            self._heard(job_id)

        self.after_commit(session, tell)

    def add_listener(self, listener: Listener) -> None:
        """Call this with the id of each job that changed, in whichever process, while `listen` runs."""
        self._listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop calling it."""
        self._listeners.discard(listener)

    async def listen(self) -> None:
        """Hear what other processes announce, until that connection breaks: then raise `UnavailableError`."""
        if self.is_sqlite:
            await asyncio.Event().wait()
        connection = await self.connect()
        broken = asyncio.Event()
        connection.add_termination_listener(lambda _: broken.set())
        try:
            await connection.add_listener(JOBS_CHANNEL, lambda *heard: self._heard(heard[3]))
            while not broken.is_set():
                with _unavailable_when_gone():
                    await connection.execute("SELECT 1")
                await _wait(broken, COMMAND_SECONDS)
            raise _unreachable("the connection that hears of changes broke")
        finally:
            connection.terminate()

    async def connect(self, *, command_seconds: float = COMMAND_SECONDS) -> asyncpg.Connection:
        """Open a connection of its own to PostgreSQL, outside the pool; the caller closes it."""
        _, options = self._engine.dialect.create_connect_args(make_url(self.url))
        for name in ("prepared_statement_cache_size", "prepared_statement_name_func", "async_creator_fn"):
            options.pop(name, None)  # SQLAlchemy's own
        with _unavailable_when_gone():
            return await asyncpg.connect(**options, timeout=CONNECT_SECONDS, command_timeout=command_seconds)

    async def check_schema(self) -> None:
        """Raise `UnavailableError` (`schema_outdated`, `database_unreachable`) saying what to run."""
        async with self.reading() as session:
            await (await session.connection()).run_sync(check_revision)

    def _heard(self, job_id: str) -> None:
        for listener in tuple(self._listeners):
            listener(job_id)


class _unavailable_when_gone:  # noqa: N801 — reads as a word in a `with`
    """Turn what a lost or refusing database raises into `UnavailableError`; all else passes."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and _is_gone(error):
            raise _unreachable(str(getattr(error, "orig", None) or error)) from error


def _is_gone(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        cause = error.orig.__cause__ if error.orig is not None else None
        return error.connection_invalidated or "locked" in str(error.orig) or _is_gone(cause or Exception())
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(_TRY_AGAIN)
    return isinstance(error, OSError | TimeoutError | PoolTimeoutError | asyncpg.InterfaceError)


def _unreachable(reason: str) -> UnavailableError:
    return UnavailableError(f"the database does not answer: {reason.splitlines()[0]}", code="database_unreachable")


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _sqlite_engine(url: str) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that will write waits its turn here, not with a failure half way through.
        connection.exec_driver_sql(connection.get_execution_options().get("registry_sync_begin", "BEGIN IMMEDIATE"))

    return engine


def _postgres_engine(url: str, pool_size: int, application: str) -> AsyncEngine:
    settings = {
        "application_name": application,
        "idle_in_transaction_session_timeout": "60s",
        "lock_timeout": "10s",
        "jit": "off",  # compiling costs more than our short statements take
    }
    return create_async_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_SECONDS,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            "server_settings": settings,
        },
    )
