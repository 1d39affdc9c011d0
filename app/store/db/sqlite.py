"""SQLite: aiosqlite's connection, with one hand-over to its thread for each statement instead of four; the write queue.

A statement of ours takes microseconds; handing it to the thread of its connection and its result back takes longer. As
it comes, SQLAlchemy's adapter hands over four times (open a cursor, execute, fetch, close) and once more for a rollback
when a connection goes back to the pool; here a statement is opened, executed, read and closed in one go, and a
transaction begins without the thread.

SQLite has no type for times: they are text, here without an offset and always in UTC.

SQLite has one writer at a time: in the write queue of a process they go in the order they came, urgent ones first.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self, cast

import aiosqlite
from sqlalchemy import Connection, Dialect, event
from sqlalchemy.dialects.sqlite import DATETIME
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

BUSY_SECONDS = 10
"""How long SQLite waits for another process's write; ours wait in order before that."""
BUSY_REST_SECONDS = 0.01
IS_READING = "registry_sync_reading"
IS_SHORT = "registry_sync_short"
"""Execution options, for what a connection does with a transaction."""
CACHED_STATEMENTS = 48
"""Of one connection, some 9 KiB each: more than an image needs. Others differ by the number of rows they are for."""
_FIRST_REST_SECONDS = 0.000_5
_MOST_REST_SECONDS = 0.002
_PRIMARY_CODE = 0xFF
"""The part of SQLite's error codes that tells the kind (sqlite.org/rescode.html)."""
_FEW_ROWS = 128
"""A statement for more rows than these, 2 ms of work, is handed over in a short transaction too."""
_ITERATED_ROWS = 64
"""What aiosqlite fetches at once where rows are iterated, which nothing does here."""


class SqliteConnection(aiosqlite.Connection):
    """A connection as `sqlalchemy.connectors.asyncio` uses one."""

    busy_seconds = 5.0
    """How long a transaction waits for the lock that another process has."""
    _to_begin = ""
    _is_short = False
    _is_reading = False
    _is_idle = True
    """Whether nothing that was handed over may still be at work."""
    _may_be_open = False
    """Whether a transaction may be open: said by what was handed over, as the thread may not have come to it yet."""

    def begin(self, *, is_reading: bool, is_short: bool) -> None:
        """Begin a transaction, with its first statement.

        Of a short one only what may wait is handed over: the commit, for the disk. One that reads commits nothing.
        """
        # IMMEDIATE: a transaction that will write waits its turn here, not with a failure half way through.
        self._to_begin = "BEGIN" if is_reading else "BEGIN IMMEDIATE"
        self._is_reading, self._is_short = is_reading, is_short

    def cursor(self) -> _Cursor:  # type: ignore[override]  # SQLAlchemy awaits its `__aenter__`
        """Return a cursor, without asking the thread for it."""
        return _Cursor(self)

    async def commit(self) -> None:
        """Commit, if anything was executed."""
        self._to_begin = ""
        if self._may_be_open:
            if self._is_reading:
                self._conn.commit()
            else:
                await super().commit()
            self._may_be_open = False

    async def rollback(self) -> None:
        """Roll back, if there is anything to roll back."""
        self._to_begin = ""
        if self._may_be_open:
            await super().rollback()
            self._may_be_open = False

    async def run(self, execute: Callable[[sqlite3.Cursor], object], *, is_many: bool = False) -> _Executed:
        """Execute a statement and read its rows, in the thread where it may wait; raise sqlite3's errors."""
        begin, self._to_begin = self._to_begin, ""
        self._may_be_open = True
        if begin:
            await self._begin(begin)

        def run() -> _Executed:
            cursor = self._conn.cursor()
            try:
                execute(cursor)
                rows = cursor.fetchall() if cursor.description else []
                return cursor.description, cursor.rowcount, cursor.lastrowid, rows
            finally:
                cursor.close()

        if self._is_short and not is_many:
            return run()
        executed: _Executed = await self._execute(run)
        return executed

    async def _begin(self, statement: str) -> None:
        """Begin, once the lock can be had: looked for often, as SQLite's own waiting sleeps for up to 100 ms at a time.

        Meanwhile another process that writes a lot would have taken the lock again and again. It is taken in the event
        loop, so that it is not held while the loop does something else before it comes to the first statement.
        """
        if not self._is_idle:
            await self._execute(lambda: None)  # cut off before: it comes to its end first
        deadline, rest = time.monotonic() + self.busy_seconds, _FIRST_REST_SECONDS
        while not self._begins(statement, is_last=time.monotonic() > deadline):
            await asyncio.sleep(rest)
            rest = min(2 * rest, _MOST_REST_SECONDS)

    def _begins(self, statement: str, *, is_last: bool) -> bool:
        """Begin without waiting; return False where another process has the lock, or raise that if it is the last try.

        SQLite waits nowhere else within a transaction of ours, and a reading one waits for nothing.
        """
        self._conn.execute("PRAGMA busy_timeout = 0")
        try:
            self._conn.execute(statement)
        except sqlite3.OperationalError as error:
            if is_last or error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_BUSY:
                raise
            return False
        finally:
            self._conn.execute(f"PRAGMA busy_timeout = {round(self.busy_seconds * 1_000)}")
        return True

    async def _execute(self, fn: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Hand something over to the thread; what is cut off meanwhile goes on there."""
        self._is_idle = False
        try:
            result = await super()._execute(fn, *arguments, **named)  # type: ignore[no-untyped-call]  # aiosqlite's has no types
        except Exception:
            self._is_idle = True
            raise
        self._is_idle = True
        return result


_Executed = tuple[Any, int, int | None, list[Any]]
"""Description, row count, last row id, rows."""


class _Cursor:
    """One statement at a time, its rows read as it is executed."""

    arraysize = 1

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Execute a statement and read all its rows."""
        await self._run(lambda cursor: cursor.execute(statement, parameters))

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once for each of many parameters."""
        await self._run(lambda cursor: cursor.executemany(statement, parameters), is_many=len(parameters) > _FEW_ROWS)

    async def fetchall(self) -> list[Any]:
        """Return the rows that were read."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Do nothing: the thread has closed its cursor."""

    async def _run(self, execute: Callable[[sqlite3.Cursor], object], *, is_many: bool = False) -> None:
        executed = await self._connection.run(execute, is_many=is_many)
        self.description, self.rowcount, self.lastrowid, self._rows = executed


def connect_sqlite(
    database: str, *, made_by: type[SqliteConnection] = SqliteConnection, **options: Any
) -> SqliteConnection:
    """Return a connection to be awaited; `options` are `sqlite3.connect`'s.

    A file that is made is its owner's alone; SQLite gives those beside it (`-wal`, `-shm`) the same mode.
    """

    def connect() -> sqlite3.Connection:
        if database and not database.startswith((":", "file:")):
            with suppress(OSError):  # there already, or not to be had: then SQLite says so
                os.close(os.open(database, os.O_CREAT | os.O_EXCL, 0o600))
        connection: sqlite3.Connection = sqlite3.connect(database, cached_statements=CACHED_STATEMENTS, **options)
        return connection

    options["check_same_thread"] = False  # one statement at a time, in the thread or in the event loop
    connection = made_by(connect, _ITERATED_ROWS)
    connection.busy_seconds = options.get("timeout", connection.busy_seconds)
    connection._thread.daemon = True  # noqa: SLF001 — as SQLAlchemy sets it for connections it opens itself
    return connection


class TextDateTime(DATETIME):
    """An aware time as text in UTC."""

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], str | None]:  # noqa: ARG002 — the base's signature
        """Return what writes a time, and raises `ValueError` for one that does not say where it is."""

        def write(value: datetime | None) -> str | None:
            if value is None:
                return None
            if value.tzinfo is None:
                raise ValueError(f"a naive time can't be stored: {value!r}")
            return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")

        return write

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], datetime | None]:  # noqa: ARG002 — the base's signature
        """Return what reads a time."""

        def read(value: str | None) -> datetime | None:
            return None if value is None else datetime.fromisoformat(value).replace(tzinfo=UTC)

        return read


