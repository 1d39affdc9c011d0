"""Comparing by page: what a registry's list of digests saves, and what is done where it is wrong."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from app.domain.reference import Reference
from app.domain.registry import RegistryEntry
from app.sync.compare import MissingTags
from app.sync.copier import Attempt
from app.sync.known_blobs import KnownBlobs
from tests.support.fake_registry import FakeRegistry, Respond, on
from tests.support.images import Manifest, oci_image
from tests.sync.workbench import Workbench, asked, workbench

IMAGE, OTHER = oci_image("image"), oci_image("other")
TAGS = [f"v{number:04}" for number in range(250)]
TYPES = ["acr", "docker_hub", "gitlab", "harbor", "quay"]


def entry(name: str, registry: FakeRegistry, type_: str) -> RegistryEntry:
    fields = {"name": name, "host": registry.host, "insecure": True, "type": type_}
    return RegistryEntry.model_validate(fields)


@asynccontextmanager
async def benched(
    here: FakeRegistry, there: FakeRegistry, *, source: str = "generic", destination: str = "generic"
) -> AsyncIterator[Workbench]:
    """Enter both registries with their types, each with the list of its type."""
    for registry, type_ in ((here, source), (there, destination)):
        registry.change(digest_list="none" if type_ == "generic" else type_)
        registry.load("team/app", IMAGE, *TAGS)
    entries = (entry("here", here, source), entry("there", there, destination))
    async with workbench(entries=entries) as bench:
        yield bench


async def sync(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> list[str]:
    bench.known = KnownBlobs()
    results = await bench.sync(f"{here.host}/team/app", f"{there.host}/team/app", companions="on_change")
    assert [result.error for result in results] == [None] * len(TAGS)
    return [result.outcome for result in results]


@pytest.mark.parametrize("type_", TYPES)
async def test_unchanged_tags_are_compared_by_page_at_the_source(
    here: FakeRegistry, there: FakeRegistry, type_: str
) -> None:
    async with benched(here, there, source=type_) as bench:
        assert set(await sync(bench, here, there)) == {"up_to_date"}
    assert here.journal.count("manifest") == 1
    assert here.journal.count("api") == (1 if type_ in {"acr", "gitlab"} else 3)
    assert there.journal.count("manifest", method="HEAD") == len(TAGS)


@pytest.mark.parametrize("type_", ["acr", "harbor"])
async def test_unchanged_tags_are_compared_by_page_at_the_destination(
    here: FakeRegistry, there: FakeRegistry, type_: str
) -> None:
    async with benched(here, there, destination=type_) as bench:
        assert set(await sync(bench, here, there)) == {"up_to_date"}
    assert there.journal.count("manifest") == 1
    assert here.journal.count("manifest", method="HEAD") == len(TAGS)


@pytest.mark.parametrize("type_", ["acr", "harbor"])
async def test_a_thousand_unchanged_tags_cost_twelve_requests_at_most(
    here: FakeRegistry, there: FakeRegistry, type_: str
) -> None:
    tags = [f"n{number:04}" for number in range(1000 - len(TAGS))]
    async with benched(here, there, source=type_, destination=type_) as bench:
        for registry in (here, there):
            registry.load("team/app", IMAGE, *tags)
        results = await bench.sync(f"{here.host}/team/app", f"{there.host}/team/app", companions="on_change")
    assert [result.outcome for result in results] == ["up_to_date"] * 1000
    for registry in (here, there):
        assert sum(asked(registry).values()) <= 12


async def test_google_tells_digests_beside_its_tags(here: FakeRegistry, there: FakeRegistry) -> None:
    async with benched(here, there, source="gar") as bench:
        here.change(digest_list="none", tags_extra_fields=True)
        assert set(await sync(bench, here, there)) == {"up_to_date"}
    assert here.journal.count("manifest") == 1


@pytest.mark.parametrize(("source", "destination"), [("harbor", "generic"), ("generic", "harbor"), ("acr", "acr")])
async def test_what_differs_is_asked_for_by_head_and_copied(
    here: FakeRegistry, there: FakeRegistry, source: str, destination: str
) -> None:
    async with benched(here, there, source=source, destination=destination) as bench:
        here.load("team/app", OTHER, TAGS[100])
        outcomes = await sync(bench, here, there)
    assert outcomes.count("copied") == 1
    assert there.content.tags("team/app")[TAGS[100]] == OTHER.digest


@pytest.mark.parametrize("lies", [1, 3, len(TAGS)])
async def test_a_list_that_lies_is_found_out_and_reported(here: FakeRegistry, there: FakeRegistry, lies: int) -> None:
    async with benched(here, there, source="harbor") as bench:
        here.change(digest_list_lies=lies)
        results = await bench.sync(f"{here.host}/team/app", f"{there.host}/team/app", companions="on_change")
    assert {result.outcome for result in results} == {"up_to_date"}
    assert [warning.code for result in results for warning in result.warnings] == ["digest_list_wrong"]
    assert here.journal.count("manifest", method="HEAD") == len(TAGS)


async def test_a_list_that_is_refused_costs_one_request(here: FakeRegistry, there: FakeRegistry) -> None:
    async with benched(here, there, source="harbor") as bench:
        here.change(api_status=403)
        assert set(await sync(bench, here, there)) == {"up_to_date"}
    assert here.journal.count("api") == 1
    assert here.journal.count("manifest", method="HEAD") == len(TAGS)


async def test_a_few_of_many_tags_are_not_worth_a_list(here: FakeRegistry, there: FakeRegistry) -> None:
    async with benched(here, there, source="harbor", destination="harbor") as bench:
        chosen = {"tags": {"include": TAGS[:3]}}
        await bench.sync(f"{here.host}/team/app", f"{there.host}/team/app", companions="on_change", **chosen)
    assert here.journal.count("api") == there.journal.count("api") == 0


class GuessedMissing(MissingTags):
    """Expects every tag to be missing."""

    def are_expected(self, places: Sequence[Reference]) -> bool:
        return bool(places)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_source_is_read_at_once_where_the_destination_lacks_the_tag(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, is_there: bool
) -> None:
    here.load("app", IMAGE, "1")
    there.load("app", IMAGE if is_there else OTHER, "1" if is_there else "2")
    bench.missing = GuessedMissing()
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), companions="never")
    assert result.outcome == ("up_to_date" if is_there else "copied")
    assert asked(there)["HEAD manifest"] == 1
    manifests = {key: count for key, count in asked(here).items() if key.endswith("manifest")}
    assert manifests == {"HEAD manifest" if is_there else "GET manifest": 1}


async def test_a_source_that_is_read_at_once_may_be_missing_or_too_old(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    bench.missing = GuessedMissing()
    here.load("app", IMAGE, "1")
    old = Manifest(b'{"schemaVersion": 1}', "application/vnd.docker.distribution.manifest.v1+prettyjws")
    here.load("app", old, "old")
    for tag, code in (("2", "reference_not_found"), ("old", "manifest_invalid")):
        [result] = await bench.copy(here.reference("app", tag), there.reference("app", tag))
        assert result.error is not None
        assert (result.outcome, result.error.code, result.error.side) == ("failed", code, "source")


async def test_what_a_destination_lacked_last_is_what_the_next_tags_are_expected_to_be() -> None:
    missing = MissingTags()
    first, second, other = (Reference.parse(f"registry.test/{name}") for name in ("a:1", "b:1", "a:2"))
    assert not missing.are_expected([first])
    missing.note(first, is_missing=True)
    assert missing.are_expected([other, second])
    missing.note(second, is_missing=False)
    assert missing.are_expected([other])
    assert not missing.are_expected([other, second])
    assert not missing.are_expected([Reference.parse("registry.test/c:1")])


async def test_what_a_destination_that_is_down_fails_is_let_go(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    """An error holds the frames it passed through: nothing that it is part of may be hidden from the collector."""
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(500), matching=on("manifest"), times=None)
    for _ in range(3):
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
        assert result.outcome == "failed"
    await asyncio.sleep(0)
    gc.collect()
    assert [found for found in gc.get_objects() if isinstance(found, Attempt)] == []
