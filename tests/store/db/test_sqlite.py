"""The embedded database's connection: what a statement costs, and that it still says what the driver would."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.store.db.sqlite import SqliteConnection, WriteQueue, connect_sqlite


@asynccontextmanager
async def open_engine(folder: Path, connect: Callable[..., SqliteConnection]) -> AsyncIterator[AsyncEngine]:
    url = f"sqlite+aiosqlite:///{folder}/x.db"
    engine = create_async_engine(url, connect_args={"async_creator_fn": connect}, pool_size=1)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
    yield engine
    await engine.dispose()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(tmp_path, connect_sqlite) as opened:
        yield opened


async def opened(file: str, **options: Any) -> SqliteConnection:
    connection = connect_sqlite(file, isolation_level=None, **options)
    assert await connection is connection
    return connection


async def count_things(connection: AsyncConnection) -> int:
    return int((await connection.execute(text("SELECT count(*) FROM things"))).scalar_one())


class CountingConnection(SqliteConnection):
    """Counts what is handed over to its thread."""

    handed_over = 0

    async def _execute(self, fn: Any, *arguments: Any, **named: Any) -> Any:
        CountingConnection.handed_over += 1
        return await super()._execute(fn, *arguments, **named)


def connect_counting(database: str, **options: Any) -> SqliteConnection:
    return connect_sqlite(database, made_by=CountingConnection, **options)


async def test_a_statement_is_handed_over_to_the_thread_once(tmp_path: Path) -> None:
    async with open_engine(tmp_path, connect_counting) as engine, engine.connect() as connection:
        CountingConnection.handed_over = 0
        async with connection.begin():
            for number in range(3):
                await connection.execute(text("INSERT INTO things (name) VALUES (:name)"), {"name": f"{number}"})
            assert await count_things(connection) == 3
        await connection.close()
        assert CountingConnection.handed_over == 5  # four statements and the commit; none to go back to the pool


async def test_row_counts_new_ids_and_returned_rows_are_the_drivers(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        names = [{"name": name} for name in "abc"]
        assert (await connection.execute(text("INSERT INTO things (name) VALUES (:name)"), names)).rowcount == 3
        assert (await connection.execute(text("INSERT INTO things (name) VALUES ('d')"))).lastrowid == 4
        assert (await connection.execute(text("UPDATE things SET name = name || '!'"))).rowcount == 4
        rows = await connection.execute(text("DELETE FROM things WHERE id > 2 RETURNING id, name"))
        assert [(row.id, row.name) for row in rows] == [(3, "c!"), (4, "d!")]


async def test_what_the_driver_raises_comes_through_and_rolls_back(engine: AsyncEngine) -> None:
    async def add_twice() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO things (name) VALUES ('a')"))
            await connection.execute(text("INSERT INTO things (name) VALUES ('a')"))

    with pytest.raises(IntegrityError) as raised:
        await add_twice()
    assert isinstance(raised.value.orig, sqlite3.IntegrityError)
    async with engine.connect() as connection:
        assert await count_things(connection) == 0


async def test_a_transaction_that_was_left_open_is_rolled_back_in_the_pool(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO things (name) VALUES ('a')"))
    async with engine.connect() as connection:
        assert await count_things(connection) == 0


async def test_a_transaction_begins_with_its_first_statement_and_as_it_was_asked_to(tmp_path: Path) -> None:
    async with open_engine(tmp_path, connect_counting) as engine, engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, CountingConnection)
        driver.begin(is_reading=False, is_short=False)
        CountingConnection.handed_over = 0
        before, things, after = driver.in_transaction, await count_things(connection), driver.in_transaction
        assert (before, things, after) == (False, 0, True)
        assert CountingConnection.handed_over == 1
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            sqlite3.connect(tmp_path / "x.db", timeout=0) as other,
        ):
            other.execute("INSERT INTO things (name) VALUES ('a')")
        other.close()


@pytest.mark.parametrize(("is_reading", "handed_over"), [(True, 0), (False, 1)])
async def test_a_short_transaction_hands_over_what_may_wait_only(
    tmp_path: Path, *, is_reading: bool, handed_over: int
) -> None:
    async with open_engine(tmp_path, connect_counting):
        file = str(tmp_path / "x.db")
        driver = connect_counting(file, isolation_level=None, check_same_thread=False)
        assert await driver is driver
        CountingConnection.handed_over = 0
        driver.begin(is_reading=is_reading, is_short=True)
        for _ in range(3):
            await driver.run(lambda cursor: cursor.execute("SELECT * FROM things"))
        was_open = driver.in_transaction
        await driver.commit()
        assert (was_open, driver.in_transaction) == (True, False)
        # Of what writes: its commit, for the disk.
        assert CountingConnection.handed_over == handed_over
        driver.begin(is_reading=True, is_short=True)
        await driver.run(lambda cursor: cursor.execute("SELECT * FROM things"), is_many=True)
        assert CountingConnection.handed_over == handed_over + 1
        await driver.commit()
        await driver.close()


async def test_what_is_cut_off_while_the_thread_is_at_it_leaves_no_transaction_open(tmp_path: Path) -> None:
    async with open_engine(tmp_path, connect_sqlite) as engine:
        driver = await opened(str(tmp_path / "x.db"))
        begun, go_on = threading.Event(), threading.Event()

        def slow(cursor: sqlite3.Cursor) -> None:
            begun.set()
            go_on.wait(10)
            cursor.execute("INSERT INTO things (name) VALUES ('a')")

        driver.begin(is_reading=False, is_short=False)
        running = asyncio.create_task(driver.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        running.cancel()
        rolling_back = asyncio.create_task(driver.rollback())
        await asyncio.sleep(0)
        go_on.set()
        await rolling_back
        assert not driver.in_transaction
        await driver.close()
        async with engine.connect() as connection:
            assert await count_things(connection) == 0


async def test_what_was_cut_off_comes_to_its_end_before_the_next_transaction_begins(tmp_path: Path) -> None:
    async with open_engine(tmp_path, connect_sqlite):
        driver = await opened(str(tmp_path / "x.db"))
        begun, go_on = threading.Event(), threading.Event()

        def slow(cursor: sqlite3.Cursor) -> None:
            begun.set()
            go_on.wait(10)
            cursor.execute("ROLLBACK")  # as of a transaction that was given up

        driver.begin(is_reading=False, is_short=False)
        running = asyncio.create_task(driver.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        running.cancel()
        driver.begin(is_reading=False, is_short=True)
        inserting = asyncio.create_task(driver.run(insert_one))
        await asyncio.sleep(0)
        go_on.set()
        await inserting
        assert driver.in_transaction
        await driver.commit()
        *_, rows = await driver.run(lambda cursor: cursor.execute("SELECT count(*) FROM things"))
        assert rows == [(1,)]
        await driver.close()


async def test_who_waits_for_the_lock_of_another_process_keeps_nobody_of_its_own_waiting(tmp_path: Path) -> None:
    async with open_engine(tmp_path, connect_counting):
        file = str(tmp_path / "x.db")
        holder, waiter = [await opened(file, timeout=60) for _ in range(2)]
        for driver in (holder, waiter):
            driver.begin(is_reading=False, is_short=True)
        await holder.run(insert_one)
        waiting = asyncio.create_task(waiter.run(insert_one))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        await holder.commit()
        await waiting
        await waiter.commit()
        for driver in (holder, waiter):
            await driver.close()


async def test_a_transaction_waits_for_the_lock_of_another_process_and_not_for_ever(tmp_path: Path) -> None:
    async with open_engine(tmp_path, connect_sqlite):
        file = str(tmp_path / "x.db")
        holder, patient, hasty = [await opened(file, timeout=seconds) for seconds in (1, 60, 0.01)]
        for driver in (holder, patient, hasty):
            driver.begin(is_reading=False, is_short=False)
        await holder.run(insert_one)
        waiting = asyncio.create_task(patient.run(insert_one))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await hasty.run(insert_one)
        assert not waiting.done()
        await holder.rollback()
        await waiting
        await patient.commit()
        hasty.begin(is_reading=False, is_short=False)
        await hasty.run(insert_one)
        await hasty.commit()
        *_, rows = await hasty.run(lambda cursor: cursor.execute("SELECT count(*) FROM things"))
        assert rows == [(2,)]
        for driver in (holder, patient, hasty):
            await driver.close()


def insert_one(cursor: sqlite3.Cursor) -> None:
    cursor.execute("INSERT INTO things DEFAULT VALUES")


async def test_turns_come_in_order_and_the_urgent_goes_first_every_second_time_at_most() -> None:
    turns = WriteQueue()
    had: list[str] = []

    async def have(name: str, *, is_urgent: bool = False) -> None:
        async with turns.permit(is_urgent=is_urgent):
            had.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group, turns.permit(is_urgent=False):
        for name in ("a", "b", "c"):
            group.create_task(have(name))
        for name in ("U", "V", "W"):
            group.create_task(have(name, is_urgent=True))
        await asyncio.sleep(0)
        assert had == []
    assert had == ["U", "a", "V", "b", "W", "c"]


async def test_who_stops_waiting_or_is_stopped_with_the_turn_in_hand_passes_it_on() -> None:
    turns = WriteQueue()

    async def wait() -> None:
        async with turns.permit(is_urgent=False):
            await asyncio.sleep(0)

    async with turns.permit(is_urgent=True):
        gone, given, last = (asyncio.create_task(wait()) for _ in range(3))
        await asyncio.sleep(0)
        gone.cancel()
    given.cancel()  # it has been given the turn, and does not know yet
    await asyncio.wait({gone, given}, timeout=5)
    await asyncio.wait_for(last, 5)
    assert (gone.cancelled(), given.cancelled()) == (True, True)
    await asyncio.wait_for(wait(), 5)