class WriteQueue:
    """A write queue; urgent writers go first, every second time at most, so that no writer waits for ever."""

    def __init__(self) -> None:
        self._is_taken = False
        self._was_urgent = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def permit(self, *, is_urgent: bool) -> AsyncIterator[None]:
        """Wait for the permit to write, and hold it while inside."""
        await self._enter(self._urgent if is_urgent else self._others)
        self._was_urgent = is_urgent
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, queue: deque[asyncio.Future[None]]) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        mine = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # it was ours already
            else:
                with suppress(ValueError):
                    queue.remove(mine)
            raise

    def _leave(self) -> None:
        while self._urgent or self._others:
            is_urgent = bool(self._urgent) and not (self._was_urgent and self._others)
            following = (self._urgent if is_urgent else self._others).popleft()
            if not following.done():
                following.set_result(None)
                return
        self._is_taken = False


def sqlite_engine(url: str) -> AsyncEngine:
    """Return an engine whose transactions begin as their options say, in a file with a write-ahead log."""
    connecting = {"timeout": BUSY_SECONDS, "async_creator_fn": connect_sqlite, "check_same_thread": False}
    engine = create_async_engine(url, hide_parameters=True, connect_args=connecting)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        cursor = connection.cursor()
        _switch_to_write_ahead_log(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        cast("SqliteConnection", connection.connection.driver_connection).begin(
            is_reading=options.get(IS_READING, False), is_short=options.get(IS_SHORT, False)
        )

    return engine


def _switch_to_write_ahead_log(cursor: Any) -> None:
    """Switch while no other process does: for this alone SQLite does not wait (sqlite.org/wal.html, "SQLITE_BUSY")."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            await_only(asyncio.sleep(BUSY_REST_SECONDS))
        else:
            return
