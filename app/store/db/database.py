"""The database: connections, transactions, what follows a commit, the change feed, and whether it responds.

SQLite is for the processes of one host: write-ahead log, every commit on disk before it is answered, and one writer at
a time, within a process in turns. PostgreSQL is for many hosts; its lost connections become `UnavailableError`, and who
can wait waits it out.

The change feed tells those who watch a job that it changed or ended, in this process and in all others. Beside SQLite
it is a call after the commit, and a message to the other processes of the host. On PostgreSQL a trigger of the table of
jobs sends a NOTIFY, which comes with the commit too; one connection per process listens while there are watchers. What
is sent while that connection is lost is missed, so watchers must look by themselves now and then.

Group commit: what came while the last transaction was written goes into the next one, and each caller has an answer. A
transaction for each would spend most of its time on beginning and committing, and on SQLite, which has one writer at a
time, each would wait for the disk by itself. Databases call it group commit for their log; here it is for requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it has no types of its own
import structlog
from sqlalchemy import Connection, Table, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from app.domain.errors import UnavailableError
from app.net.http_headers import PRODUCT
from app.process_channel import ProcessChannel, Topic
from app.store.db.schema import check_revision
from app.store.db.sqlite import IS_READING, IS_SHORT, WriteQueue, sqlite_engine

log = structlog.get_logger()

CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 30.0
"""Longer than any statement of ours takes on a healthy database."""
POOL_SIZE = 10
POOL_SECONDS = 10.0
"""How long to wait for a free connection: many requests at once queue up here."""
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_TRY_AGAIN = ("08", "53", "57P", "40001", "40P01", "55P03", "25006")
"""SQLSTATEs that pass: connections, resources, shutdown and start, deadlocks, locks, a replica not promoted yet."""
_POSTGRES_READING = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""All statements of a reading see the same moment; on SQLite they do so by themselves."""

Session = AsyncSession
"""A transaction; packages above pass it on to stores."""


CHANNEL = "registry_sync_jobs"
"""Known to the trigger too, which a migration made."""
ENDED = " ended"
"""What the trigger adds to the id of a job that has ended."""
CHECK_SECONDS = 10.0
"""How often the listening connection is asked whether it still works: a dead one is silent too."""
RECONNECT_SECONDS = 1.0

Connect = Callable[[], Awaitable[asyncpg.Connection]]
Listener = Callable[[str, bool], None]
"""Gets a job's id, and whether the job has ended."""
AfterCommit = Callable[[], Awaitable[None]]


def after_commit(session: AsyncSession, action: AfterCommit) -> None:
    """Do something when the session's transaction has committed, and not otherwise; if it fails, that is logged."""
    session.info["after_commit"].append(action)


def _name(action: AfterCommit) -> str:
    function: Any = action.func if isinstance(action, partial) else action
    return getattr(function, "__qualname__", type(function).__name__)


