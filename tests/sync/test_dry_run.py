"""What a dry run says a copy would do; it writes nothing."""

from collections.abc import AsyncIterator
from typing import Literal

import pytest

from app.sync.dry_run import DryRun
from tests.support.fake_registry import FakeRegistry, Respond, on
from tests.support.images import Manifest, oci_image, oci_index
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
