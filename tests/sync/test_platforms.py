"""A choice of platforms: children left out of an index that stays, or of one made for it."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from app.domain.manifest import Platform
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.report import CopyResult
from app.domain.request import PlatformMode
from tests.conftest import Namespace
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.images import Manifest, oci_image, oci_index
from tests.sync.workbench import Workbench, asked, workbench
from tests.sync.zoo import with_attestation, without_platform

AMD, ARM = oci_image("x", platform="linux/amd64"), oci_image("x", platform="linux/arm64/v8")
INDEX = oci_index([AMD, ARM, oci_image("x", platform="windows/amd64")], annotations={"made": "with care ✓"})
Mode = Callable[..., object]


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    async with fake_registry(Quirks(sparse_allowed=True)) as registry:
        yield registry
        registry.check(sparse=True)


async def choose(
    bench: Workbench, here: FakeRegistry | Namespace, there: FakeRegistry | Namespace, *platforms: str, mode: str
) -> CopyResult:
    """Copy some platforms of `app:1`."""
    copy = PlannedCopy(
        Reference.parse(here.reference("app", "1")),
        (Reference.parse(there.reference("app", "1")),),
        tuple(Platform.parse(text) for text in platforms),
        "rewrite" if mode == "rewrite" else "sparse",
    )
    [result] = await bench.copy_planned(copy)
    return result


async def test_a_sparse_copy_keeps_the_index_and_brings_the_chosen_children(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    result = await choose(bench, here, there, "linux/amd64", "linux/arm64", mode="sparse")
    assert (result.outcome, result.platforms) == ("copied", ("linux/amd64", "linux/arm64/v8"))
    assert result.digest == result.destination_digest == INDEX.digest
    assert set(there.content.repository("app").manifests) == {INDEX.digest, AMD.digest, ARM.digest}


async def test_a_rewritten_index_has_only_the_chosen_children_and_both_digests_are_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    there.change(sparse_allowed=False)
    result = await choose(bench, here, there, "linux/arm64", mode="rewrite")
    assert result.outcome == "copied"
    assert result.digest == INDEX.digest
    tag = there.content.tags("app")["1"]
    assert result.destination_digest == tag != INDEX.digest
    made = there.content.manifest("app", tag)
    assert made is not None
    expected = json.loads(INDEX.raw)
    expected["manifests"] = [entry for entry in expected["manifests"] if entry["digest"] == ARM.digest]
    assert json.loads(made.raw) == expected
    assert set(there.content.repository("app").manifests) == {tag, ARM.digest}


async def test_a_rewritten_index_is_up_to_date_the_second_time(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    first = await choose(bench, here, there, "linux/amd64", mode="rewrite")
    mark = there.journal.mark()
    second = await choose(bench, here, there, "linux/amd64", mode="rewrite")
    assert (second.outcome, second.digest, second.destination_digest) == (
        "up_to_date",
        INDEX.digest,
        first.destination_digest,
    )
    assert asked(there, since=mark) == {"HEAD manifest": 1}


@pytest.mark.parametrize("mode", ["rewrite", "single"])
async def test_what_is_made_of_an_index_that_is_named_by_its_digest_is_up_to_date_the_second_time(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, mode: PlatformMode
) -> None:
    here.load("app", INDEX, "1")
    source, place = (Reference.parse(f"{side.host}/app@{INDEX.digest}") for side in (here, there))
    copy = PlannedCopy(source, (place,), (Platform.parse("linux/amd64"),), mode)
    [first] = await bench.copy_planned(copy)
    [second] = await bench.copy_planned(copy)
    assert (first.outcome, second.outcome) == ("copied", "up_to_date")
    assert first.destination_digest == second.destination_digest != INDEX.digest
    assert there.journal.count("manifest", method="PUT") == len(there.content.repository("app").manifests)


async def test_nested_indexes_are_rewritten_too(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    there.change(sparse_allowed=False)
    inner = oci_index([AMD, ARM])
    outer = oci_index([inner, oci_index([oci_image("only", platform="windows/amd64")]), AMD])
    here.load("app", outer, "1")
    result = await choose(bench, here, there, "linux/arm64", mode="rewrite")
    assert result.outcome == "copied"
    held = there.content.repository("app").manifests
    made = held[there.content.tags("app")["1"]]
    [entry] = json.loads(made.raw)["manifests"]
    assert entry["digest"] not in {inner.digest, ARM.digest}
    assert held[entry["digest"]].children() == [ARM.digest]
    assert entry["size"] == len(held[entry["digest"]].raw)


NESTED = oci_index([oci_index([AMD, ARM]), oci_image("apart", platform="linux/arm/v7")])


@pytest.mark.parametrize("mode", ["sparse", "rewrite"])
async def test_a_platform_that_no_index_below_has_is_told_of_nested_ones_too(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, mode: str
) -> None:
    here.load("app", NESTED, "1")
    some = await choose(bench, here, there, "linux/amd64", "linux/s390x", mode=mode)
    assert (some.outcome, some.platforms) == ("copied", ("linux/amd64",))
    [warning] = some.warnings
    assert warning.first == (f"{here.reference('app', '1')} (linux/s390x)",)
    again = await choose(bench, here, there, "linux/amd64", "linux/s390x", mode=mode)
    assert (again.outcome, again.warnings) == ("up_to_date", some.warnings)


@pytest.mark.parametrize("outer", [INDEX, oci_index([oci_index([AMD]), oci_index([ARM])])], ids=["flat", "nested"])
async def test_a_platform_that_is_missing_is_told_with_each_run_of_a_rewritten_index(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, outer: Manifest
) -> None:
    here.load("app", outer, "1")
    first, second = [await choose(bench, here, there, "linux/amd64", "linux/s390x", mode="rewrite") for _ in range(2)]
    assert (first.outcome, second.outcome) == ("copied", "up_to_date")
    assert [warning.code for warning in first.warnings] == ["platform_missing"]
    assert second.warnings == first.warnings


@pytest.mark.parametrize("is_nested", [False, True])
async def test_several_images_for_a_single_one_are_told_at_any_depth(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, is_nested: bool
) -> None:
    six, seven = (oci_image("x", platform=f"linux/arm/v{number}") for number in (6, 7))
    here.load("app", oci_index([six, oci_index([seven]) if is_nested else seven]), "1")
    places = Reference.parse(here.reference("app", "1")), (Reference.parse(there.reference("app", "1")),)
    [several] = await bench.copy_planned(PlannedCopy(*places, (Platform.parse("linux/arm"),), "single"))
    assert several.error is not None
    assert several.error.code == "platform_mismatch"
    assert "linux/arm/v6, linux/arm/v7" in several.error.message
    [one] = await bench.copy_planned(PlannedCopy(*places, (Platform.parse("linux/arm/v7"),), "single"))
    assert (one.outcome, one.destination_digest) == ("copied", seven.digest)


async def test_an_index_that_is_listed_many_times_at_each_depth_is_made_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    index = oci_index([AMD, ARM])
    here.load("app", index)
    for _ in range(5):
        index = oci_index([replace(index, children=())] * 200)
        here.load("app", replace(index, children=()), "1")
    result = await choose(bench, here, there, "linux/amd64", mode="rewrite")
    assert (result.outcome, len(there.content.repository("app").manifests)) == ("copied", 7)


async def test_a_refusal_of_a_nested_index_without_children_says_what_helps(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(sparse_allowed=False)
    here.load("app", oci_index([oci_index([AMD, ARM])]), "1")
    refused = await choose(bench, here, there, "linux/amd64", mode="sparse")
    assert refused.error is not None
    assert refused.error.code == "manifest_rejected"
    assert "use platform_mode rewrite" in refused.error.message


async def test_what_was_left_out_of_a_nested_index_comes_when_it_is_wanted(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    outer = oci_index([oci_index([AMD, ARM])])
    here.load("app", outer, "1")
    await choose(bench, here, there, "linux/amd64", mode="sparse")
    assert ARM.digest not in there.content.repository("app").manifests
    [whole] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (whole.outcome, whole.action) == ("copied", "update")
    assert ARM.digest in there.content.repository("app").manifests
    [again] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert again.outcome == "up_to_date"


async def test_a_registry_that_refuses_nested_indexes_without_children_gets_smaller_ones(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(sparse_allowed=False)
    here.load("app", NESTED, "1")
    copy = PlannedCopy(
        Reference.parse(here.reference("app", "1")),
        (Reference.parse(there.reference("app", "1")),),
        (Platform.parse("linux/amd64"),),
    )
    [result] = await bench.copy_planned(copy)
    assert (result.outcome, result.reason, result.platforms) == ("copied", "index_rewritten", ("linux/amd64",))
    [again] = await bench.copy_planned(copy)
    assert (again.outcome, again.attempts) == ("up_to_date", 1)


@pytest.mark.parametrize("mode", ["sparse", "rewrite"])
async def test_an_attestation_goes_with_its_image(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, mode: str
) -> None:
    index = with_attestation()
    here.load("app", index, "1")
    result = await choose(bench, here, there, "linux/amd64", mode=mode)
    assert (result.outcome, result.platforms) == ("copied", ("linux/amd64",))
    image, statement = index.children[0], index.children[2]
    held = set(there.content.repository("app").manifests)
    assert held == {there.content.tags("app")["1"], image.digest, statement.digest}


@pytest.mark.parametrize("mode", ["sparse", "rewrite"])
async def test_entries_without_a_platform_are_never_left_out(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, mode: str
) -> None:
    index = without_platform()
    here.load("app", index, "1")
    result = await choose(bench, here, there, "linux/arm64", mode=mode)
    assert (result.outcome, result.destination_digest) == ("copied", index.digest)
    assert len(there.content.repository("app").manifests) == 3


@pytest.mark.parametrize("mode", ["sparse", "rewrite"])
async def test_a_single_image_is_copied_whatever_it_runs_on(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, mode: str
) -> None:
    here.load("app", AMD, "1")
    result = await choose(bench, here, there, "linux/arm64", mode=mode)
    assert (result.outcome, result.destination_digest) == ("copied", AMD.digest)


@pytest.mark.parametrize("mode", ["sparse", "rewrite"])
@pytest.mark.parametrize(
    ("index", "has"),
    [(INDEX, "linux/amd64, linux/arm64/v8, windows/amd64"), (NESTED, "linux/amd64, linux/arm/v7, linux/arm64/v8")],
    ids=["flat", "nested"],
)
async def test_an_index_with_none_of_them_fails_and_says_what_it_has(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, index: Manifest, has: str, mode: str
) -> None:
    here.load("app", index, "1")
    result = await choose(bench, here, there, "linux/s390x", mode=mode)
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("reference_not_found", "source")
    assert f"linux/s390x; it has {has}" in result.error.message
    assert "app" not in there.content.repositories or not there.content.tags("app")


async def test_another_choice_brings_what_was_left_out_before(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    await choose(bench, here, there, "linux/amd64", mode="sparse")
    again = await choose(bench, here, there, "linux/amd64", mode="sparse")
    more = await choose(bench, here, there, "linux/arm64", mode="sparse")
    whole = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (again.outcome, more.outcome, whole[0].outcome) == ("up_to_date", "copied", "copied")
    assert len(there.content.repository("app").manifests) == 4
    assert here.journal.count("manifest", method="GET", reference=AMD.digest) == 1


async def test_a_destination_that_refuses_sparse_indexes_is_told_of_the_other_mode(
    source: Namespace, destination: Namespace
) -> None:
    source.push("app", INDEX, "1")
    async with workbench(source, destination) as bench:
        refused = await choose(bench, source, destination, "linux/amd64", mode="sparse")
        taken = await choose(bench, source, destination, "linux/amd64", mode="rewrite")
    assert refused.error is not None
    assert (refused.error.code, refused.error.side) == ("manifest_rejected", "destination")
    assert "platform_mode rewrite" in refused.error.message
    assert refused.attempts == 1
    assert (taken.outcome, taken.error) == ("copied", None)
    assert destination.tags("app") == {"1": taken.destination_digest}


@pytest.mark.parametrize("mode", ["sparse", "rewrite"])
async def test_a_platform_that_an_image_has_not_got_is_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, mode: str
) -> None:
    here.load("app", INDEX, "1")
    result = await choose(bench, here, there, "linux/amd64", "linux/s390x", mode=mode)
    assert result.outcome == "copied"
    [warning] = result.warnings
    assert (warning.code, warning.first) == ("platform_missing", (f"{here.reference('app', '1')} (linux/s390x)",))
    again = await choose(bench, here, there, "linux/amd64", "linux/s390x", mode=mode)
    assert (again.outcome, again.warnings) == ("up_to_date", result.warnings), "and not only the first time"


@pytest.mark.parametrize(
    ("is_for", "asked", "reason"),
    [
        ("linux/arm64", "linux/amd64", "platform_mismatch"),
        ("linux/arm/v6", "linux/arm/v7", "platform_mismatch"),
        ("linux/amd64", "linux/amd64", None),
        ("linux/arm64/v8", "linux/arm64", None),
    ],
)
async def test_a_single_image_for_another_platform_is_copied_and_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, is_for: str, asked: str, reason: str | None
) -> None:
    here.load("app", oci_image("single", platform=is_for), "1")
    result = await choose(bench, here, there, asked, mode="sparse")
    assert (result.outcome, result.reason, result.platforms) == ("copied", reason, (is_for,))
    told = [("platform_missing", (f"{here.reference('app', '1')} (it is {is_for})",))] if reason else []
    assert [(warning.code, warning.first) for warning in result.warnings] == told


async def test_nothing_is_missing_where_entries_do_not_say_what_they_are_for(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", without_platform(), "1")
    result = await choose(bench, here, there, "linux/amd64", mode="sparse")
    assert (result.outcome, result.warnings) == ("copied", ())
