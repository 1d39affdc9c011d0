"""What the processes of one host know of each other: changes, blobs, who lives, and the limits they keep together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast

import pytest

from app.domain.errors import RegistryError
from app.domain.manifest import Descriptor, Manifest, digest_of
from app.domain.reference import Digest, Reference, Repository, Tag
from app.domain.registry import RegistryEntry
from app.jobs.policy_jobs import PolicyJobs
from app.jobs.push_jobs import PushMatcher
from app.jobs.queue import MemoryQueue
from app.process_channel import ProcessChannel, ProcessTable
from app.registry.client import ClientPool, RegistryClient
from app.registry.listing.digest_lists import ListedTag
from app.store.db.database import Database
from app.sync.compare import DigestLists
from app.sync.known_blobs import KnownBlobs
from app.worker.heartbeat import Heartbeat
from app.worker.shared_state import SiblingBlobs, SiblingDigestLists, SiblingTokens
from tests.processes.hosts import RelayedChannels
from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.fake_registry.server import ACCOUNT
from tests.support.images import oci_image
from tests.support.waiting import SOON_SECONDS, until
from tests.worker.house import ON_POSTGRESQL, ON_SQLITE, SEALER, now

APP, OTHER, FAR = (Repository.parse(text) for text in ("a.io/app", "a.io/other", "b.io/app"))
BLOB = digest_of(b"blob")
Asking = Callable[[], Awaitable[Manifest]]
TAGS = [Tag(f"v{number}") for number in range(40)]


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
    heard: list[tuple[str, bool]] = []
    async with reader.change_feed.heard_by(lambda *change: heard.append(change)):
        async with writer.transaction() as session:
            writer.change_feed.publish(session, "job-1", has_ended=True)
            await asyncio.sleep(0.05)
            assert heard == []  # it has not happened yet
        await until(lambda: heard == [("job-1", True)])
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
        await until(lambda: bool(channels.locks._waiting))
        assert not waiting.done()
        channels.locks.leave("process-0")
        await waiting
    never.cancel()
    await asyncio.gather(never, return_exceptions=True)


class Listing:
    """A client of a registry whose list says the digests of a repository, or is wrong about them."""

    entry = RegistryEntry(name="harbor", host="a.io")
    has_digest_list = True

    def __init__(self, *, lies: bool = False) -> None:
        self.asked: list[str] = []
        self._lies = lies

    async def head_manifest(self, _path: str, tag: Tag) -> Descriptor:
        self.asked.append("HEAD")
        return Descriptor("", digest_of(tag.encode()), 1)

    async def list_digests(self, path: str) -> AsyncIterator[ListedTag]:
        self.asked.append(path)
        await asyncio.sleep(0.1)
        for tag in TAGS:
            yield ListedTag(tag, digest_of(b"a lie" if self._lies else tag.encode()))


async def lists_of_two(channels: RelayedChannels, *jobs: str) -> list[DigestLists]:
    """Return what two processes have of a job's lists."""
    lists = [DigestLists(job, siblings=SiblingDigestLists(await channels.join())) for job in jobs]
    channels.tell(ProcessTable(workers={"worker-1": "one", "worker-2": "two"}))
    await until(lambda: all(len(end.processes.workers) == 2 for end in channels.ends))
    return lists


async def find_all(lists: DigestLists, client: Listing) -> list[Digest | None]:
    found = [await lists.find(cast("RegistryClient", client), Reference(APP, tag)) for tag in TAGS]
    return [None if one is None else one.digest for one in found]


async def test_a_list_of_digests_is_read_and_proven_by_one_process_for_all(channels: RelayedChannels) -> None:
    client = Listing()
    lists = await lists_of_two(channels, "job", "job")
    found = await asyncio.gather(*(find_all(each, client) for each in lists))
    assert found == [[digest_of(tag.encode()) for tag in TAGS]] * 2
    assert sorted(client.asked) == ["HEAD", "app"]


async def test_a_list_that_lies_is_found_out_for_all_processes_at_once(channels: RelayedChannels) -> None:
    client = Listing(lies=True)
    lists = await lists_of_two(channels, "job", "job")
    for each in lists:
        assert set(await find_all(each, client)) <= {None, digest_of(TAGS[0].encode())}
    assert sorted(client.asked) == ["HEAD", "app"]
    assert [warning.code for each in lists for warning in each.take_warnings()] == ["digest_list_wrong"]


async def test_each_job_reads_lists_anew(channels: RelayedChannels) -> None:
    client = Listing()
    lists = await lists_of_two(channels, "one", "another")
    await asyncio.gather(*(find_all(each, client) for each in lists))
    assert sorted(client.asked) == ["HEAD", "HEAD", "app", "app"]


