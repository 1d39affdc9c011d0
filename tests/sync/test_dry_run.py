"""What a dry run says a copy would do; it writes nothing."""

from collections.abc import AsyncIterator, Mapping
from typing import Literal

import pytest

from app.domain.reference import Digest, Reference
from app.domain.report import Tally
from app.sync.dry_run import DryRun
from app.sync.known_blobs import KnownBlobs
from tests.support.fake_registry import FakeRegistry, Respond, on
from tests.support.images import DOCKER_FOREIGN_LAYER, Manifest, artifact, blob, docker_image, oci_image, oci_index
from tests.sync.workbench import Workbench, asked, workbench

IMAGE = oci_image("one")


@pytest.fixture
async def bench(here: FakeRegistry, there: FakeRegistry) -> AsyncIterator[Workbench]:
    async with workbench(here, there) as bench:
        bench.dry_run = DryRun()
        yield bench


@pytest.mark.parametrize(
    ("held", "options", "action", "reason"),
    [
        (None, {}, "copy", None),
        (IMAGE, {}, "up_to_date", None),
        (oci_index([IMAGE]), {}, "update", None),
        (oci_index([IMAGE]), {"overwrite": "never"}, "up_to_date", "exists_different_digest"),
        (oci_index([IMAGE]), {"overwrite": "fail"}, "refused", None),
    ],
)
async def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    held: Manifest | None,
    options: dict[str, object],
    action: Literal["copy", "update", "up_to_date", "refused"],
    reason: str | None,
) -> None:
    here.load("app", IMAGE, "1")
    if held is not None:
        there.load("app", held, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), companions="never", **options)
    assert (result.action, result.digest, result.previous_digest) == (
        action,
        IMAGE.digest,
        held.digest if held else None,
    )
    if action == "refused":
        assert result.error is not None
        assert result.error.code == "tag_immutable"
    else:
        assert (result.error, result.reason) == (None, reason)
    assert result.tally.blobs_transferred == result.tally.bytes_transferred == 0
    assert {what for what in asked(there) if not what.startswith(("GET", "HEAD"))} == set()
    assert there.content.tags("app") == ({"1": held.digest} if held else {})