class ChangeFeed:
    """What one process announces and hears.

    - `connect`: opens a connection to PostgreSQL; None beside SQLite
    - `channel`: the way to the other processes beside SQLite; None where there are none
    """

    def __init__(self, connect: Connect | None, channel: ProcessChannel | None = None) -> None:
        self._connect = connect
        self._channel = channel
        if connect is None and channel is not None:
            channel.on(Topic.JOB_CHANGED, lambda change: self._heard(*change))
        self._listeners: set[Listener] = set()
        self._listening: asyncio.Task[None] | None = None

    def publish(self, session: AsyncSession, job_id: str, *, has_ended: bool = False) -> None:
        """Announce, when this transaction commits, that a job changed. On PostgreSQL the database does so by itself."""
        if self._connect is None:
            after_commit(session, partial(self._tell, job_id, has_ended))

    @asynccontextmanager
    async def heard_by(self, listener: Listener) -> AsyncIterator[None]:
        """Call a function with each job that changed, in whichever process, while inside."""
        self._listeners.add(listener)
        if self._connect is not None and self._listening is None:
            self._listening = asyncio.create_task(self._keep_listening(self._connect))
        try:
            yield
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._listening is not None:
                task, self._listening = self._listening, None
                task.cancel()
                await asyncio.wait({task})

    async def _keep_listening(self, connect: Connect) -> None:
        while True:
            with suppress(UnavailableError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._listen(await connect())
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, connection: asyncpg.Connection) -> None:
        broken = asyncio.Event()
        connection.add_termination_listener(lambda _: broken.set())
        try:
            await connection.add_listener(CHANNEL, lambda *heard: self._heard_payload(heard[3]))
            while not broken.is_set():
                await connection.execute("SELECT 1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await broken.wait()
        finally:
            connection.terminate()

    async def _tell(self, job_id: str, has_ended: bool) -> None:  # noqa: FBT001 — as listeners get it
        self._heard(job_id, has_ended)
        if self._channel is not None:
            self._channel.send(Topic.JOB_CHANGED, [job_id, has_ended])

    def _heard(self, job_id: str, has_ended: bool) -> None:  # noqa: FBT001 — as listeners get it
        for listener in tuple(self._listeners):
            listener(job_id, has_ended)

    def _heard_payload(self, payload: str) -> None:
        self._heard(payload.removesuffix(ENDED), payload.endswith(ENDED))


class Database:
    """One database and its short transactions.

    - `url`: `sqlite+aiosqlite:///…` for the processes of one host, `postgresql+asyncpg://…` for many hosts
    - `pool_size`: connections of this process to PostgreSQL, as many again under load; 10
    - `application`: the name PostgreSQL shows for them
    - `channel`: the way to the other processes of this host, which hear of changes through it beside SQLite

    Raises `UnavailableError` where the database does not respond.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = POOL_SIZE,
        application: str = PRODUCT,
        channel: ProcessChannel | None = None,
    ) -> None:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.file = parsed.database if self.is_sqlite else None
        """The embedded database's file."""
        self.url = parsed.render_as_string(hide_password=False)
        self._engine = sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url, pool_size, application)
        self._short = self._engine.execution_options(**{IS_SHORT: True})
        self._reader = self._engine.execution_options(**({IS_READING: True} if self.is_sqlite else _POSTGRES_READING))
        self._short_reader = self._reader.execution_options(**{IS_SHORT: True})
        self._outage = _Outage()
        self._writer = WriteQueue()
        self._channel = channel
        self.change_feed = ChangeFeed(None if self.is_sqlite else self.connect, channel)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self, *, is_urgent: bool = False, is_short: bool = False) -> AsyncIterator[AsyncSession]:
        """Open a transaction to write in; it commits when the block ends well.

        Keep it short: on SQLite all others wait; what is urgent goes before what came earlier. With `is_short` each of
        its statements finds a few rows by an index: those are executed at once, without another thread. Raise
        `UnavailableError` when the database does not answer; whether a commit that failed so has happened is unknown.
        """
        one_at_a_time: AbstractAsyncContextManager[object] = (
            self._writer.permit(is_urgent=is_urgent) if self.is_sqlite else nullcontext()
        )
        after: list[AfterCommit] = []
        async with one_at_a_time:
            with self._outage, self._channel.writing() if self._channel is not None else nullcontext():
                engine = self._short if is_short else self._engine
                async with AsyncSession(engine, expire_on_commit=False, autoflush=False) as session:
                    session.info["after_commit"] = after
                    async with session.begin():
                        yield session
        for action in after:
            try:
                await action()
            except Exception:  # what was committed stays so, and no caller may take it for failed
                log.exception("after_commit_failed", action=_name(action))

    @asynccontextmanager
    async def reading(self, *, is_short: bool = False) -> AsyncIterator[AsyncSession]:
        """Open a transaction to read in, see `transaction`; raise `UnavailableError` when the database is away."""
        engine = self._short_reader if is_short else self._reader
        with self._outage:
            async with AsyncSession(engine, expire_on_commit=False, autoflush=False) as session, session.begin():
                yield session

    async def connect(self, *, command_seconds: float = COMMAND_SECONDS) -> asyncpg.Connection:
        """Open a connection of its own to PostgreSQL, outside the pool; the caller closes it."""
        _, options = self._engine.dialect.create_connect_args(make_url(self.url))
        for name in ("prepared_statement_cache_size", "prepared_statement_name_func", "async_creator_fn"):
            options.pop(name, None)  # SQLAlchemy's own
        with self._outage:
            return await asyncpg.connect(**options, timeout=CONNECT_SECONDS, command_timeout=command_seconds)

    async def check_schema(self) -> None:
        """Raise `UnavailableError` (`schema_outdated`, `database_unreachable`) saying what to run."""
        async with self.reading() as session:
            await (await session.connection()).run_sync(check_revision)


