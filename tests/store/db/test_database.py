"""Transactions: all or nothing, one writer at a time on SQLite, and a database that is gone says so."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import URL, func, insert, make_url, select, text
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from app.domain.errors import UnavailableError
from app.store.db.database import Database, GroupCommit, Session, after_commit
from app.store.db.process_lock import process_lock
from app.store.heartbeats import HeartbeatStore
from app.store.tables.declarative import table_of
from app.store.tables.jobs import IdempotencyKeyRow, UnitRow, WorkerRow
from tests.support.clock import START
from tests.support.processes import free_port

workers = table_of(WorkerRow)


async def names(database: Database) -> list[str]:
    async with database.reading() as session:
        return sorted((await session.execute(select(workers.c.id))).scalars())


async def record(session: Session, name: str) -> None:
    await HeartbeatStore(session).record(name, name=name, concurrency=1, now=START)


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    told = []

    async def tell() -> None:
        told.append("committed")

    async def write_and_fail() -> None:
        async with database.transaction() as session:
            await record(session, "a")
            after_commit(session, tell)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    assert await names(database) == []
    assert told == []


async def test_what_waits_for_the_commit_happens_after_it(database: Database) -> None:
    seen: list[list[str]] = []

    async def look() -> None:
        seen.append(await names(database))

    async with database.transaction() as session:
        await record(session, "a")
        after_commit(session, look)
        assert seen == []
    assert seen == [["a"]]


async def fail() -> None:
    raise ZeroDivisionError


async def test_what_fails_after_the_commit_is_logged_and_the_rest_happens(database: Database) -> None:
    told = []

    async def tell(what: str) -> None:
        told.append(what)

    with capture_logs() as logged:
        async with database.transaction() as session:
            await record(session, "a")
            for action in (fail, partial(tell, "one"), partial(fail), partial(tell, "two")):
                after_commit(session, action)
    assert await names(database) == ["a"]
    assert told == ["one", "two"]
    assert [(entry["event"], entry["action"]) for entry in logged] == [("after_commit_failed", "fail")] * 2


async def test_what_was_written_together_is_not_written_again_where_something_fails_after_the_commit(
    database: Database,
) -> None:
    batches = []

    async def write(session: Session, wanted: Sequence[str]) -> list[str | Exception]:
        batches.append([*wanted])
        for name in wanted:
            await record(session, name)
        after_commit(session, fail)
        return [*wanted]

    together = GroupCommit[str, str](database, write)
    assert await asyncio.gather(*(together.add(name) for name in "abc")) == ["a", "b", "c"]
    assert batches == [["a", "b", "c"]]
    assert await names(database) == ["a", "b", "c"]


async def test_many_writers_at_once_all_come_through(database: Database) -> None:
    async def raise_by_one(name: str) -> None:
        async with database.transaction() as session:
            await record(session, name)

    await asyncio.gather(*(raise_by_one(f"w{number % 5}") for number in range(100)))
    async with database.reading() as session:
        heartbeats = {worker.id: worker.count for worker in await HeartbeatStore(session).list()}
    assert heartbeats == {f"w{number}": 20 for number in range(5)}


async def test_writers_of_two_processes_wait_for_each_other(database: Database, database_url: str) -> None:
    other = Database(database_url)
    async with database.transaction() as session:
        assert await HeartbeatStore(session).list() == ()  # reads before it writes
        waiting = asyncio.create_task(_write(other, "second"))
        await asyncio.sleep(0.3)
        await record(session, "first")
    await waiting
    assert await names(database) == ["first", "second"]
    await other.aclose()


async def _write(database: Database, name: str) -> None:
    async with database.transaction() as session:
        await record(session, name)


async def test_cancelled_writers_leave_the_database_usable(database: Database) -> None:
    for pause in (0.0, 0.001, 0.003, 0.01):
        writers = [asyncio.create_task(_write(database, f"w{number}")) for number in range(20)]
        await asyncio.sleep(pause)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    await asyncio.wait_for(_write(database, "last"), 15)
    assert "last" in await names(database)


async def test_what_is_committed_after_a_cancelled_transaction_is_committed(
    database: Database, database_url: str
) -> None:
    """One that was cut off while it began left its connection in a state in which commits were none."""
    written = []
    for steps in range(90):
        cancelled = asyncio.create_task(_record_one(database, f"cancelled-{steps}"))
        for _ in range(steps % 30):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await _record_one(database, f"written-{steps}")
        written.append(f"written-{steps}")
        assert written[-1] in await names(database)
    other = Database(database_url)
    assert {name for name in await names(other) if name.startswith("written")} == set(written)
    await other.aclose()


async def _record_one(database: Database, name: str) -> None:
    async with database.transaction() as session:
        await record(session, name)


async def test_a_reading_sees_one_moment(database: Database) -> None:
    async with database.reading() as session:
        before = (await session.execute(select(workers.c.id))).all()
        await _write(database, "meanwhile")
        after = (await session.execute(select(workers.c.id))).all()
    assert before == after == []
    assert await names(database) == ["meanwhile"]


async def test_rows_can_not_point_to_jobs_that_are_not_there(database: Database) -> None:
    row = {"job_number": 77, "unit_index": 0, "kind": "plan", "state": "queued", "priority": 1, "updated_at": START}
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await session.execute(insert(table_of(UnitRow)), row)


async def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    row = {
        "principal": "p",
        "key": "k",
        "fingerprint": "f",
        "job_id": "0" * 32,
        "created_at": START.replace(tzinfo=None),
    }
    with pytest.raises(Exception, match="naive"):
        async with database.transaction() as session:
            await session.execute(insert(table_of(IdempotencyKeyRow)), row)


async def test_times_come_back_aware_and_the_same(database: Database) -> None:
    await _write(database, "a")
    async with database.reading() as session:
        (worker,) = await HeartbeatStore(session).list()
    assert worker.seen_at == START
    assert worker.seen_at.tzinfo is not None


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    database = Database(f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing")
    for opened in (database.transaction(), database.reading()):
        with pytest.raises(UnavailableError) as gone:
            async with opened as session:
                await session.execute(text("SELECT 1"))
        assert gone.value.code == "database_unreachable"
        assert "secret" not in gone.value.message
    await database.aclose()


async def test_a_connection_that_was_cut_is_replaced(postgres_url: str) -> None:
    database = Database(postgres_url)
    async with database.reading() as session:
        await session.execute(text("SELECT 1"))
    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    other = await database.connect()
    await other.execute(f"SELECT pg_terminate_backend(pid) {others}")
    while await other.fetchval(f"SELECT count(*) {others}"):  # noqa: ASYNC110 — it is the server that is looked at
        await asyncio.sleep(0.01)
    await other.close()
    async with database.reading() as session:
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1
    await database.aclose()


async def test_a_connection_whose_end_the_driver_has_not_seen_is_replaced_too(postgres_url: str) -> None:
    """The server's last words have come, and the connection is still open: each statement on it would fail."""
    address = make_url(postgres_url)
    other = Database(postgres_url)
    server_left = asyncio.Event()
    async with _relay_that_stays(address, server_left) as port:
        database = Database(address.set(port=port).render_as_string(hide_password=False))
        async with database.reading() as session:
            raw = await (await session.connection()).get_raw_connection()
            driver: Any = raw.driver_connection
        async with other.transaction() as session:
            await session.execute(select(func.pg_terminate_backend(driver.get_server_pid())))
        await server_left.wait()
        while _unread(driver._transport.get_extra_info("socket")):  # noqa: ASYNC110 — it is the kernel that is looked at
            await asyncio.sleep(0.01)
        assert not driver.is_closed()
        async with database.reading() as session:
            mode = (await session.execute(text("SHOW transaction_read_only"))).scalar_one()
        assert mode == "on"
        assert driver.is_closed()
        await database.aclose()
    await other.aclose()


def _unread(connection: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    return int(count)


@asynccontextmanager
async def _relay_that_stays(address: URL, server_left: asyncio.Event) -> AsyncIterator[int]:
    """Pass bytes to a server and back; leave a caller's connection open when the server closes the first one."""

    async def passing(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while received := await source.read(65536):
            to.write(received)

    async def answering(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        await passing(source, to)
        if server_left.is_set():
            to.close()
        server_left.set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(address.host, address.port)
        async with asyncio.TaskGroup() as both:
            both.create_task(answering(from_server, writer))
            await passing(reader, to_server)
            to_server.close()
        writer.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_one_worker_at_a_time_has_the_lock_of_an_embedded_database(tmp_path: object) -> None:
    file, never, stop = f"{tmp_path}/x.db", asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def second() -> None:
        async with process_lock(file, stop=never) as is_ours:
            order.append(f"second {is_ours}")

    async with process_lock(file, stop=never) as is_ours:
        assert is_ours
        waiting = asyncio.create_task(second())
        third = process_lock(file, stop=stop)
        stop.set()
        async with third as is_third:
            assert not is_third
        await asyncio.sleep(0.3)
        order.append("first")
    await waiting
    assert order == ["first", "second True"]