async def test_what_an_earlier_copy_would_have_brought_is_not_sent_twice(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1", "2")
    first, second = [
        (await bench.copy(here.reference("app", tag), there.reference("app", tag)))[0].tally for tag in "12"
    ]
    assert (first.bytes_total, first.bytes_done) == (sum(part.size for part in IMAGE.blobs), 0)
    assert second.bytes_done == second.bytes_total


@pytest.mark.parametrize("is_forced", [True, False])
async def test_a_layer_that_no_repository_has_any_more_is_to_be_sent(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, is_forced: bool
) -> None:
    """Whatever is remembered of it: by this process, or only by earlier jobs."""
    lost = IMAGE.blobs[-1]
    here.load("app", IMAGE, "1")
    bench.dry_run = None
    repositories = ["one", "two"]
    places = [there.reference(name, "1") for name in repositories]
    for place in places:
        await bench.copy(here.reference("app", "1"), place)
    for name in repositories:
        del there.content.repository(name).blobs[lost.digest]
    if not is_forced:
        bench.known = KnownBlobs()
        bench.known.seed([(Reference.parse(place).repository, Digest(lost.digest)) for place in places])
        places, repositories = [there.reference("three", "1")], ["three"]

    async def tallies() -> list[Tally]:
        copies = [await bench.copy(here.reference("app", "1"), place, force=is_forced) for place in places]
        return [result.tally for results in copies for result in results]

    bench.dry_run = DryRun()
    to_send = sum(tally.bytes_total - tally.bytes_done for tally in await tallies())
    bench.dry_run = None
    assert to_send == sum(tally.bytes_transferred for tally in await tallies()) >= lost.size
    assert is_forced is (to_send == lost.size), "the other repository mounts it from the first"
    assert [there.content.blob(name, lost.digest) for name in repositories] == [lost.data] * len(repositories)


async def test_who_may_not_look_where_a_mount_would_come_from_sends(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.load("closed", IMAGE, "1")
    closed = Reference.parse(there.reference("closed", "1")).repository
    bench.known.seed([(closed, Digest(part.digest)) for part in IMAGE.blobs])
    there.faults.add(Respond(403), matching=on("blob", repository="closed"), times=None)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.error, result.tally.bytes_done) == (None, 0)


async def test_what_is_not_there_is_said(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.action, result.error.code, result.error.side) == ("failed", "reference_not_found", "source")


async def test_a_destination_that_cant_be_asked_is_no_matter_of_the_other(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(401), matching=on("manifest", repository="closed"), times=None)
    results = await bench.copy(here.reference("app", "1"), *(there.reference(name, "1") for name in ("closed", "open")))
    assert [(result.action, result.error.code if result.error else None) for result in results] == [
        ("failed", "unauthorized"),
        ("copy", None),
    ]


async def test_a_layer_that_images_of_two_workers_share_is_sent_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    shared, own = blob("shared", size=5_000), [blob(f"own {number}", size=100) for number in range(2)]
    images = [oci_image(f"image {number}", layers=[shared, own[number]]) for number in range(2)]
    for number, image in enumerate(images):
        here.load(f"app-{number}", image, "1")
    owners: dict[bytes, bytes] = {}

    async def claim(wanted: Mapping[bytes, bytes]) -> frozenset[bytes]:
        return frozenset(key for key, owner in wanted.items() if owners.setdefault(key, owner) == owner)

    async def to_send(number: int) -> int:
        bench.known, bench.dry_run = KnownBlobs(), DryRun("plan", claim=claim)
        name = f"app-{number}"
        [result] = await bench.copy(here.reference(name, "1"), there.reference(name, "1"), companions="never")
        return result.tally.bytes_total - result.tally.bytes_done

    alone = [sum(part.size for part in image.blobs) for image in images]
    assert [await to_send(0), await to_send(1)] == [alone[0], alone[1] - shared.size]
    assert await to_send(0) == alone[0], "the same image again, after its worker died, counts as it did"


async def test_a_foreign_layer_counts_by_its_size_and_its_url_is_not_asked(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    url = f"http://{here.host}/foreign/layer"
    image = docker_image("w", layers=[blob("away", size=7_000, media_type=DOCKER_FOREIGN_LAYER, urls=[url])])
    here.load("app", image, "1")
    for handling, expected in (("skip", 0), ("copy", 7_000)):
        bench.dry_run = DryRun()
        [result] = await bench.copy(
            here.reference("app", "1"), there.reference("app", handling), companions="never", foreign_layers=handling
        )
        left = result.tally.bytes_total - result.tally.bytes_done
        assert (result.action, left - image.blobs[0].size) == ("copy", expected)
    assert not [call for call in here.journal if "foreign" in call.path]


@pytest.mark.parametrize("is_shared", [True, False])
async def test_an_image_that_is_looked_at_again_counts_what_it_counted_the_first_time(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, is_shared: bool
) -> None:
    owners: dict[bytes, bytes] = {}

    async def claim(wanted: Mapping[bytes, bytes]) -> frozenset[bytes]:
        return frozenset(key for key, owner in wanted.items() if owners.setdefault(key, owner) == owner)

    async def counted() -> list[tuple[int, int]]:
        results = await bench.copy(here.reference("app", "1"), *places)
        assert {result.error for result in results} == {None}
        return [(result.tally.bytes_total, result.tally.bytes_done) for result in results]

    places = [there.reference(path, tag) for path in ("one", "two") for tag in "12"]
    shared = blob("shared")
    first, last = oci_image("first", layers=[shared, blob("first")]), oci_image("last", layers=[shared, blob("last")])
    here.load("app", oci_index([first, last, artifact("sbom", subject=first)]), "1")
    here.load("other", oci_image("other", layers=[shared, blob("other")]), "1")
    bench.dry_run = DryRun("plan")
    whole = await counted()

    bench.dry_run = DryRun("plan", claim=claim if is_shared else None)
    here.faults.add(Respond(500), matching=on("manifest", method="GET", reference=last.digest), times=None)
    assert {result.outcome for result in await bench.copy(here.reference("app", "1"), *places)} == {"failed"}
    here.faults.clear()
    assert await counted() == whole
    # What it brings is there for others, and it brings no less the third time.
    [other] = await bench.copy(here.reference("other", "1"), there.reference("one", "other"))
    assert other.tally.bytes_done == shared.size
    assert await counted() == whole
