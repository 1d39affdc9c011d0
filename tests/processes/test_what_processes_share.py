"""What the processes of one host know of each other: changes, blobs, who lives, and the limits they keep together."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.domain.manifest import digest_of
from app.domain.reference import Repository
from app.jobs.policy_jobs import PolicyJobs
from app.jobs.push_jobs import PushMatcher
from app.jobs.queue import MemoryQueue
from app.process_channel import ProcessChannel, ProcessTable
from app.store.db.database import Database
from app.sync.known_blobs import KnownBlobs
from app.worker.heartbeat import Heartbeat
from app.worker.shared_state import SiblingBlobs
from tests.processes.hosts import SOON_SECONDS, RelayedChannels, until
from tests.worker.house import ON_POSTGRESQL, ON_SQLITE, SEALER, now

APP, OTHER, FAR = (Repository.parse(text) for text in ("a.io/app", "a.io/other", "b.io/app"))
BLOB = digest_of(b"blob")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.aclose()


def heartbeat_of(database: Database, worker: str, channel: ProcessChannel) -> Heartbeat:
    return Heartbeat(database, worker=worker, name=worker, concurrency=1, clock=now, channel=channel)


@ON_SQLITE
async def test_a_change_that_one_process_commits_is_heard_in_the_others(
    channels: RelayedChannels, database_url: str
) -> None:
    writer, reader = [Database(database_url, channel=await channels.join()) for _ in range(2)]
    heard: list[str] = []
    async with reader.change_feed.heard_by(heard.append):
        async with writer.transaction() as session:
            writer.change_feed.publish(session, "job-1")
            await asyncio.sleep(0.05)
            assert heard == []  # it has not happened yet
        await until(lambda: heard == ["job-1"])
    for database in (writer, reader):
        await database.aclose()


async def test_where_one_process_found_a_blob_the_others_look_for_no_more(channels: RelayedChannels) -> None:
    one, other = KnownBlobs(), KnownBlobs()
    for blobs in (one, other):
        SiblingBlobs(await channels.join(), blobs)
    one.add(APP, BLOB)
    await until(lambda: other.is_present(APP, BLOB))
    assert other.mount_candidates(OTHER, BLOB) == ("app",)
    assert other.take_news() == ()  # who found it writes it down


@pytest.mark.parametrize("how", ["forget", "forget_repository"])
async def test_what_one_process_believed_wrongly_no_other_goes_on_believing(
    channels: RelayedChannels, how: str
) -> None:
    one, other = KnownBlobs(), KnownBlobs()
    for blobs in (one, other):
        SiblingBlobs(await channels.join(), blobs)
    one.add(APP, BLOB)
    await until(lambda: other.is_present(APP, BLOB))
    if how == "forget":
        other.forget(APP, BLOB)
    else:
        other.forget_repository(APP)
    await until(lambda: not one.is_present(APP, BLOB))


async def test_a_push_event_that_one_process_stored_wakes_the_matchers_of_the_others(
    channels: RelayedChannels, database: Database
) -> None:
    jobs = PolicyJobs(MemoryQueue(), clock=now, new_id=str)
    api, worker = [PushMatcher(database, jobs, SEALER, channel=await channels.join()) for _ in range(2)]
    api.announce()
    await until(worker._woken.is_set)


@ON_SQLITE
async def test_beside_sqlite_those_live_whom_the_supervisor_names(
    channels: RelayedChannels, database: Database
) -> None:
    channel = await channels.join()
    one = heartbeat_of(database, "one", channel)
    assert one.alive == 1
    channels.tell(ProcessTable(workers={"worker-1": "one", "worker-2": "two"}, gone=("old",)))
    await until(lambda: one.alive == 2)  # each keeps to half of every limit
    assert not one.is_dead("two")
    assert one.is_dead("old")
    assert one.is_dead("from-before")
    channels.tell(ProcessTable(workers={"worker-1": "one"}, gone=("old", "two")))
    await until(lambda: one.is_dead("two"))
    assert one.alive == 1


@ON_POSTGRESQL
async def test_on_postgresql_a_worker_of_this_host_that_has_ended_is_dead_at_once(
    channels: RelayedChannels, database: Database
) -> None:
    channel = await channels.join()
    one, two = heartbeat_of(database, "one", channel), heartbeat_of(database, "two", channel)
    for heartbeat in (two, one):
        await heartbeat.record()
    assert not one.is_dead("two")
    channels.tell(ProcessTable(workers={"worker-1": "one"}, gone=("two",)))
    await until(lambda: one.is_dead("two"))
    assert one.alive == 1


async def test_a_blob_that_one_process_sends_no_other_sends_meanwhile(channels: RelayedChannels) -> None:
    one, other = KnownBlobs(), KnownBlobs()
    for blobs in (one, other):
        SiblingBlobs(await channels.join(), blobs)
    channels.tell(ProcessTable(workers={"worker-1": "one", "worker-2": "two"}))
    happened: list[str] = []

    async def send(name: str, blobs: KnownBlobs) -> None:
        async with blobs.sending([APP], BLOB):
            if blobs.is_present(APP, BLOB):
                happened.append(f"{name} finds it")
                return
            happened.append(f"{name} sends it")
            await asyncio.sleep(0.1)
            blobs.add(APP, BLOB)

    await until(lambda: all(len(end.processes.workers) == 2 for end in channels.ends))
    await asyncio.gather(send("one", one), send("other", other))
    assert sorted(line.partition(" ")[2] for line in happened) == ["finds it", "sends it"]


async def test_a_small_blob_is_sent_without_asking_the_other_processes(channels: RelayedChannels) -> None:
    one, other = KnownBlobs(), KnownBlobs()
    for blobs in (one, other):
        SiblingBlobs(await channels.join(), blobs)
    channels.tell(ProcessTable(workers={"worker-1": "one", "worker-2": "two"}))
    await until(lambda: all(len(end.processes.workers) == 2 for end in channels.ends))
    async with asyncio.timeout(SOON_SECONDS), one.sending([APP], BLOB), other.sending([APP], BLOB, is_small=True):
        pass


async def test_what_is_sent_elsewhere_waits_for_nobody_and_what_a_dead_process_sent_is_free(
    channels: RelayedChannels,
) -> None:
    one, other = KnownBlobs(), KnownBlobs()
    for blobs in (one, other):
        SiblingBlobs(await channels.join(), blobs)
    channels.tell(ProcessTable(workers={"worker-1": "one", "worker-2": "two"}))
    await until(lambda: all(len(end.processes.workers) == 2 for end in channels.ends))
    never = asyncio.create_task(_send_for_ever(one))
    async with asyncio.timeout(SOON_SECONDS):
        async with other.sending([FAR], BLOB):
            pass
        waiting = asyncio.create_task(_send(other))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        channels.locks.leave("process-0")
        await waiting
    never.cancel()
    await asyncio.gather(never, return_exceptions=True)


async def _send(blobs: KnownBlobs) -> None:
    async with blobs.sending([APP], BLOB):
        pass


async def _send_for_ever(blobs: KnownBlobs) -> None:
    async with blobs.sending([APP], BLOB):
        await asyncio.sleep(3_600)