@asynccontextmanager
async def two_pools(
    channels: RelayedChannels, *, clock: Callable[[], datetime] = now
) -> AsyncIterator[list[ClientPool]]:
    """Run what two processes have of registries."""
    pools = [ClientPool(clock=clock, token_siblings=SiblingTokens(await channels.join())) for _ in range(2)]
    channels.tell(ProcessTable(workers={"worker-1": "one", "worker-2": "two"}))
    await until(lambda: all(len(end.processes.workers) == 2 for end in channels.ends))
    try:
        yield pools
    finally:
        for pool in pools:
            await pool.aclose()


def ask(pool: ClientPool, registry: FakeRegistry, *, name: str = "fake", password: str = ACCOUNT[1]) -> Asking:
    """Return what asks for a manifest with an entry's login."""
    auth = {"type": "basic", "username": ACCOUNT[0], "password": password}
    entry = RegistryEntry.model_validate({"name": name, "host": registry.host, "insecure": True, "auth": auth})
    client = pool.clients((entry,)).for_registry(entry.registry)
    return lambda: client.get_manifest("team/app", Tag("v1"))


async def told(pool: ClientPool) -> None:
    """Wait until a process has heard of a token."""
    siblings = cast("SiblingTokens", pool._token_siblings)
    await until(lambda: bool(siblings._tokens))


async def test_a_token_is_asked_for_by_one_process_for_all(channels: RelayedChannels) -> None:
    async with fake_registry(Quirks(auth="token")) as registry, two_pools(channels) as pools:
        registry.load("team/app", oci_image("app"), "v1")
        await asyncio.gather(*(ask(pool, registry)() for pool in pools))
        assert registry.journal.count("token") == 1


async def test_a_token_that_was_told_and_is_refused_is_asked_for_anew(channels: RelayedChannels) -> None:
    async with fake_registry(Quirks(auth="token", token_lives_requests=1)) as registry, two_pools(channels) as pools:
        registry.load("team/app", oci_image("app"), "v1")
        for pool in pools:
            await ask(pool, registry)()
        assert registry.journal.count("token") == 2


async def test_a_told_token_that_is_older_than_a_refusal_is_not_taken(channels: RelayedChannels) -> None:
    """A told token may have ended by the time it is wanted; after a refusal there is one more attempt, and no other."""
    clock = SettableClock()
    quirks = Quirks(auth="token", token_expires_in=300, token_lives_seconds=20)
    async with fake_registry(quirks, clock=clock) as registry, two_pools(channels, clock=clock) as pools:
        registry.load("team/app", oci_image("app"), "v1")
        one, other = (ask(pool, registry) for pool in pools)
        await one()
        await told(pools[1])
        await other()
        assert registry.journal.count("token") == 1
        clock.advance(25)
        await one()  # the token has ended: it asks for another, and tells
        await told(pools[1])
        clock.advance(25)
        await other()  # its own has ended, and so has the one that it was told
        assert registry.journal.count("token") == 3


async def test_a_token_that_was_asked_for_after_a_refusal_is_taken(channels: RelayedChannels) -> None:
    clock = SettableClock()
    quirks = Quirks(auth="token", token_expires_in=300)
    async with fake_registry(quirks, clock=clock) as registry, two_pools(channels, clock=clock) as pools:
        registry.load("team/app", oci_image("app"), "v1")
        one, other = (ask(pool, registry) for pool in pools)
        await one()
        await told(pools[1])
        registry.auth.revoke_all()
        await other()  # what it was told is refused
        await told(pools[0])
        clock.advance(200)
        registry.auth.revoke_all()
        await one()
        await told(pools[1])
        assert registry.journal.count("token") == 3
        clock.advance(100)
        await other()  # its own is to be replaced
        assert registry.journal.count("token") == 3


async def test_a_token_serves_no_other_entry_and_no_other_password(channels: RelayedChannels) -> None:
    async with fake_registry(Quirks(auth="token")) as registry, two_pools(channels) as pools:
        registry.load("team/app", oci_image("app"), "v1")
        await ask(pools[0], registry)()
        with pytest.raises(RegistryError, match="no token"):
            await ask(pools[1], registry, password="wrong")()
        await ask(pools[1], registry, name="another")()
        assert registry.journal.count("token", status=200) == 2


async def _send(blobs: KnownBlobs) -> None:
    async with blobs.sending([APP], BLOB):
        pass


async def _send_for_ever(blobs: KnownBlobs) -> None:
    async with blobs.sending([APP], BLOB):
        await asyncio.sleep(3_600)
