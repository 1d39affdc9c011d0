"""A request becomes copies: listed, selected, mapped, in an order one can rely on."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from app.domain.manifest import Platform
from app.domain.plan import FailedListing, Listing, PlannedCopy, RefusedCopy
from app.domain.reference import Reference
from app.domain.registry import RegistryEntry
from app.domain.report import JobWarning, SelectionCount
from app.domain.request import SyncRequest
from app.sync.planner import DestinationClaims, PlanScope
from app.sync.tag_lists import LISTS_AT_ONCE
from tests.support.fake_registry import Call, Entry, FakeRegistry, Quirks, Respond, Stall, fake_registry, on
from tests.support.images import (
    cosign_signature,
    cosign_tag,
    fallback_index,
    fallback_tag,
    oci_image,
)
from tests.sync.workbench import Workbench, asked, workbench

IMAGE = oci_image("one")


def pairs(copies: list[PlannedCopy]) -> list[str]:
    """Write copies down without the hosts."""
    return [f"{short(copy.source)} → {', '.join(map(short, copy.destinations))}" for copy in copies]


def failures(bench: Workbench) -> list[FailedListing]:
    """List the lists that could not be had."""
    return [failed for failed in bench.failed if isinstance(failed, FailedListing)]


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


async def test_a_registry_that_lists_nothing_is_a_list_that_failed_with_what_to_do(there: FakeRegistry) -> None:
    entry = RegistryEntry(name="here", host="127.0.0.1:1", insecure=True, type="ghcr")
    async with workbench(there, entries=(entry,)) as bench:
        assert await bench.plan({"source": "127.0.0.1:1/team/**", "destination": there.host}) == []
    [failed] = failures(bench)
    assert "log in with a classic token" in failed.error.message
    assert failed.listing == Listing(0, "127.0.0.1:1/team/**")
    assert (failed.error.code, failed.error.side) == ("listing_unsupported", "source")  # type: ignore[attr-defined]  # errors of registries have a code, others fail the test


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
    assert [warning.rule for warning in bench.warnings] == [0, 1]


async def test_a_repository_of_the_catalog_that_is_not_there_is_a_warning(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("emptied", IMAGE)
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert pairs(copies) == ["app:1 → app:1"]
    assert bench.warnings == [JobWarning("repository_gone", (f"{here.host}/emptied",), rule=0)]
    again = await bench.plan(
        {"source": f"{here.host}/**", "destination": f"{there.host}/x", "tags": {"min_matches": 1}}
    )
    assert pairs(again) == ["app:1 → x/app:1"]
    assert [(one.listing.source, one.error.code) for one in failures(bench)] == [
        (f"{here.host}/emptied", "too_few_matches")
    ]


async def test_a_repository_that_is_named_and_not_there_is_a_list_that_failed_and_the_rest_is_planned(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for name in ("good/a", "good/b"):
        here.load(name, IMAGE, "1")
    copies = await bench.plan(
        {"source": f"{here.host}/good/a", "destination": there.host},
        {"source": f"{here.host}/renamed/away", "destination": there.host},
        {"source": here.reference("good/b", "1"), "destination": there.host},
    )
    assert pairs(copies) == ["good/a:1 → good/a:1", "good/b:1 → good/b:1"]
    [failed] = failures(bench)
    assert (failed.listing, failed.destination) == (Listing(1, here.reference("renamed/away")), there.host)
    assert failed.error.code == "repository_missing"
    assert bench.warnings == []


async def test_a_list_that_is_denied_is_one_failure_among_many_lists(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for number in range(20):
        here.load(f"r{number:02}", IMAGE, "1")
    here.faults.add(Respond(403), matching=on("tags", repository="r07"), times=None)
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert [copy.source.repository.path for copy in copies] == [f"r{n:02}" for n in range(20) if n != 7]
    [failed] = failures(bench)
    assert (failed.listing.source, failed.error.code) == (here.reference("r07"), "denied")


async def test_a_catalog_that_breaks_off_keeps_what_it_gave(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(page_cap=3)
    for number in range(9):
        here.load(f"r{number}", IMAGE, "1")
    here.faults.add(Respond(403), matching=on("catalog"), number=3, times=None)
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert [copy.source.repository.path for copy in copies] == [f"r{number}" for number in range(6)]
    [failed] = failures(bench)
    assert (failed.listing, failed.error.code) == (Listing(0, f"{here.host}/**"), "denied")


async def test_only_the_lists_that_failed_are_had_again_and_claims_stay(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for name in ("a/x", "b/x", "b/y"):
        here.load(name, IMAGE, "1")
    rules = [{"source": f"{here.host}/{name}/**", "destination": f"{there.host}/{{name}}"} for name in "ab"]
    request = SyncRequest.model_validate({"rules": rules})
    claims = DestinationClaims()
    first, place = Reference.parse(here.reference("a/x", "1")), Reference.parse(there.reference("x", "1"))
    claims.recall(PlannedCopy(first, (place,)))
    only = frozenset({Listing(1, here.reference("b/x")), Listing(1, here.reference("b/y"))})
    scope = PlanScope(only, claims=claims)
    planned = [item async for item in bench.planner.plan(request, scope)]
    found = [item for item in planned if not isinstance(item, SelectionCount)]
    assert [type(item) for item in found] == [RefusedCopy, PlannedCopy]
    assert asked(here) == {"GET tags": 2}


async def test_entries_that_cant_be_used_are_told_with_the_first_names(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("ok/app", IMAGE, "1")
    here.load("Team/App", IMAGE, "1")
    here.change(extra_tags=(None, f"sha256:{'0' * 64}", "../x"))
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert pairs(copies) == ["ok/app:1 → ok/app:1"]
    assert [(warning.code, warning.count, warning.first, warning.rule) for warning in bench.warnings] == [
        ("repository_unusable", 1, (f"{here.host}/Team/App",), 0),
        ("tag_unusable", 1, (f"{here.host}/ok/app:../x",), 0),
    ]
    assert "Team/App" in bench.warnings[0].message


async def test_a_catalog_cut_without_a_link_is_read_on_and_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(page_cap=100, link_missing=True)
    for number in range(230):
        here.load(f"r{number:03}", IMAGE, "1")
    copies = await bench.plan({"source": f"{here.host}/**", "destination": there.host})
    assert len(copies) == 230
    assert [(warning.code, warning.first) for warning in bench.warnings] == [
        ("page_without_link", (f"{here.host}/v2/_catalog",))
    ]
    assert here.journal.count("catalog") == 3


async def test_a_name_that_no_destination_takes_is_one_refused_copy(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "UPPER", "lower")
    copies = await bench.plan({"source": f"{here.host}/app", "destination": f"{there.host}/{{name}}/{{tag}}"})
    assert pairs(copies) == ["app:lower → app/lower:lower"]
    [refused] = bench.failed
    assert isinstance(refused, RefusedCopy)
    assert (refused.source, refused.error.code) == (here.reference("app", "UPPER"), "invalid_destination")
    assert refused.rule == 0


async def test_leaving_early_leaves_nothing_running(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    for number in range(20):
        here.load(f"r{number}", IMAGE, "1")
    here.faults.add(Stall(), matching=on("tags", repository="r11"), times=None)
    request = SyncRequest.model_validate({"rules": [{"source": f"{here.host}/**", "destination": there.host}]})
    async with asyncio.timeout(5), aclosing(bench.planner.plan(request)) as found:
        await anext(found)
    assert [task for task in asyncio.all_tasks() if "_list_tags" in repr(task)] == []


async def test_the_second_source_of_a_destination_tag_is_refused_and_the_first_is_planned(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("a/app", IMAGE, "1")
    here.load("b/app", IMAGE, "1", "2")
    copies = await bench.plan({"source": f"{here.host}/**", "destination": f"{there.host}/{{name}}"})
    assert pairs(copies) == ["a/app:1 → app:1", "b/app:2 → app:2"]
    [refused] = bench.failed
    assert isinstance(refused, RefusedCopy)
    assert (refused.source, refused.destination) == (here.reference("b/app", "1"), there.reference("app", "1"))
    assert (refused.rule, refused.error.code) == (0, "destination_conflict")


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
        ({"newest": 1}, {"digest_tags": False, "referrers": False}, {"v2"}, "none"),
        ({"include": ["v*"]}, {"digest_tags": False, "referrers": False}, {"v1", "v2"}, "none"),
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
    assert [copy.digest_tags for copy in copies] == ["none"]


def counted(bench: Workbench) -> dict[str, int]:
    """Return what was counted, by kind and reason."""
    return {f"{count.kind} {count.reason}": count.count for count in bench.counts}


async def test_what_a_rule_takes_and_drops_is_counted_by_reason(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    signature = cosign_signature(IMAGE)
    here.load("a/app", IMAGE, *(f"v{number}" for number in range(9)), "edge", "v3-rc")
    here.load("a/app", signature, cosign_tag(IMAGE.digest))
    here.load("a/few", IMAGE, "v1")
    here.load("a/scratch", IMAGE, "v1")
    rule: dict[str, object] = {
        "source": f"{here.host}/a/**",
        "destination": there.host,
        "repositories": {"exclude": ["**/scratch"]},
        "tags": {"include": ["v*"], "exclude": ["*-rc"], "newest": 3, "always": ["v0"], "min_matches": 2},
    }
    copies = await bench.plan(rule)
    assert [copy.source.tag for copy in copies] == ["v0", "v6", "v7", "v8"]
    assert counted(bench) == {
        "repository all": 2,
        "repository excluded": 1,
        "tag not_included": 1,
        "tag excluded": 1,
        "tag always": 1,
        "tag newest": 3,
        "tag not_newest": 5,
        "tag attached": 1,
        "tag too_few_matches": 1,
    }
    by_reason = {count.reason: count for count in bench.counts}
    assert by_reason["not_newest"].first == tuple(f"{here.host}/a/app:v{number}" for number in range(1, 6))
    assert by_reason["too_few_matches"].first == (f"{here.host}/a/few:v1",)
    assert [count.reason for count in bench.counts if count.kind == "tag" and count.taken] == [
        "always",
        "newest",
        "attached",
    ]


async def test_named_tags_that_are_dropped_for_their_age_are_counted(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    named = here.reference("app", "1,2")
    dated = {"source": named, "destination": f"{there.host}/app", "created_since": "2020-01-01"}
    assert pairs(await bench.plan({**dated})) == [
        "app:2 → app:2"
    ]  # what is named and not there fails, when it is copied
    assert counted(bench) == {"tag created_since": 1, "tag named": 1}
    bench.counts.clear()
    await bench.plan({"source": named, "destination": f"{there.host}/app"})
    assert counted(bench) == {"tag named": 2}
