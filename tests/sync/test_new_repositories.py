"""A repository without a list of tags: new, or one that holds blobs all the same."""

import asyncio
from typing import Any

import pytest

from app.sync.known_blobs import KnownBlobs
from tests.support.fake_registry import Call, Entry, FakeRegistry, Respond, on
from tests.support.images import Manifest, blob, oci_image
from tests.sync.workbench import Workbench, asked

LAYERS = [blob(f"layer {number}", size=10_000 + number) for number in range(8)]
"""The last is the largest."""
IMAGE = oci_image("app", layers=LAYERS)
K = len(IMAGE.blobs)
NEW = {"GET tags": 1, "HEAD blob": 2, "HEAD manifest": 1, "PUT manifest": 1, "PUT upload_close": K}


def heads(registry: FakeRegistry) -> list[str]:
    """List the blobs that were asked for."""
    return [entry.reference for entry in registry.journal.find("blob", method="HEAD")]


@pytest.mark.parametrize("left", [IMAGE.blobs, LAYERS[:1], LAYERS[-1:]])
async def test_what_a_process_sent_before_it_was_killed_is_not_sent_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, left: list[Any]
) -> None:
    here.load("app", IMAGE, "1")
    for one in left:
        there.content.put_blob("app", one.data)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"
    assert (result.tally.blobs_present, result.tally.blobs_transferred) == (len(left), K - len(left))
    assert sorted(heads(there)) == sorted(one.digest for one in IMAGE.blobs)


async def test_images_copied_by_digest_alone_share_their_layers(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    sent = []
    for number in range(3):
        image = oci_image(f"{number}", layers=[*LAYERS, blob(f"top {number}", size=50_000)])
        here.load("app", image)
        bench.known = KnownBlobs()  # of a process that was started anew
        [result] = await bench.copy(here.reference("app", image.digest), there.reference("app", image.digest))
        assert result.outcome == "copied"
        sent.append(result.tally.blobs_transferred)
    assert sent == [len(LAYERS) + 2, 2, 2]


@pytest.mark.parametrize(
    ("image", "chosen"),
    [
        (IMAGE, {LAYERS[-1].digest, LAYERS[0].digest}),
        (oci_image("app", layers=LAYERS[::-1]), {LAYERS[-1].digest, LAYERS[-2].digest}),
    ],
    ids=["the largest and the first", "the first is the largest"],
)
async def test_a_new_repository_is_asked_for_two_blobs(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, image: Manifest, chosen: set[str]
) -> None:
    here.load("app", image, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.tally.blobs_transferred == K
    assert set(heads(there)) == chosen
    found = asked(there)
    assert found.pop("POST upload_start") == K + 1  # after eight, whether it answers by a mount is tried
    assert found == NEW


async def test_it_is_asked_for_tags_and_blobs_side_by_side(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    all_three = asyncio.Barrier(3)

    async def meet(_: Entry) -> None:
        await all_three.wait()

    there.faults.add(Call(meet), matching=on("tags", "blob"), times=None)
    async with asyncio.timeout(60):
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"


async def test_several_new_repositories_are_asked_for_once_each(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    names = ("one", "two")
    for name in names:
        for tag in ("1", "2"):
            image = oci_image(f"{name} {tag}", layers=[blob(f"{name} {tag} {number}") for number in range(4)])
            here.load(name, image, tag)
    copies = (bench.copy(here.reference(name, tag), there.reference(name, tag)) for name in names for tag in ("1", "2"))
    for [result] in await asyncio.gather(*copies):
        assert result.outcome == "copied"
    for name in names:
        assert there.journal.count("tags", repository=name) == 1
        assert there.journal.count("blob", method="HEAD", repository=name) == 2


async def test_a_repository_with_tags_is_asked_for_each_blob_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.load("app", oci_image("older", layers=LAYERS[2:]), "0")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.tally.blobs_present, result.tally.blobs_transferred) == (len(LAYERS) - 2, 3)
    assert sorted(heads(there)) == sorted(one.digest for one in IMAGE.blobs)


@pytest.mark.parametrize(("status", "asked_for"), [(403, 2), (503, K)])
async def test_a_blob_that_is_not_told_of_is_no_proof_where_that_may_pass(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, status: int, asked_for: int
) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(status), matching=on("blob", reference=LAYERS[-1].digest), times=None)
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert len(set(heads(there))) == asked_for


async def test_a_blob_of_another_length_shows_that_a_repository_is_there(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.content.put_blob("app", LAYERS[0].data)
    there.content.put_blob("app", b"cut off", digest=LAYERS[-1].digest)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.tally.blobs_present) == ("copied", 1)
    assert there.content.blob("app", LAYERS[-1].digest) == LAYERS[-1].data
