"""One blob on its way: verified, resumed on either side, cancelled where it can't end well."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from app.domain.errors import CopyError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Repository
from app.domain.retry_policy import RetryPolicy
from app.registry.limits import ClientSettings
from app.sync.known_blobs import MIN_NOTED_BYTES, UploadNotes
from app.sync.source_blob import SourceBlob
from app.sync.transfer import MAX_SESSIONS
from tests.support.fake_registry import FakeRegistry, Respond, Stall, TooMany, on
from tests.support.images import OCI_EMPTY, Blob, artifact, blob, oci_image
from tests.sync.workbench import QUICK, REQUEST_QUICK, Workbench, asked, workbench
from tests.sync.zoo import image_of

MIB = 1024 * 1024
LARGE = blob("large", size=3 * MIB)
IMAGE = oci_image("large", layers=[LARGE])


async def copy(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> str:
    """Copy the large image and return how that ended."""
    here.load("app", IMAGE, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), digest_tags=False)
    return result.error.code if result.error else result.outcome


@pytest.mark.parametrize(
    ("switches", "code"),
    [
        ({"blob_bytes": "flipped"}, "digest_mismatch"),
        ({"blob_bytes": "short"}, "size_mismatch"),
        ({"blob_bytes": "long"}, "size_mismatch"),
        ({"blob_bytes": "short", "blob_without_length": True}, "size_mismatch"),
        ({"blob_bytes": "long", "blob_without_length": True}, "size_mismatch"),
    ],
)
async def test_a_bad_blob_is_never_completed(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, switches: dict[str, object], code: str
) -> None:
    here.change(only_blobs=frozenset({LARGE.digest}), **switches)
    there.change(verifies_digest=False)
    assert await copy(bench, here, there) == code
    assert there.content.blob("app", LARGE.digest) is None
    assert there.content.tags("app") == {}
    assert there.content.sessions == {}


async def test_a_broken_source_is_read_on_where_it_broke(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(only_blobs=frozenset({LARGE.digest}), blob_cut_after_bytes=MIB, blob_cut_times=2)
    assert await copy(bench, here, there) == "copied"
    reads = here.journal.find("blob", method="GET", reference=LARGE.digest)
    assert len(reads) == 3
    assert [entry.header("range") is None for entry in reads] == [True, False, False]
    assert there.journal.count("upload_close", method="PUT") == 2  # one for the config
    assert there.journal.received_bytes() < LARGE.size + 10_000


async def test_a_source_that_ignores_ranges_is_read_from_the_start_and_nothing_is_sent_twice(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(only_blobs=frozenset({LARGE.digest}), blob_cut_after_bytes=MIB, ranges="ignored")
    assert await copy(bench, here, there) == "copied"
    assert there.journal.received_bytes("upload_close") < LARGE.size + 10_000


async def test_a_source_that_always_breaks_at_the_same_place_fails_the_image(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(only_blobs=frozenset({LARGE.digest}), blob_cut_after_bytes=MIB, blob_cut_times=None, ranges="ignored")
    assert await copy(bench, here, there) == "registry_unreachable"
    assert there.content.sessions == {}


async def test_a_broken_upload_goes_on_where_the_destination_stands(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(upload_cut_after_bytes=MIB + 1_000, upload_cut_times=2)
    assert await copy(bench, here, there) == "copied"
    assert there.content.blob("app", LARGE.digest) == LARGE.data
    assert there.journal.count("upload_start") == 2  # one for the config: no fresh session was needed
    assert there.journal.count("upload_status") >= 1
    existing = sum(entry.received_bytes for entry in there.journal if entry.kind.startswith("upload"))
    assert existing < LARGE.size + MIB // 2


async def test_an_upload_that_gets_on_each_time_may_break_often(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(upload_cut_after_bytes=MIB // 2, upload_cut_times=5)
    assert await copy(bench, here, there) == "copied"
    assert there.journal.count("upload_start") == 2


async def test_fresh_sessions_for_one_blob_are_bounded(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(upload_cut_after_bytes=MIB, upload_cut_times=None, cut_uploads="killed")
    bench.retry_policy = RetryPolicy(attempts=8, first_delay=0.001, max_delay=0.001)
    here.load("app", IMAGE, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.attempts) == ("failed", 8)
    assert there.journal.count("upload_start") == 1 + MAX_SESSIONS * result.attempts  # one for the config


@pytest.mark.parametrize("lost", ["lost", "killed"])
async def test_an_upload_whose_session_is_gone_begins_anew(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, lost: str
) -> None:
    there.change(upload_cut_after_bytes=MIB, upload_cut_times=1, cut_uploads=lost)
    assert await copy(bench, here, there) == "copied"
    assert there.content.blob("app", LARGE.digest) == LARGE.data


async def test_a_source_whose_bytes_change_between_two_readings_is_found_out(
    bench: Workbench, here: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    repository = Repository.parse(f"{here.host}/app")
    descriptor = Descriptor("layer", Digest(LARGE.digest), LARGE.size)
    source = SourceBlob(bench.clients.for_repository(repository), "app", descriptor, retry_policy=QUICK)
    async with aclosing(source.read(0)) as chunks:
        first = [await anext(chunks) for _ in range(4)]
    resumed = sum(map(len, first[:2])) + 100
    damaged = bytearray(LARGE.data)
    damaged[resumed + 10] ^= 1
    here.content.put_blob("app", bytes(damaged), digest=LARGE.digest)
    async with aclosing(source.read(resumed)) as chunks:
        with pytest.raises(CopyError, match="not the same when read again"):
            async for _ in chunks:  # at the latest where the first reading ended
                pass


async def test_a_blob_can_be_read_on_from_anywhere(bench: Workbench, here: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    repository = Repository.parse(f"{here.host}/app")
    descriptor = Descriptor("layer", Digest(LARGE.digest), LARGE.size)
    source = SourceBlob(bench.clients.for_repository(repository), "app", descriptor, retry_policy=QUICK)
    for start in (0, 2 * MIB + 17, 5, LARGE.size - 1, LARGE.size):
        async with aclosing(source.read(start)) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == LARGE.data[start:]


async def test_the_source_is_opened_only_when_a_session_is(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(upload_start_status=403)
    assert await copy(bench, here, there) == "denied"
    assert here.journal.count("blob", method="GET") == 0


async def test_a_pause_the_source_asks_for_in_the_middle_is_waited_for(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.faults.add(TooMany("1"), matching=on("blob", method="GET"), times=1)
    assert await copy(bench, here, there) == "copied"


async def test_a_cancelled_copy_takes_its_sessions_back(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.change(only_blobs=frozenset({LARGE.digest}), blob_stall_after_bytes=MIB)
    task = asyncio.create_task(bench.copy(here.reference("app", "1"), there.reference("app", "1")))
    await bench.bytes_moved(MIB // 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert there.content.sessions == {}
    assert there.content.tags("app") == {}


async def test_an_empty_blob_is_proven_before_it_is_completed(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    empty = oci_image("nothing in it", layers=[Blob(b"")])
    here.load("app", empty, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"
    assert there.content.blob("app", Blob(b"").digest) == b""


@pytest.mark.parametrize("size", [0, 5])
async def test_a_blob_that_can_not_be_what_its_descriptor_says_is_never_begun(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, size: int
) -> None:
    there.change(verifies_digest=False)
    wrong = Blob(b"{}" if size else b"x", OCI_EMPTY).descriptor() | {"size": size}
    here.load("app", image_of(wrong, [], []), "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("size_mismatch" if size else "digest_mismatch", "source")
    assert there.content.repository("app").blobs == {}


async def test_the_empty_descriptor_is_not_fetched(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    thing = artifact("thing", blobs=[Blob(b"{}", OCI_EMPTY)])
    here.load("app", thing, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"
    assert here.journal.count("blob") == 0
    assert there.content.blob("app", Blob(b"{}").digest) == b"{}"


async def test_who_sends_a_blob_already_is_waited_for_and_then_mounted_from(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("one", IMAGE, "1")
    here.load("two", oci_image("also large", layers=[LARGE]), "1")
    await asyncio.gather(
        *(bench.copy(here.reference(name, "1"), there.reference(name, "1")) for name in ("one", "two"))
    )
    assert here.journal.count("blob", method="GET", reference=LARGE.digest) == 1
    assert there.content.blob("one", LARGE.digest) == there.content.blob("two", LARGE.digest) == LARGE.data
    assert asked(there)["POST upload_start"] == 4  # two configs, the layer, its mount


async def test_within_a_repository_who_waited_asks_no_more(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("app", oci_image("also large", layers=[LARGE]), "2")
    await asyncio.gather(*(bench.copy(here.reference("app", tag), there.reference("app", tag)) for tag in "12"))
    assert there.journal.count("blob", method="HEAD", reference=LARGE.digest) == 1
    assert there.journal.count("upload_start") == 3


async def test_a_session_opened_instead_of_a_mount_is_given_back_when_the_blob_is_there(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(mount="session")
    here.load("one", IMAGE, "1")
    here.load("two", IMAGE, "1")
    await bench.copy(here.reference("one", "1"), there.reference("one", "1"))
    there.content.put_blob("two", LARGE.data)
    [result] = await bench.copy(here.reference("two", "1"), there.reference("two", "1"))
    assert (result.tally.blobs_present, result.tally.blobs_transferred) == (1, 1)
    assert there.journal.count("upload_cancel") == 1


async def test_when_who_sends_a_blob_fails_the_next_one_takes_over(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("one", IMAGE, "1")
    here.load("two", oci_image("also large", layers=[LARGE]), "1")
    there.faults.add(Respond(403), matching=on("upload_start", repository="one"), times=None)
    [first], [second] = await asyncio.gather(
        *(bench.copy(here.reference(name, "1"), there.reference(name, "1")) for name in ("one", "two"))
    )
    assert first.error is not None
    assert (first.error.code, second.outcome) == ("denied", "copied")


async def test_a_blob_of_another_repository_is_mounted_and_none_is_asked_for_twice(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("one", IMAGE, "1", "2")
    here.load("two", IMAGE, "1")
    await bench.copy(here.reference("one", "1"), there.reference("one", "1"))
    mark = there.journal.mark()
    [again] = await bench.copy(here.reference("one", "2"), there.reference("one", "2"))
    assert asked(there, since=mark) == {"HEAD manifest": 1, "PUT manifest": 1}
    assert again.tally.blobs_present == 2
    mark = there.journal.mark()
    [other] = await bench.copy(here.reference("two", "1"), there.reference("two", "1"))
    assert asked(there, since=mark) == {"HEAD manifest": 1, "POST upload_start": 2, "PUT manifest": 1}
    assert other.tally.blobs_mounted == 2
    assert here.journal.count("blob", method="GET") == 2


async def test_a_registry_that_never_mounts_is_soon_not_asked_to(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(mount="session")
    names = [f"app{number}" for number in range(5)]
    for name in names:
        here.load(name, IMAGE, "1")
        [result] = await bench.copy(here.reference(name, "1"), there.reference(name, "1"))
        assert result.outcome == "copied"
    mounts = [
        entry
        for entry in there.journal.find("upload_start")
        if "mount=" in entry.query and f"from={entry.repository}" not in entry.query
    ]
    assert len(mounts) == 4  # both blobs of two images: three answers in a row were enough


async def test_what_is_known_to_be_there_and_is_not_is_sent_after_all(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1", "2")
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    there.content.repository("app").blobs.clear()
    there.content.repository("app").manifests.clear()
    there.content.repository("app").tags.clear()
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert (result.outcome, result.attempts) == ("copied", 2)
    assert there.content.blob("app", LARGE.digest) == LARGE.data


async def test_a_lost_repository_is_filled_again_with_all_that_belongs_to_an_image(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("app", artifact("first", subject=IMAGE))
    here.load("app", artifact("second", subject=IMAGE))
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    there.content.repositories.clear()
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.attempts) == ("copied", 2)
    assert len(there.content.referrers("app", IMAGE.digest)) == 2


async def test_within_one_registry_blobs_are_mounted_from_the_source(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.load("app", IMAGE, "1")
    [result] = await bench.copy(there.reference("app", "1"), there.reference("promoted", "1"))
    assert result.tally.blobs_mounted == 2
    [retagged] = await bench.copy(there.reference("app", "1"), there.reference("app", "stable"))
    assert (retagged.outcome, retagged.tally.blobs_present) == ("copied", 2)
    assert there.journal.count("blob", method="GET") == 0


async def test_a_silent_source_is_given_up(here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    here.faults.add(Stall(), matching=on("blob", method="GET"), times=None)
    attempts = 2
    road = ClientSettings(answer_seconds=0.05, retry_policy=replace(REQUEST_QUICK, attempts=attempts))
    async with workbench(here, there, settings=road) as bench:
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side, result.error.temporary) == ("timeout", "source", True)
    assert (result.attempts, here.journal.count("blob", method="GET")) == (1, 2 * attempts)


class Notebook:
    """Notes of open uploads, as a database keeps them."""

    def __init__(self) -> None:
        self.locations: dict[tuple[Repository, Digest], str] = {}
        self.left: set[tuple[Repository, Digest]] = set()
        self.puts = 0

    @property
    def notes(self) -> UploadNotes:
        return UploadNotes(self.take, self.put, self.leave, self.drop)

    async def take(self, repository: Repository, digest: Digest) -> str | None:
        return self.locations.get((repository, digest))

    async def put(self, repository: Repository, digest: Digest, location: str) -> None:
        self.puts += 1
        self.locations[repository, digest] = location

    async def leave(self, repository: Repository, digest: Digest) -> None:
        self.left.add((repository, digest))

    async def drop(self, repository: Repository, digest: Digest) -> None:
        self.locations.pop((repository, digest), None)


HUGE = blob("huge", size=MIN_NOTED_BYTES + 1)


async def leave_half_sent(bench: Workbench, there: FakeRegistry, notebook: Notebook, *names: str) -> None:
    """Send half of the blob as a process that dies then, its notes alone remaining."""
    for name in names:
        repository = Repository.parse(f"{there.host}/{name}")
        client = bench.clients.for_repository(repository, writing=True)
        session = await client.start_upload(name, Descriptor("layer", Digest(HUGE.digest), HUGE.size))
        held = next(one for one in there.content.sessions.values() if one.repository == name)
        held.data += HUGE.data[: HUGE.size // 2]
        await notebook.put(repository, Digest(HUGE.digest), session.location)


async def test_an_upload_that_another_process_left_is_gone_on_with(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", oci_image("huge", layers=[HUGE]), "1")
    notebook = Notebook()
    await leave_half_sent(bench, there, notebook, "one")
    bench.notes = notebook.notes
    results = await bench.copy(here.reference("app", "1"), there.reference("one", "1"), there.reference("two", "1"))
    assert [result.outcome for result in results] == ["copied", "copied"]
    assert there.content.blob("one", HUGE.digest) == there.content.blob("two", HUGE.digest) == HUGE.data
    sent = sum(entry.received_bytes for entry in there.journal if entry.repository == "one")
    assert sent < HUGE.size // 2 + 10_000
    assert notebook.locations == {}


async def test_an_upload_the_registry_has_forgotten_begins_anew(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", oci_image("huge", layers=[HUGE]), "1")
    notebook = Notebook()
    await leave_half_sent(bench, there, notebook, "one")
    there.content.sessions.clear()
    bench.notes = notebook.notes
    [result] = await bench.copy(here.reference("app", "1"), there.reference("one", "1"))
    assert (result.outcome, result.error) == ("copied", None)
    assert notebook.locations == {}


async def test_what_another_process_left_damaged_never_becomes_a_blob(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", oci_image("huge", layers=[HUGE]), "1")
    notebook = Notebook()
    await leave_half_sent(bench, there, notebook, "one")
    next(iter(there.content.sessions.values())).data[7] ^= 1
    bench.notes = notebook.notes
    [result] = await bench.copy(here.reference("app", "1"), there.reference("one", "1"))
    assert result.outcome == "copied"
    assert there.content.blob("one", HUGE.digest) == HUGE.data
    assert there.journal.count("upload_close", reference="session-1") == 1


async def test_small_blobs_are_not_written_down(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    notebook = Notebook()
    bench.notes = notebook.notes
    assert await copy(bench, here, there) == "copied"
    assert notebook.puts == 0


async def test_an_upload_that_was_left_is_preferred_to_one_that_a_refused_mount_opened(
    bench: Workbench, there: FakeRegistry
) -> None:
    there.change(mount="session")
    there.load("app", oci_image("huge", layers=[HUGE]), "1")
    notebook = Notebook()
    await leave_half_sent(bench, there, notebook, "one")
    bench.notes = notebook.notes
    [result] = await bench.copy(there.reference("app", "1"), there.reference("one", "1"))
    assert result.outcome == "copied"
    assert sum(entry.received_bytes for entry in there.journal if entry.repository == "one") < HUGE.size // 2 + 10_000


@pytest.mark.parametrize("left", [0, 1])
async def test_a_copy_that_is_cut_off_leaves_its_upload_to_who_goes_on_with_it(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, left: int
) -> None:
    here.load("app", oci_image("huge", layers=[HUGE]), "1")
    there.faults.add(Stall(), matching=lambda entry: entry.header("content-length") == str(HUGE.size))
    notebook = Notebook()
    bench.notes = replace(notebook.notes, will_be_resumed=lambda: left == 1)
    copying = asyncio.create_task(bench.copy(here.reference("app", "1"), there.reference("one", "1")))
    await bench.bytes_moved(1000)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert (len(there.content.sessions), len(notebook.left)) == (left, left)
    assert set(notebook.locations) == notebook.left
    there.content.sessions.clear()
