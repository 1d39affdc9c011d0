"""PostgreSQL goes away in the middle and comes back: what runs goes on, nothing is lost or doubled."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app.domain.errors import UnavailableError
from app.domain.job import JobState
from app.store.db.database import Database
from app.store.db.migrate import migrate
from tests.support.job_fixtures import WorkerProcesses
from tests.support.postgres import PostgresServer
from tests.worker.house import CALLER, ON_POSTGRESQL, House
from tests.worker.sync_sessions import Journal

pytestmark = pytest.mark.kill

OUTAGE_SECONDS = 8
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL that this test may stop; what it has committed it keeps."""
    with PostgresServer(durable=True) as server:
        yield server


@pytest.fixture
async def own_house(own_server: PostgresServer, journal: Journal) -> AsyncIterator[House]:
    """Return the engine room on that server."""
    url = own_server.create_database().url
    await migrate(url)
    database = Database(url)
    yield House(database, journal)
    await database.aclose()


async def test_jobs_go_on_after_an_outage_which_takes_two_lines_of_the_log(
    own_house: House, own_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    house = own_house
    with capture_logs() as logged:
        await _outlive_an_outage(house, own_server)
    told = [entry["event"] for entry in logged if entry["log_level"] in {"warning", "error"}]
    assert told == ["database_unreachable", "database_reachable"]
    assert [record.getMessage() for record in caplog.records if record.name == "pgqueuer"] == []
    begun = [line.destination for line in house.journal.lines() if line.event == "begin"]
    assert len(begun) == len(set(begun)) == 24


async def _outlive_an_outage(house: House, own_server: PostgresServer) -> None:
    async with house.worker():
        job = await house.submit("t1", "slow-4s", "slow-15s", *(f"slow-1s-{number}" for number in range(20)))
        await house.until(lambda seen: seen.progress.images.copied > 0, job)
        await asyncio.to_thread(own_server.stop)
        with pytest.raises(UnavailableError) as gone:
            await house.jobs.get(job.id, caller=CALLER)
        assert gone.value.code == "database_unreachable"
        with pytest.raises(UnavailableError):
            await house.submit("t1")
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(own_server.start)
        job = await house.done(job)
        assert job.state is JobState.SUCCEEDED
        assert job.progress.images.copied == 23
        assert (await house.run("t2")).state is JobState.SUCCEEDED


async def test_a_server_that_is_killed_loses_nothing_that_was_accepted(
    own_house: House, own_server: PostgresServer
) -> None:
    house = own_house
    jobs = [await house.submit(f"t{number}", to=(f"dst.example.com/r{number}",)) for number in range(5)]
    await asyncio.to_thread(own_server.kill)
    await asyncio.to_thread(own_server.start)
    async with house.worker():
        for job in jobs:
            assert (await house.done(job)).state is JobState.SUCCEEDED


@ON_POSTGRESQL
async def test_cut_connections_are_opened_again(house: House, workers: WorkerProcesses) -> None:
    workers.start("first")
    job = await house.submit("slow-4s", *(f"slow-1s-{number}" for number in range(12)))
    await house.until(lambda seen: seen.progress.images.running > 0, job)
    for _ in range(3):
        async with house.database.transaction() as session:
            await session.execute(text(CUT))
        await asyncio.sleep(0.7)
    job = await house.done(job)
    assert job.progress.images.copied == 13
    begun = [line.destination for line in house.journal.lines() if line.event == "begin"]
    assert len(begun) == len(set(begun)) == 13


@ON_POSTGRESQL
async def test_watchers_hear_again_after_their_connection_was_cut(house: House, another_house: House) -> None:
    job = await house.submit("slow-4s")
    async with house.worker():
        waiting = asyncio.create_task(another_house.jobs.wait(job.id, timeout_seconds=120, caller=CALLER))
        await house.until(lambda seen: seen.progress.images.running == 1, job)
        async with house.database.transaction() as session:
            await session.execute(text(CUT))
        assert (await waiting).state is JobState.SUCCEEDED
