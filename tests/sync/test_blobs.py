"""Mounts from a repository itself as the question whether a blob is there, and registries that answer it otherwise."""

import asyncio

from app.domain.reference import Digest, Reference, Registry
from app.sync.known_blobs import ABSENCES_BEFORE_TRYING, MOUNTS_SECONDS, NEW_SECONDS, KnownBlobs
from tests.support.fake_registry import FakeRegistry
from tests.support.images import Manifest, blob, oci_image
from tests.sync.workbench import Workbench, asked


def image(name: str, *, layers: int = 4) -> Manifest:
    """Make an image with layers of its own."""
    return oci_image(name, layers=[blob(f"{name} {number}") for number in range(layers)])


async def learn(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> Registry:
    """Copy so much to a repository with tags that it is known how the registry answers mounts."""
    there.load("app", image("older"), "older")
    here.load("app", image("first", layers=2 * ABSENCES_BEFORE_TRYING), "first")
    [result] = await bench.copy(here.reference("app", "first"), there.reference("app", "first"))
    assert result.outcome == "copied"
    registry = Registry(there.host)
    assert bench.known.answers_by_mount(registry) is True
    return registry


async def test_a_registry_that_answers_mounts_no_more_is_asked_by_head_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    now = 0.0
    bench.known = KnownBlobs(clock=lambda: now)
    await learn(bench, here, there)
    there.change(mount="session")
    now = MOUNTS_SECONDS
    wanted = image("app")
    here.load("app", wanted, "1")
    for one in wanted.blobs:
        there.content.put_blob("app", one.data)
    mark = there.journal.mark()
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.tally.blobs_present) == ("copied", len(wanted.blobs))
    assert asked(there, since=mark) == {"HEAD manifest": 1, "HEAD blob": len(wanted.blobs), "PUT manifest": 1}


async def test_a_registry_that_answers_mounts_is_found_out_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    now = 0.0
    bench.known = KnownBlobs(clock=lambda: now)
    await learn(bench, here, there)
    now = MOUNTS_SECONDS
    here.load("app", image("second", layers=ABSENCES_BEFORE_TRYING), "2")
    mark = there.journal.mark()
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert result.outcome == "copied"
    assert there.journal.count("blob", method="HEAD", since=mark) == ABSENCES_BEFORE_TRYING + 1
    assert bench.known.answers_by_mount(Registry(there.host)) is True


async def test_an_image_arrives_though_a_mount_found_blobs_that_are_not_there(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    registry = await learn(bench, here, there)
    there.change(mount="claimed")
    wanted = image("app")
    here.load("app", wanted, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.error, result.attempts) == ("copied", None, 2)
    assert bench.known.answers_by_mount(registry) is False
    assert there.content.blob("app", wanted.blobs[-1].digest) == wanted.blobs[-1].data
    here.load("app", image("next"), "2")
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert (result.outcome, result.attempts) == ("copied", 1)


async def test_images_that_are_copied_at_once_arrive_all(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    await learn(bench, here, there)
    there.change(mount="claimed")
    shared = [blob(f"shared {number}") for number in range(3)]
    tags = [str(number) for number in range(4)]
    for tag in tags:
        here.load("app", oci_image(tag, layers=[*shared, blob(tag)]), tag)
    copies = (bench.copy(here.reference("app", tag), there.reference("app", tag)) for tag in tags)
    for [result] in await asyncio.gather(*copies):
        assert (result.outcome, result.error) == ("copied", None)


async def test_a_blob_that_another_process_found_by_a_mount_costs_an_attempt_more(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    await learn(bench, here, there)
    there.change(mount="claimed")
    wanted = image("app")
    here.load("app", wanted, "1")
    destination = there.reference("app", "1")
    repository = Reference.parse(destination).repository
    bench.known.add(repository, Digest(wanted.blobs[0].digest))  # the repository was seen just now
    for one in wanted.blobs:
        bench.known.take_over(repository, Digest(one.digest), is_there=True)
    [result] = await bench.copy(here.reference("app", "1"), destination)
    assert (result.outcome, result.error, result.attempts) == ("copied", None, 3)


async def test_a_blob_that_was_collected_says_nothing_of_mounts(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    registry = await learn(bench, here, there)
    wanted = image("app")
    here.load("app", wanted, "1", "2")
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    held = there.content.repository("app")
    held.blobs.clear()
    held.manifests.clear()
    held.tags.clear()
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert (result.outcome, result.attempts) == ("copied", 2)
    assert bench.known.answers_by_mount(registry) is True


async def test_a_repository_that_can_not_be_mounted_from_yet_is_made_by_an_upload(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    await learn(bench, here, there)
    there.change(mount="refused", mount_refused_status=404)
    wanted = image("new")
    here.load("new", wanted, "1")
    mark = there.journal.mark()
    [result] = await bench.copy(here.reference("new", "1"), there.reference("new", "1"))
    assert (result.outcome, result.error, result.attempts) == ("copied", None, 1)
    assert there.journal.count("upload_start", status=404, since=mark) == len(wanted.blobs)


async def test_a_repository_that_is_new_is_not_asked_by_mounts(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    now = 0.0
    bench.known = KnownBlobs(clock=lambda: now)
    starts = []
    for number, passed in enumerate((0.0, NEW_SECONDS - 1, NEW_SECONDS)):
        now = passed
        wanted = image(f"{number}")
        here.load("new", wanted, f"{number}")
        mark = there.journal.mark()
        [result] = await bench.copy(here.reference("new", f"{number}"), there.reference("new", f"{number}"))
        assert result.tally.blobs_transferred == len(wanted.blobs)
        starts.append(["mount=" in entry.query for entry in there.journal.find("upload_start", since=mark)])
        bench.known.note_answers_by_mount(Registry(there.host), does=True)
    assert starts == [[False] * 5, [False] * 5, [True] * 5]
