"""A request becomes copies: listed, selected, mapped, in an order one can rely on."""

import asyncio
from contextlib import aclosing
from typing import Any, Literal

import pytest

from app.domain.errors import CopyError, InvalidRequestError
from app.domain.manifest import Platform
from app.domain.plan import CopyPreview, PlannedCopy
from app.domain.reference import Digest, Reference
from app.domain.registry import RegistryEntry
from app.domain.request import Options, SyncRequest
from app.sync.planner import LISTS_AT_ONCE
from tests.support.fake_registry import Call, Entry, FakeRegistry, Quirks, Stall, fake_registry, on
from tests.support.images import (
    Manifest,
    cosign_signature,
    cosign_tag,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, asked, workbench

IMAGE = oci_image("one")


def pairs(copies: list[PlannedCopy]) -> list[str]:
    """Write copies down without the hosts."""
    return [f"{short(copy.source)} → {', '.join(map(short, copy.destinations))}" for copy in copies]


def short(reference: Reference) -> str:
    return str(reference).partition("/")[2]


async def test_listed_tags_are_planned_without_asking_anyone(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    copies = await bench.plan({"source": here.reference("app", "b,a"), "destination": f"{there.host}/x:1,2"})
    assert pairs(copies) == ["app:b → x:1", "app:a → x:2"]
    assert {copy.digest_tags for copy in copies} == {"unknown"}
    assert len(here.journal) == len(there.journal) == 0


async def test_every_tag_of_a_repository_is_one_list(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "v2", "v1", "x")
    copies = await bench.plan(
        {"source": f"{here.host}/app", "destination": f"{there.host}/mirror", "tags": {"include": ["v*"]}}
    )
    assert pairs(copies) == ["app:v1 → mirror:v1", "app:v2 → mirror:v2"]
    assert asked(here) == {"GET tags": 1}


async def test_a_whole_registry_is_listed_page_by_page_in_its_own_order(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(page_cap=3)
    names = sorted(f"team-{number % 3}/app-{number}" for number in range(25))
    for name in names:
        here.load(name, IMAGE, "1", "2")
    copies = await bench.plan({"source": f"{here.host}/**", "destination": f"{there.host}/m"})
    assert pairs(copies) == [f"{name}:{tag} → m/{name}:{tag}" for name in names for tag in "12"]
    assert here.journal.count("manifest") == 0
    assert here.journal.most_at_once <= LISTS_AT_ONCE + 1


async def test_the_order_does_not_depend_on_which_list_comes_first(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    names = [f"r{number}" for number in range(LISTS_AT_ONCE)]
    for name in names:
        here.load(name, IMAGE, "1")
    late = asyncio.Event()

    async def wait(entry: Entry) -> None:
        if entry.repository == "r0":
            await late.wait()
        elif entry.repository == names[-1]:
            late.set()

    here.faults.add(Call(wait), matching=on("tags"), times=None)
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert [copy.source.repository.path for copy in copies] == names


@pytest.mark.parametrize("kind", ["docker_hub", "harbor", "quay", "gitlab"])
async def test_a_namespace_is_listed_and_copied_by_the_registrys_own_api(there: FakeRegistry, kind: Any) -> None:
    quirks = Quirks(catalog_status=404, api=kind, gitlab_projects=("team/app",), page_cap=1)
    async with fake_registry(quirks) as here:
        for name in ("team/app", "team/deep/app", "team-b/app"):
            here.load(name, IMAGE, "1")
        entry = RegistryEntry(name="here", host=here.host, insecure=True, type=kind)
        async with workbench(there, entries=(entry,)) as bench:
            results = await bench.sync(f"{here.host}/team/**", f"{there.host}/m")
        assert [(result.destination.repository.path, result.outcome) for result in results] == [
            ("m/team/app", "copied"),
            ("m/team/deep/app", "copied"),
        ]
        assert here.journal.count("catalog") == 0
        there.check()


async def test_a_registry_that_lists_nothing_fails_the_plan_with_what_to_do(there: FakeRegistry) -> None:
    entry = RegistryEntry(name="here", host="127.0.0.1:1", insecure=True, type="ghcr")
    async with workbench(there, entries=(entry,)) as bench:
        with pytest.raises(CopyError, match="name the repositories in the rule") as failed:
            await bench.plan({"source": "127.0.0.1:1/team/**", "destination": there.host})
    assert (failed.value.code, failed.value.side) == ("listing_unsupported", "source")


async def test_a_namespace_is_what_lies_below_it(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    for name in ("team/app", "team/deep/app", "team-b/app", "team"):
        here.load(name, IMAGE, "1")
    rule: dict[str, object] = {
        "source": f"{here.host}/team/**",
        "destination": f"{there.host}/{{name}}-of-{{namespace}}",
    }
    assert pairs(await bench.plan(rule)) == [
        "team/app:1 → app-of-team:1",
        "team/deep/app:1 → app-of-team/deep:1",
    ]
    with_selection = {**rule, "repositories": {"exclude": ["**/deep/*"]}}
    assert pairs(await bench.plan(with_selection)) == ["team/app:1 → app-of-team:1"]


async def test_a_rule_that_matches_nothing_is_a_warning(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    copies = await bench.plan(
        {"source": f"{here.host}/none/**", "destination": there.host},
        {"source": here.reference("app"), "destination": f"{there.host}/x", "tags": {"include": ["2"]}},
        {"source": here.reference("app", "1"), "destination": f"{there.host}/y"},
    )
    assert pairs(copies) == ["app:1 → y:1"]
    assert [warning.code for warning in bench.warnings] == ["no_match", "no_match"]
    assert "none/**" in bench.warnings[0].message


async def test_a_repository_of_the_catalog_without_tags_is_nothing(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("emptied", IMAGE)
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert pairs(copies) == ["app:1 → app:1"]
    assert bench.warnings == []


async def test_a_repository_that_is_named_and_not_there_fails_the_plan(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    with pytest.raises(CopyError) as failed:
        await bench.plan({"source": f"{here.host}/app", "destination": there.host})
    assert (failed.value.code, failed.value.side) == ("repository_missing", "source")


async def test_a_list_that_is_denied_fails_the_plan_and_leaves_nothing_running(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for number in range(20):
        here.load(f"r{number}", IMAGE, "1")
    here.change(tags_status=403)
    with pytest.raises(CopyError) as failed:
        await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert (failed.value.code, failed.value.side) == ("denied", "source")
    assert [task for task in asyncio.all_tasks() if "_list_tags" in repr(task)] == []


async def test_leaving_early_leaves_nothing_running(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    for number in range(20):
        here.load(f"r{number}", IMAGE, "1")
    here.faults.add(Stall(), matching=on("tags", repository="r11"), times=None)
    request = SyncRequest.model_validate({"rules": [{"source": f"{here.host}/**", "destination": there.host}]})
    async with asyncio.timeout(5), aclosing(bench.planner.plan(request)) as found:
        await anext(found)
    assert [task for task in asyncio.all_tasks() if "_list_tags" in repr(task)] == []


async def test_two_sources_for_one_destination_tag_end_the_plan(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("a/app", IMAGE, "1")
    here.load("b/app", IMAGE, "1")
    with pytest.raises(InvalidRequestError, match=r"a/app:1 and .*b/app:1 would both become") as refused:
        await bench.plan({"source": f"{here.host}/**", "destination": f"{there.host}/{{name}}"})
    assert refused.value.code == "destination_conflict"


async def test_rules_that_overlap_plan_each_copy_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1", "2")
    copies = await bench.plan(
        {"source": f"{here.host}/app", "destination": f"{there.host}/x"},
        {"source": here.reference("app", "2"), "destination": [f"{there.host}/x", f"{there.host}/y"]},
    )
    assert pairs(copies) == ["app:1 → x:1", "app:2 → x:2", "app:2 → y:2"]


async def test_several_destinations_are_one_copy(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    places = [f"{there.host}/x", f"{there.host}/y"]
    chosen = {"platforms": ["linux/amd64"], "platform_mode": "rewrite"}
    [copy] = await bench.plan({"source": f"{here.host}/app", "destination": places, **chosen})
    assert pairs([copy]) == ["app:1 → x:1, y:1"]
    assert (copy.platforms, copy.platform_mode) == ((Platform.parse("linux/amd64"),), "rewrite")


SIGNATURE, FALLBACK = cosign_tag(IMAGE.digest), fallback_tag(IMAGE.digest)


@pytest.mark.parametrize(
    ("selection", "options", "planned", "seen"),
    [
        ({}, {}, {"v1", "v2", SIGNATURE, FALLBACK}, "apart"),
        ({"include": ["v*"]}, {}, {"v1", "v2"}, "present"),
        ({"include": ["v*", "sha256-*.sig"]}, {}, {"v1", "v2", SIGNATURE}, "present"),
        ({"newest": 1}, {}, {"v2"}, "present"),
        ({"newest": 1, "exclude": ["v*"]}, {}, {"build-2"}, "present"),
        ({"newest": 1}, {"digest_tags": False, "referrers": False}, {"v2"}, "apart"),
        ({"include": ["v*"]}, {"digest_tags": False, "referrers": False}, {"v1", "v2"}, "apart"),
        ({"exclude": ["v1"]}, {}, {"v2", SIGNATURE, FALLBACK}, "apart"),
    ],
)
async def test_tags_that_hang_on_digests_are_planned_as_far_as_they_are_selected(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    selection: dict[str, object],
    options: dict[str, object],
    planned: set[str],
    seen: str,
) -> None:
    here.load("app", IMAGE, "v1", "v2", *(["build-1", "build-2"] if "newest" in selection else []))
    here.load("app", cosign_signature(IMAGE), SIGNATURE)
    here.load("app", fallback_index([]), FALLBACK)
    copies = await bench.plan({"source": f"{here.host}/app", "destination": there.host, "tags": selection}, **options)
    assert {copy.source.tag for copy in copies} == planned
    assert {copy.digest_tags for copy in copies} == {seen}


async def test_a_repository_with_plain_tags_only_has_nothing_to_look_for(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "v1", "sha256-abc")
    copies = await bench.plan({"source": f"{here.host}/app", "destination": there.host, "tags": {"include": ["v*"]}})
    assert [copy.digest_tags for copy in copies] == ["apart"]


@pytest.mark.parametrize(
    ("held", "options", "action", "reason"),
    [
        (None, {}, "copy", None),
        (IMAGE, {}, "up_to_date", None),
        (oci_index([IMAGE]), {}, "update", None),
        (oci_index([IMAGE]), {"overwrite": "never"}, "up_to_date", "exists_different_digest"),
        (oci_index([IMAGE]), {"overwrite": "fail"}, "refuse", "tag_immutable"),
    ],
)
async def test_a_preview_says_what_would_be_done_and_does_nothing(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    held: Manifest | None,
    options: dict[str, object],
    action: Literal["copy", "update", "up_to_date", "refuse"],
    reason: str | None,
) -> None:
    here.load("app", IMAGE, "1")
    if held is not None:
        there.load("app", held, "1")
    source, place = Reference.parse(here.reference("app", "1")), Reference.parse(there.reference("app", "1"))
    [preview] = await bench.planner.preview(PlannedCopy(source, (place,)), Options.model_validate(options))
    assert preview == CopyPreview(
        source=source,
        destination=place,
        action=action,
        digest=Digest(IMAGE.digest),
        previous_digest=Digest(held.digest) if held else None,
        media_type=IMAGE.media_type,
        reason=reason,
    )
    assert asked(here) == asked(there) == {"HEAD manifest": 1}


async def test_a_preview_of_what_is_not_there_fails(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    source, place = Reference.parse(here.reference("app", "2")), Reference.parse(there.reference("app", "1"))
    with pytest.raises(CopyError) as failed:
        await bench.planner.preview(PlannedCopy(source, (place,)), Options())
    assert (failed.value.code, failed.value.side) == ("reference_not_found", "source")
