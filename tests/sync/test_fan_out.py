"""One source, several destinations: read once, written to all that lack it, each on its own account."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.report import CopyResult
from tests.support.fake_registry import FakeRegistry, Respond, Stall, fake_registry, on
from tests.support.images import blob, oci_image, oci_index
from tests.sync.workbench import QUICK, REQUEST_QUICK, ROAD, UNKNOWN_PART, Workbench, workbench

MIB = 1024 * 1024
LARGE = blob("large", size=3 * MIB)
IMAGE = oci_image("large", layers=[LARGE, blob("small")])


@pytest.fixture
async def third() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as registry:
        yield registry


async def copy_to_all(here: FakeRegistry, *destinations: FakeRegistry, attempts: int = 3) -> tuple[CopyResult, ...]:
    """Copy `app:1` of one registry to all others."""
    places = tuple(Reference.parse(registry.reference("app", "1")) for registry in destinations)
    async with workbench(here, *destinations, settings=ROAD) as bench:
        bench.retry_policy = replace(QUICK, attempts=attempts)
        return await bench.copy_planned(PlannedCopy(Reference.parse(here.reference("app", "1")), places))


async def test_each_blob_is_read_once_for_all(here: FakeRegistry, there: FakeRegistry, third: FakeRegistry) -> None:
    here.load("app", oci_index([IMAGE, oci_image("beside")]), "1")
    results = await copy_to_all(here, there, third)
    assert [result.outcome for result in results] == ["copied", "copied"]
    assert [result.tally for result in results] == [results[0].tally] * 2
    reads = [entry.reference for entry in here.journal.find("blob", method="GET")]
    assert len(reads) == len(set(reads)) == 6
    assert there.content.tags("app") == third.content.tags("app") == here.content.tags("app")
    assert there.content.blob("app", LARGE.digest) == third.content.blob("app", LARGE.digest) == LARGE.data


async def test_only_those_that_lack_a_blob_get_it(here: FakeRegistry, there: FakeRegistry, third: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    third.load("app", oci_image("other"), "other")
    third.content.put_blob("app", LARGE.data)
    results = await copy_to_all(here, there, third)
    assert [result.tally.blobs_transferred for result in results] == [3, 2]
    assert [result.tally.blobs_present for result in results] == [0, 1]
    assert third.journal.received_bytes("upload_close") < 10_000


async def test_a_destination_that_refuses_does_not_stop_the_others(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.change(upload_start_status=403)
    first, second = await copy_to_all(here, there, third)
    assert (first.outcome, second.outcome) == ("failed", "copied")
    assert first.error is not None
    assert (first.error.code, first.error.side, first.error.registry) == ("denied", "destination", there.host)
    assert third.content.tags("app") == {"1": IMAGE.digest}


async def test_a_destination_that_dies_in_the_middle_does_not_stop_the_others(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.change(upload_cut_after_bytes=MIB, upload_cut_times=None, cut_uploads="lost")
    here.change(blob_piece_bytes=16_000, blob_pause_seconds=0.001)  # so that many pieces are still to come
    first, second = await copy_to_all(here, there, third)
    assert (first.outcome, second.outcome) == ("failed", "copied")
    assert third.content.blob("app", LARGE.digest) == LARGE.data
    assert there.content.sessions == {}


async def test_a_destination_that_broke_is_brought_up_alone_from_where_it_stands(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.change(upload_cut_after_bytes=MIB)
    first, second = await copy_to_all(here, there, third, attempts=2)
    assert (first.outcome, second.outcome, first.attempts) == ("copied", "copied", 1)
    assert there.journal.count("upload_start") == third.journal.count("upload_start") == 3
    ranges = [entry.header("range") for entry in here.journal.find("blob", method="GET", reference=LARGE.digest)]
    assert len(ranges) == 2
    assert ranges[1] is not None


async def test_a_destination_that_falls_silent_is_left_behind(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Stall(), matching=on("upload_close"), times=None)
    once = replace(REQUEST_QUICK, attempts=1)
    settings = type(ROAD)(commit_seconds=0.2, idle_seconds=0.2, answer_seconds=0.5, retry_policy=once)
    places = tuple(Reference.parse(registry.reference("app", "1")) for registry in (there, third))
    async with workbench(here, there, third, settings=settings) as bench:
        bench.retry_policy = replace(QUICK, attempts=1)
        copy = PlannedCopy(Reference.parse(here.reference("app", "1")), places)
        first, second = await bench.copy_planned(copy)
    assert (first.outcome, second.outcome) == ("failed", "copied")
    assert third.content.tags("app") == {"1": IMAGE.digest}
    there.content.sessions.clear()


async def test_a_bad_source_fails_all_and_completes_nothing(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.change(only_blobs=frozenset({LARGE.digest}), blob_bytes="flipped")
    results = await copy_to_all(here, there, third)
    assert [result.error and result.error.code for result in results] == ["digest_mismatch"] * 2
    assert [result.error and result.error.side for result in results] == ["source"] * 2
    for registry in (there, third):
        assert registry.content.blob("app", LARGE.digest) is None
        assert registry.content.sessions == {}


async def test_a_source_that_breaks_fails_only_who_still_needed_it(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.load("app", IMAGE, "1")
    here.change(only_blobs=frozenset({LARGE.digest}), blob_bytes="flipped")
    first, second = await copy_to_all(here, there, third)
    assert (first.outcome, first.error, second.outcome) == ("up_to_date", None, "failed")


async def test_only_what_failed_for_a_while_is_tried_again(
    here: FakeRegistry, there: FakeRegistry, third: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(400, body=UNKNOWN_PART), matching=on("manifest", method="PUT"))
    first, second = await copy_to_all(here, there, third)
    assert (first.outcome, first.attempts) == ("copied", 2)
    assert (second.outcome, second.attempts) == ("copied", 1)
    assert third.journal.count("manifest", method="HEAD") == 1


async def test_two_tags_of_one_repository_get_each_blob_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    results = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), there.reference("app", "2"))
    assert [result.outcome for result in results] == ["copied", "copied"]
    assert there.journal.count("upload_close", method="PUT") == 3
    assert sum(result.tally.blobs_transferred for result in results) == 3
    assert there.content.tags("app") == {"1": IMAGE.digest, "2": IMAGE.digest}
