"""The queue on PostgreSQL: what a process had that has ended is delivered again at once."""

import asyncio
import uuid

import pytest
from sqlalchemy import text

from app.domain.errors import UnavailableError
from app.jobs.queue import PostgresQueue
from app.store.units import QueueItem
from tests.worker.house import ON_POSTGRESQL, House

SOON_SECONDS = 60
"""Shorter than the engine itself takes to miss a sign of life (`HEARTBEAT_TIMEOUT`)."""


@ON_POSTGRESQL
async def test_units_of_a_worker_that_has_ended_are_delivered_again_at_once(house: House) -> None:
    ended, other = str(uuid.uuid4()), str(uuid.uuid4())
    first, second = (PostgresQueue(house.database, worker_id=worker_id) for worker_id in (ended, other))
    taken: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    ending, stop = asyncio.Event(), asyncio.Event()
    release = asyncio.Event()

    async def hold(unit_id: int) -> float | None:
        await taken.put(("first", unit_id))
        await release.wait()
        return None

    async def take(unit_id: int) -> float | None:
        await taken.put(("second", unit_id))
        return None

    async with house.database.transaction() as session:
        await session.execute(text("SELECT 1"))  # else the engine's statement would commit by itself
        await first.enqueue(session, [QueueItem(7, 1)])
    holding = asyncio.create_task(first.run(hold, stop=ending, concurrency=2))
    assert await taken.get() == ("first", 7)
    ending.set()  # it takes nothing more, and never says that it is done
    taking = asyncio.create_task(second.run(take, stop=stop, concurrency=2))
    await second.connected.wait()

    async with house.database.transaction() as session:
        await second.release(session, [ended])

    async with asyncio.timeout(SOON_SECONDS):
        assert await taken.get() == ("second", 7)
    release.set()
    stop.set()
    await asyncio.gather(holding, taking)


@ON_POSTGRESQL
async def test_a_worker_cut_off_while_its_units_ended_takes_others_afterwards(house: House) -> None:
    queue = PostgresQueue(house.database, worker_id=str(uuid.uuid4()))
    taken: asyncio.Queue[int] = asyncio.Queue()
    stop = asyncio.Event()

    async def hold(unit_id: int) -> float | None:
        await taken.put(unit_id)
        await stop.wait()
        return None

    async def take(unit_id: int) -> float | None:
        await taken.put(unit_id)
        return None

    async with house.database.transaction() as session:
        await session.execute(text("SELECT 1"))  # else the engine's statement would commit by itself
        await queue.enqueue(session, [QueueItem(unit_id, 1) for unit_id in (1, 2, 3)])
    holding = asyncio.create_task(queue.run(hold, stop=stop, concurrency=2))
    assert {await taken.get(), await taken.get()} == {1, 2}

    await _cut_off(house)  # both count as picked, and no one is left to say that they have ended
    with pytest.raises(UnavailableError):
        await holding

    taking = asyncio.create_task(queue.run(take, stop=stop, concurrency=2))
    async with asyncio.timeout(SOON_SECONDS):
        assert {await taken.get() for _ in range(3)} == {1, 2, 3}
    stop.set()
    await taking


@ON_POSTGRESQL
async def test_a_unit_that_is_to_come_again_when_the_connection_breaks_comes_again_without_a_word(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    queue = PostgresQueue(house.database, worker_id=str(uuid.uuid4()))
    stop = asyncio.Event()

    async def put_off(_: int) -> float | None:
        await _cut_off(house)
        return 0.0

    async def take(_: int) -> float | None:
        stop.set()
        return None

    async with house.database.transaction() as session:
        await session.execute(text("SELECT 1"))  # else the engine's statement would commit by itself
        await queue.enqueue(session, [QueueItem(1, 1)])
    with pytest.raises(UnavailableError):
        await queue.run(put_off, stop=stop, concurrency=2)
    async with asyncio.timeout(SOON_SECONDS):
        await queue.run(take, stop=stop, concurrency=2)
    assert stop.is_set()
    assert [record.getMessage() for record in caplog.records if record.name == "pgqueuer"] == []


async def _cut_off(house: House) -> None:
    """End the queue's connection from the server's side: the one that listens."""
    async with house.database.transaction() as session:
        await session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
