"""What is hung on an image after it was copied comes with the next run, and costs next to nothing where nothing was."""

import pytest

from app.domain.plan import DigestTags, PlannedCopy
from app.domain.reference import Reference
from app.domain.report import CopyResult
from app.domain.request import Options
from app.sync import copier
from app.sync.destination import DestinationNotes
from app.sync.known_blobs import KnownBlobs
from tests.support.fake_registry import FakeRegistry, Respond, on
from tests.support.images import (
    artifact,
    cosign_signature,
    cosign_tag,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, asked

IMAGE = oci_image("app")
SBOM = artifact("sbom", subject=IMAGE)
SIGNATURE = artifact("signature of the sbom", subject=SBOM)


async def copy(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    *,
    seen: DigestTags = "apart",
    rule: int | None = None,
    **options: object,
) -> CopyResult:
    source, destination = Reference.parse(here.reference("app", "1")), Reference.parse(there.reference("app", "1"))
    planned = PlannedCopy(source, (destination,), digest_tags=seen, rule=rule)
    [result] = await bench.copy_planned(planned, **options)
    assert result.error is None
    return result


@pytest.mark.parametrize("seen", ["apart", "present", "unknown"])
@pytest.mark.parametrize("has_api", [True, False])
async def test_a_late_referrer_comes_with_the_next_run(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    seen: DigestTags,
    *,
    has_api: bool,
) -> None:
    if not has_api and seen == "apart":
        pytest.skip("fallback tags are then copies of their own")
    here.change(referrers="api" if has_api else "missing")
    here.load("app", IMAGE, "1")
    assert (await copy(bench, here, there, seen=seen)).outcome == "copied"
    here.load("app", SBOM)
    if not has_api:
        here.load("app", fallback_index([SBOM]), fallback_tag(IMAGE.digest))
    assert (await copy(bench, here, there, seen=seen)).outcome == "up_to_date"
    assert SBOM.digest in there.content.repository("app").manifests
    here.load("app", SIGNATURE)  # on the referrer, which is there
    if not has_api:
        here.load("app", fallback_index([SIGNATURE]), fallback_tag(SBOM.digest))
    await copy(bench, here, there, seen=seen)
    assert SIGNATURE.digest in there.content.repository("app").manifests


@pytest.mark.parametrize("seen", ["apart", "present", "unknown"])
@pytest.mark.parametrize("is_noted", [True, False])
async def test_a_late_referrer_of_an_image_in_an_unchanged_index_comes_with_the_next_run(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    seen: DigestTags,
    *,
    is_noted: bool,
) -> None:
    nested = oci_index([oci_image("nested")])
    here.load("app", oci_index([IMAGE, nested, oci_image("other", platform="linux/arm64")]), "1")
    assert (await copy(bench, here, there, seen=seen)).outcome == "copied"
    if not is_noted:
        bench.destination_notes = DestinationNotes.in_memory()
    late = [SBOM, artifact("deep", subject=nested.children[0]), artifact("it", subject=nested)]
    for referrer in late:
        here.load("app", referrer)
    result = await copy(bench, here, there, seen=seen)
    assert (result.outcome, set(result.companions.first)) == ("up_to_date", {one.digest for one in late})
    assert {one.digest for one in late} <= set(there.content.repository("app").manifests)
    mark = there.journal.mark()
    await copy(bench, here, there, seen=seen)
    assert asked(there, since=mark) == {"HEAD manifest": 1}  # and not again


async def test_images_of_several_indexes_are_asked_about_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    indexes = [oci_index([IMAGE, oci_image(f"other {number}", platform="linux/arm64")]) for number in range(3)]
    for number, index in enumerate(indexes):
        here.load("app", index, str(number))
    rule = (f"{here.host}/app", f"{there.host}/app")
    await bench.sync(*rule)
    mark = here.journal.mark()
    assert {result.outcome for result in await bench.sync(*rule)} == {"up_to_date"}
    assert asked(here, since=mark)["GET referrers"] == 3 + 4  # the indexes, and four different images


@pytest.mark.parametrize("shape", ["flat", "nested", "nested whole"])
async def test_a_late_referrer_of_a_platform_that_was_chosen_comes_and_of_others_not(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, shape: str
) -> None:
    there.change(sparse_allowed=True)
    other = oci_image("other", platform="linux/arm64")
    flat, apart = oci_index([IMAGE, other]), oci_index([oci_index([IMAGE])])
    index = {"flat": flat, "nested": oci_index([flat]), "nested whole": oci_index([apart, other])}[shape]
    here.load("app", index, "1")
    for mode in ("sparse", "rewrite"):
        rule = (here.reference("app", "1"), there.reference(mode, "1"))
        await bench.sync(*rule, platforms=["linux/amd64"], platform_mode=mode)
        for subject in (IMAGE, other):
            here.load("app", artifact(f"late {mode}", subject=subject))
        await bench.sync(*rule, platforms=["linux/amd64"], platform_mode=mode)
        manifests = there.content.repository(mode).manifests
        assert artifact(f"late {mode}", subject=IMAGE).digest in manifests
        assert artifact(f"late {mode}", subject=other).digest not in manifests


async def test_a_late_digest_tag_comes_with_the_next_run_of_a_named_tag(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    await copy(bench, here, there, seen="unknown")
    for seed in ("first", "signed again"):
        signature = cosign_signature(IMAGE, seed=seed)
        here.load("app", signature, cosign_tag(IMAGE.digest))
        await copy(bench, here, there, seen="unknown")
        assert there.content.tags("app")[cosign_tag(IMAGE.digest)] == signature.digest


async def test_an_image_that_nothing_hangs_on_costs_one_request_more(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    await copy(bench, here, there)
    marks = here.journal.mark(), there.journal.mark()
    await copy(bench, here, there)
    assert asked(here, since=marks[0]) == {"HEAD manifest": 1, "GET referrers": 1}
    assert asked(there, since=marks[1]) == {"HEAD manifest": 1}


async def test_what_came_along_once_is_not_asked_for_at_the_destination_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("app", SBOM)
    await copy(bench, here, there)
    marks = here.journal.mark(), there.journal.mark()
    await copy(bench, here, there)
    assert asked(here, since=marks[0]) == {"HEAD manifest": 1, "GET referrers": 2}  # of the image, of the referrer
    assert asked(there, since=marks[1]) == {"HEAD manifest": 1}


async def test_tags_of_one_digest_are_asked_about_once(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for registry in (here, there):
        registry.load("app", IMAGE, "1", "2", "3")
    copier = bench.copier
    for tag in ("1", "2", "3"):
        source, place = here.reference("app", tag), there.reference("app", tag)
        planned = PlannedCopy(Reference.parse(source), (Reference.parse(place),), digest_tags="apart")
        await copier.copy(planned, Options(), observe=lambda *_: None)
    assert asked(here) == {"HEAD manifest": 3, "GET referrers": 1}


@pytest.mark.parametrize("overwrite", ["always", "never"])
async def test_what_belongs_to_an_image_counts_for_each_tag_that_is_copied_whichever_brings_it(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, overwrite: str
) -> None:
    here.load("app", IMAGE, "1", "2")
    signed = cosign_signature(IMAGE)
    here.load("app", signed, cosign_tag(IMAGE.digest))
    for referrer in (SBOM, SIGNATURE):
        here.load("app", referrer)
    if overwrite == "never":
        there.load("app", cosign_signature(oci_image("another")), cosign_tag(IMAGE.digest))
    results = [
        (await bench.copy(here.reference("app", tag), there.reference("app", tag), overwrite=overwrite))[0]
        for tag in ("1", "2", "1")
    ]
    mine = {SBOM.digest, SIGNATURE.digest, *([cosign_tag(IMAGE.digest)] if overwrite == "always" else [])}
    assert [result.outcome for result in results] == ["copied", "copied", "up_to_date"]
    assert [set(result.companions.first) for result in results] == [mine, mine, set()]


async def test_a_source_without_the_api_is_not_asked_about_what_its_tags_show(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    here.load("app", IMAGE, "1")
    await copy(bench, here, there)
    mark = here.journal.mark()
    await copy(bench, here, there)
    assert asked(here, since=mark) == {"HEAD manifest": 1}


@pytest.mark.parametrize("companions", ["on_change", "never"])
async def test_companions_may_be_left_for_when_the_image_changes_or_for_never(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, companions: str
) -> None:
    here.load("app", IMAGE, "1")
    await copy(bench, here, there, companions=companions)
    here.load("app", SBOM)
    mark = here.journal.mark()
    await copy(bench, here, there, companions=companions)
    assert asked(here, since=mark) == {"HEAD manifest": 1}
    changed = oci_index([IMAGE])
    here.load("app", changed, "1")
    here.load("app", artifact("of the index", subject=changed))
    await copy(bench, here, there, companions=companions)
    there_now = there.content.repository("app").manifests
    assert (SBOM.digest in there_now) is (companions == "on_change")


async def test_companions_of_an_image_that_was_lost_and_came_again_without_them_come_with_a_run_that_wants_them(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("app", SBOM)
    for _ in range(2):
        await copy(bench, here, there)  # that they are there is noted
    there.content.repository("app").tags.clear()
    there.content.repository("app").manifests.clear()
    bench.known = KnownBlobs()
    await copy(bench, here, there, companions="never")
    assert SBOM.digest not in there.content.repository("app").manifests
    await copy(bench, here, there)
    assert SBOM.digest in there.content.repository("app").manifests


async def test_a_refusal_to_list_companions_is_a_warning_where_the_image_is_right(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    await copy(bench, here, there)
    here.faults.add(Respond(403), matching=on("referrers"), times=None)
    here.faults.add(Respond(403), matching=on("manifest", method="GET"), times=None)
    result = await copy(bench, here, there)
    assert (result.outcome, [one.code for one in result.warnings]) == ("up_to_date", ["companions_unreadable"])


async def test_a_fallback_tag_that_holds_something_else_is_told_of_an_unchanged_image_too(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    here.load("app", IMAGE, "1")
    await copy(bench, here, there, seen="present")
    here.load("app", oci_image("tagged by hand"), fallback_tag(IMAGE.digest))
    result = await copy(bench, here, there, seen="present", digest_tags=False)
    assert (result.outcome, [warning.code for warning in result.warnings]) == ("up_to_date", ["fallback_list_ignored"])


async def test_an_index_of_more_images_than_are_asked_for_again_is_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier, "MAX_PARTS", 1)
    here.load("app", oci_index([IMAGE, oci_image("other", platform="linux/arm64")]), "1")
    assert (await copy(bench, here, there)).warnings == ()
    result = await copy(bench, here, there)
    assert (result.outcome, [warning.code for warning in result.warnings]) == ("up_to_date", ["parts_not_asked_for"])
    assert (await copy(bench, here, there, companions="on_change")).warnings == ()


async def test_a_warning_of_an_image_names_the_rule(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.change(referrers="missing")
    here.load("app", IMAGE, "1")
    here.load("app", oci_image("tagged by hand"), fallback_tag(IMAGE.digest))
    result = await copy(bench, here, there, rule=3)
    assert [(warning.code, warning.rule) for warning in result.warnings] == [("fallback_list_ignored", 3)]


@pytest.mark.parametrize("seen", ["apart", "present", "unknown"])
async def test_a_signature_that_is_listed_as_a_referrer_and_comes_by_its_tag_is_no_warning(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, seen: DigestTags
) -> None:
    signature = cosign_signature(IMAGE)
    here.load("app", IMAGE, "1")
    here.load("app", signature, cosign_tag(IMAGE.digest))
    index = fallback_index([signature])  # as Harbor lists it: the manifest names no subject
    answer = Respond(200, (("Content-Type", index.media_type),), index.raw)
    here.faults.add(answer, matching=on("referrers", reference=IMAGE.digest), times=None)
    result = await copy(bench, here, there, seen=seen)
    assert (result.outcome, result.warnings) == ("copied", ())


@pytest.mark.parametrize("seen", ["none", "present", "unknown"])
async def test_what_is_listed_as_a_referrer_and_comes_by_no_tag_is_a_warning(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, seen: DigestTags
) -> None:
    other = oci_image("names no subject")
    here.load("app", IMAGE, "1")
    here.load("app", other)
    index = fallback_index([other])
    answer = Respond(200, (("Content-Type", index.media_type),), index.raw)
    here.faults.add(answer, matching=on("referrers", reference=IMAGE.digest), times=None)
    result = await copy(bench, here, there, seen=seen)
    assert [one.code for one in result.warnings] == ["referrer_skipped"]