MOST_AT_ONCE = 64
"""How much one transaction writes: more would gain little, and keep others waiting for the locks it holds."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Write = Callable[[Session, Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]
"""Writes some, and returns what became of each, in order; an error there is that one's, and the others are written."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pending(Generic[Item, Outcome]):
    item: Item
    outcome: asyncio.Future[Outcome]

    def settle(self, outcome: Outcome | Exception) -> None:
        if self.outcome.done():
            return  # who asked has gone
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class GroupCommit(Generic[Item, Outcome]):
    """Group commit for one kind of write in this process; callers wait for it, so it goes before other writes.

    - `write`: writes a batch in one transaction and returns an outcome or an error for each item, in order
    - `linger_seconds`: how long the first of a batch waits for others; 0
    """

    def __init__(self, database: Database, write: Write[Item, Outcome], *, linger_seconds: float = 0.0) -> None:
        self._database = database
        self._write = write
        self._linger_seconds = linger_seconds
        self._waiting: list[_Pending[Item, Outcome]] = []
        self._work: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Outcome:
        """Have one written and committed; raise its error, or what the transaction failed with.

        A caller that is cancelled meanwhile may have it written all the same.
        """
        pending: _Pending[Item, Outcome] = _Pending(item, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_waiting(), name="writing together")
        return await pending.outcome

    async def _write_waiting(self) -> None:
        while self._waiting:
            if self._linger_seconds:
                await asyncio.sleep(self._linger_seconds)
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            await self._write_all(batch)

    async def _write_all(self, batch: list[_Pending[Item, Outcome]]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            async with self._database.transaction(is_urgent=True, is_short=True) as session:
                outcomes = await self._write(session, [pending.item for pending in batch])
        except UnavailableError as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            log.exception("group_commit_failed", number=len(batch))
            if len(batch) > 1:
                for pending in batch:  # what is wrong with one is not to be the others' misfortune
                    await self._write_all([pending])
                return
            outcomes = [error]
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.settle(outcome)


_SQLITE_SHUT = ("locked", "unable to open database file")
"""Words of SQLite for a file that is not to be had now; its codes say less (sqlite.org/rescode.html)."""


class _Outage:
    """Turn what a lost or refusing database raises into `UnavailableError`; all else passes.

    Of an outage the beginning and the end are logged, not each attempt.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._end()
        elif _is_gone(error):
            unreachable = _unreachable(str(getattr(error, "orig", None) or error))
            self._begin(unreachable)
            raise unreachable from error

    def _begin(self, error: UnavailableError) -> None:
        if self._began_at is None:
            self._began_at = time.monotonic()
            log.warning("database_unreachable", error=error.message)

    def _end(self) -> None:
        if self._began_at is not None:
            log.warning("database_reachable", seconds=round(time.monotonic() - self._began_at, 3))
            self._began_at = None


def _is_gone(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        cause = error.orig.__cause__ if error.orig is not None else None
        is_shut = any(words in str(error.orig) for words in _SQLITE_SHUT)
        return error.connection_invalidated or is_shut or _is_gone(cause or Exception())
    if isinstance(error, EmulatedDBAPIException):
        return _is_gone(error.driver_exception)
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(_TRY_AGAIN)
    return isinstance(error, OSError | TimeoutError | PoolTimeoutError | asyncpg.InterfaceError)


def _unreachable(reason: str) -> UnavailableError:
    return UnavailableError(f"the database does not answer: {reason.splitlines()[0]}", code="database_unreachable")


def _postgres_engine(url: str, pool_size: int, application: str) -> AsyncEngine:
    settings = {
        "application_name": application,
        "idle_in_transaction_session_timeout": "60s",
        "lock_timeout": "10s",
        "jit": "off",  # compiling costs more than our short statements take
    }
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_SECONDS,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            "server_settings": settings,
        },
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def refuse_closed(connection: Any, _: ConnectionPoolEntry, _proxy: object) -> None:
        # The driver notices when the server goes away; asking it costs nothing, a round trip for each checkout would.
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # BEGIN by itself, not as part of the first statement: a connection may be lost without the driver having
        # noticed, and while nothing else was sent, another one loses nothing.
        for _ in range(2 * pool_size):
            if _begins(connection):
                return
            connection.invalidate()
            connection.dialect.set_connection_execution_options(connection, connection.get_execution_options())

    return engine


def _begins(connection: Connection) -> bool:
    """Begin a transaction; return False where this connection can't.

    A connection on which that was cut off is closed: asyncpg would take what begins next for a part of it, and its
    commit would be none.
    """
    adapted: Any = connection.connection.dbapi_connection
    try:
        await_only(adapted._start_transaction())  # noqa: SLF001 — what the first statement would do
    except BaseException as error:
        is_slow = isinstance(error, TimeoutError)  # so would another one be
        if isinstance(error, OSError | EmulatedDBAPIException) and not is_slow:
            return False
        connection.invalidate()
        raise
    return True


def insert_into(session: AsyncSession, table: Table) -> postgresql.Insert:
    """Begin an INSERT that may say what happens on conflict; only what both databases understand goes into it."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    statement: object = sqlite.insert(table)
    return statement  # type: ignore[return-value]  # SQLite's has the same methods for what is used here
