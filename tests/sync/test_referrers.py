"""What belongs to an image without being below it: referrers in every direction, and cosign's tags."""

import pytest

from app.domain.plan import DigestTags, PlannedCopy
from app.domain.reference import Reference
from app.domain.report import CopyResult
from app.domain.request import Options
from tests.support.fake_registry import Call, Entry, FakeRegistry, Respond, on
from tests.support.images import (
    OCI_MANIFEST,
    Manifest,
    artifact,
    cosign_signature,
    cosign_tag,
    digest_of,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, asked
from tests.sync.zoo import index_of

IMAGE = oci_image("signed")
SBOM = artifact("sbom", subject=IMAGE, annotations={"made": "by a test"})
SIGNATURE = artifact("signature", subject=IMAGE, artifact_type="application/vnd.example.signature")
SBOM_SIGNATURE = artifact("signature of the sbom", subject=SBOM)
ALL = (IMAGE, SBOM, SIGNATURE, SBOM_SIGNATURE)


def load(registry: FakeRegistry) -> None:
    """Put the image and what refers to it, with the fallback tags where the registry has no API."""
    registry.load("app", IMAGE, "1")
    for referrer in ALL[1:]:
        registry.load("app", referrer)
    if registry.quirks.referrers == "missing":
        registry.load("app", fallback_index([SBOM, SIGNATURE]), fallback_tag(IMAGE.digest))
        registry.load("app", fallback_index([SBOM_SIGNATURE]), fallback_tag(SBOM.digest))


async def copy(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, seen: DigestTags = "unknown", **options: object
) -> CopyResult:
    """Copy `app:1`, as planned after seeing so much of the tags."""
    places = (Reference.parse(there.reference("app", "1")),)
    planned = PlannedCopy(Reference.parse(here.reference("app", "1")), places, digest_tags=seen)
    [result] = await bench.copy_planned(planned, **options)
    return result


def listed(registry: FakeRegistry, subject: Manifest) -> set[str]:
    """Return the referrers a client of this registry would find."""
    if registry.quirks.referrers == "api":
        return {entry["digest"] for entry in registry.content.referrers("app", subject.digest)}
    index = registry.content.manifest("app", fallback_tag(subject.digest))
    return set(index.children()) if index else set()


@pytest.mark.parametrize("source_api", ["api", "missing"])
@pytest.mark.parametrize("destination_api", ["api", "missing"])
async def test_referrers_come_along_whatever_either_side_knows(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, source_api: str, destination_api: str
) -> None:
    here.change(referrers=source_api)
    there.change(referrers=destination_api)
    load(here)
    result = await copy(bench, here, there)
    assert (result.outcome, result.error, result.warnings) == ("copied", None, ())
    assert {manifest.digest for manifest in ALL} <= set(there.content.repository("app").manifests)
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest}
    assert listed(there, SBOM) == {SBOM_SIGNATURE.digest}
    if (source_api, destination_api) == ("missing", "missing"):
        assert there.content.tags("app") == here.content.tags("app")
    if destination_api == "api":
        assert there.content.tags("app") == {"1": IMAGE.digest}


async def test_the_entries_of_a_fallback_index_tell_kind_and_annotations(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(referrers="missing")
    load(here)
    await copy(bench, here, there)
    index = there.content.manifest("app", fallback_tag(IMAGE.digest))
    assert index is not None
    entries = {entry["digest"]: entry for entry in index.body()["manifests"]}
    assert entries[SBOM.digest]["artifactType"] == SBOM.artifact_type
    assert entries[SBOM.digest]["annotations"] == {"made": "by a test"}
    assert entries[SIGNATURE.digest]["size"] == SIGNATURE.size


async def test_the_tag_moves_only_when_the_referrers_are_there(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    load(here)
    there.faults.add(Respond(403), matching=on("manifest", method="PUT", reference=SBOM.digest), times=None)
    result = await copy(bench, here, there)
    assert result.outcome == "failed"
    assert there.content.tags("app") == {}
    there.faults.clear()
    assert (await copy(bench, here, there)).outcome == "copied"
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest}


async def test_referrers_that_others_hung_there_stay(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    there.change(referrers="missing")
    theirs = artifact("their own", subject=IMAGE)
    there.load("app", IMAGE)
    there.load("app", theirs)
    there.load("app", fallback_index([theirs]), fallback_tag(IMAGE.digest))
    load(here)
    await copy(bench, here, there)
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest, theirs.digest}


async def test_referrers_are_left_alone_when_nobody_wants_them(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    load(here)
    result = await copy(bench, here, there, referrers=False)
    assert result.outcome == "copied"
    assert set(there.content.repository("app").manifests) == {IMAGE.digest}
    assert here.journal.count("referrers") == 0


async def test_gitlabs_answer_of_the_image_itself_is_no_list_of_referrers(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing", fallback_tag_is_image=True)
    index = oci_index([IMAGE, oci_image("other")])
    here.load("app", index, "1")
    result = await copy(bench, here, there)
    assert (result.outcome, result.warnings) == ("copied", ())
    assert there.content.tags("app") == {"1": index.digest}


async def test_a_fallback_tag_that_holds_something_else_is_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    here.load("app", IMAGE, "1")
    here.load("app", oci_image("tagged by hand"), fallback_tag(IMAGE.digest))
    result = await copy(bench, here, there)
    assert result.outcome == "copied"
    [warning] = result.warnings
    assert (warning.code, warning.first) == (
        "fallback_list_ignored",
        (here.reference("app", fallback_tag(IMAGE.digest)),),
    )


async def test_what_only_says_it_is_a_referrer_is_left_out_with_a_warning(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    stranger, gone = artifact("of nobody"), artifact("gone", subject=IMAGE)
    here.load("app", IMAGE, "1")
    here.load("app", stranger)
    here.load("app", SBOM)
    index = fallback_index([stranger, gone, SBOM])
    here.content.put_manifest("app", index.raw, index.media_type, tag=fallback_tag(IMAGE.digest))
    result = await copy(bench, here, there)
    assert result.outcome == "copied"
    assert {warning.code for warning in result.warnings} == {"referrer_skipped"}
    assert len(result.warnings) == 2
    assert listed(there, IMAGE) == {SBOM.digest}


async def test_an_index_that_names_itself_through_its_referrers_ends(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    child = oci_image("child")
    index = oci_index([child])
    around = oci_index([index, child], subject=index, artifact_type="application/vnd.example.loop")
    again = oci_index([around], subject=around, artifact_type="application/vnd.example.loop")
    here.load("app", index, "1")
    here.load("app", around)
    here.load("app", again)
    there.change(referrers="missing")
    result = await copy(bench, here, there)
    assert (result.outcome, result.error) == ("copied", None)
    assert listed(there, index) == {around.digest}
    assert listed(there, around) == {again.digest}


async def test_a_child_of_an_index_brings_its_referrers(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", oci_index([IMAGE, oci_image("other")]), "1")
    here.load("app", SBOM)
    there.load("app", IMAGE)  # what is there already brings its own, too
    await copy(bench, here, there)
    assert listed(there, IMAGE) == {SBOM.digest}


async def test_an_image_with_a_subject_is_listed_with_it(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(referrers="missing")
    here.load("app", SBOM, "1")
    await copy(bench, here, there)
    assert listed(there, IMAGE) == {SBOM.digest}


async def test_digest_tags_travel_with_their_image(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    index = oci_index([IMAGE])
    here.load("app", index, "1")
    signatures = {
        cosign_tag(index.digest): cosign_signature(index),
        cosign_tag(index.digest, kind="att"): cosign_signature(index, seed="att"),
        cosign_tag(IMAGE.digest, kind="sbom"): cosign_signature(IMAGE),
    }
    for tag, signature in signatures.items():
        here.load("app", signature, tag)
    here.load("app", cosign_signature(SBOM), cosign_tag(SBOM.digest))
    result = await copy(bench, here, there)
    assert result.outcome == "copied"
    wanted = {tag: signature.digest for tag, signature in signatures.items()}
    assert there.content.tags("app") == wanted | {"1": index.digest}


@pytest.mark.parametrize(("seen", "options"), [("none", {}), ("apart", {}), ("unknown", {"digest_tags": False})])
async def test_digest_tags_are_not_looked_for_where_they_come_by_themselves_or_not_at_all(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, seen: DigestTags, options: dict[str, object]
) -> None:
    here.load("app", IMAGE, "1")
    here.load("app", cosign_signature(IMAGE), cosign_tag(IMAGE.digest))
    await copy(bench, here, there, seen=seen, **options)
    assert there.content.tags("app") == {"1": IMAGE.digest}
    assert here.journal.count("manifest", method="HEAD") == 1


@pytest.mark.parametrize(("seen", "asked"), [("none", 0), ("present", 0), ("apart", 1), ("unknown", 1)])
async def test_without_an_api_tags_that_were_listed_tell_that_there_are_no_referrers(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, seen: DigestTags, asked: int
) -> None:
    here.change(referrers="missing")
    here.load("app", oci_image("first"), "0")
    here.load("app", IMAGE, "1")
    await bench.copy(here.reference("app", "0"), there.reference("app", "0"))  # finds that there is no API
    mark = here.journal.mark()
    assert (await copy(bench, here, there, seen=seen, digest_tags=False)).outcome == "copied"
    assert here.journal.count("manifest", reference=fallback_tag(IMAGE.digest), since=mark) == asked
    assert here.journal.count("referrers", since=mark) == 0


async def test_a_signature_made_after_the_copy_is_brought_later(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.load("app", oci_image("other"), "2")
    await copy(bench, here, there)
    here.load("app", cosign_signature(IMAGE), cosign_tag(IMAGE.digest))
    mark, other_mark = here.journal.mark(), there.journal.mark()
    result = await copy(bench, here, there, seen="present")
    assert result.outcome == "up_to_date"
    assert there.content.tags("app")[cosign_tag(IMAGE.digest)] == cosign_signature(IMAGE).digest
    assert here.journal.count("tags", since=mark) == 1
    assert there.journal.count("manifest", method="PUT", since=other_mark) == 1


async def test_referrers_hung_on_an_unchanged_image_are_seen_by_their_tag(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    there.change(referrers="missing")
    here.load("app", IMAGE, "1")
    await copy(bench, here, there)
    load(here)
    result = await copy(bench, here, there, seen="present")
    assert result.outcome == "up_to_date"
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest}
    assert listed(there, SBOM) == {SBOM_SIGNATURE.digest}


async def test_unchanged_images_of_a_signed_repository_cost_one_list_of_tags_together(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for registry in (here, there):
        registry.load("app", oci_image("unsigned"), "1")
        registry.load("app", cosign_signature(IMAGE), cosign_tag(IMAGE.digest))
    copier = bench.copier
    places = (Reference.parse(there.reference("app", "1")),)
    planned = PlannedCopy(Reference.parse(here.reference("app", "1")), places, digest_tags="present")
    for _ in range(3):
        await copier.copy(planned, Options(), observe=lambda *_: None)
    assert asked(here) == {"HEAD manifest": 3, "GET referrers": 1, "GET tags": 1}
    assert asked(there) == {"HEAD manifest": 3}


@pytest.mark.parametrize(("overwrite", "moved"), [("always", True), ("never", False), ("fail", False)])
async def test_a_digest_tag_that_differs_is_dealt_with_as_asked(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, overwrite: str, *, moved: bool
) -> None:
    tag = cosign_tag(IMAGE.digest)
    ours, theirs = cosign_signature(IMAGE), cosign_signature(IMAGE, seed="theirs")
    here.load("app", IMAGE, "1")
    here.load("app", ours, tag)
    there.load("app", theirs, tag)
    result = await copy(bench, here, there, overwrite=overwrite)
    assert there.content.tags("app")[tag] == (ours if moved else theirs).digest
    assert result.outcome == ("failed" if overwrite == "fail" else "copied")
    if overwrite == "fail":
        assert result.error is not None
        assert result.error.code == "tag_immutable"
        assert "1" not in there.content.tags("app")


async def test_a_fallback_tag_of_its_own_is_merged_into_what_others_hung_there(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for registry in (here, there):
        registry.change(referrers="missing")
    tag = fallback_tag(IMAGE.digest)
    theirs = artifact("their own", subject=IMAGE)
    load(here)
    there.load("app", fallback_index([theirs]), tag)
    source, destination = here.reference("app", tag), there.reference("app", tag)
    [merged] = await bench.copy(source, destination)
    assert (merged.outcome, merged.reason) == ("copied", "merged_referrers")
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest, theirs.digest}
    assert merged.destination_digest == there.content.tags("app")[tag]
    mark = there.journal.mark()
    [again] = await bench.copy(source, destination)
    assert again.reason == "merged_referrers"
    assert (again.outcome, again.destination_digest) == ("up_to_date", merged.destination_digest)
    assert there.journal.count(method="PUT", since=mark) == 0


@pytest.mark.parametrize("there_before", [False, True])
async def test_a_fallback_tag_of_its_own_comes_byte_for_byte_where_nothing_is_lost_by_it(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, there_before: bool
) -> None:
    for registry in (here, there):
        registry.change(referrers="missing")
    load(here)
    tag = fallback_tag(IMAGE.digest)
    if there_before:
        there.load("app", fallback_index([SBOM]), tag)
    [result] = await bench.copy(here.reference("app", tag), there.reference("app", tag))
    assert (result.outcome, result.reason) == ("copied", None)
    assert result.destination_digest == fallback_index([SBOM, SIGNATURE]).digest
    assert there.content.tags("app")[tag] == here.content.tags("app")[tag]
    assert there.journal.count("manifest", method="PUT", reference=tag) == 1


async def test_a_referrer_that_is_there_and_not_listed_is_listed_after_the_copy(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(referrers="missing")
    load(here)
    there.load("app", SBOM)  # a copy ended here between the manifest and the list
    await copy(bench, here, there)
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest}


@pytest.mark.parametrize(("overwrite", "existing"), [("always", False), ("never", True)])
async def test_what_is_no_list_of_referrers_is_a_tag_like_any(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, overwrite: str, *, existing: bool
) -> None:
    here.change(referrers="missing")
    tag, somebodys = fallback_tag(IMAGE.digest), oci_image("tagged by hand")
    there.load("app", somebodys, tag)
    load(here)
    await bench.copy(here.reference("app", tag), there.reference("app", tag), overwrite=overwrite)
    assert there.content.tags("app")[tag] == (somebodys.digest if existing else here.content.tags("app")[tag])


async def test_more_referrers_than_anybody_has_are_refused(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    third = oci_image("third")
    names = [{"mediaType": OCI_MANIFEST, "digest": digest_of(str(one).encode()), "size": 1} for one in range(1_000)]
    page = index_of(names, [])
    for manifest in (IMAGE, SBOM, third):
        here.content.put_manifest("app", page.raw, page.media_type, tag=fallback_tag(manifest.digest))
    here.load("app", oci_index([IMAGE, SBOM, third]), "1")
    result = await copy(bench, here, there)
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("limit_exceeded", "source")
    assert here.journal.count("manifest", method="GET", reference=digest_of(b"0")) == 0


async def test_what_is_in_the_way_of_a_fallback_tag_is_not_touched(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(referrers="missing")
    tag, somebodys = fallback_tag(IMAGE.digest), oci_image("tagged by hand")
    there.load("app", somebodys, tag)
    load(here)
    result = await copy(bench, here, there)
    assert result.outcome == "failed"
    assert there.content.tags("app") == {tag: somebodys.digest}


async def test_a_referrer_pushed_during_the_copy_does_no_harm(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(referrers="missing")
    load(here)
    late = artifact("late", subject=IMAGE)

    def push(_: Entry) -> None:
        there.load("app", late)
        there.load("app", fallback_index([late]), fallback_tag(IMAGE.digest))

    there.faults.add(Call(push), matching=on("manifest", method="PUT", reference=SBOM.digest))
    result = await copy(bench, here, there)
    assert result.outcome == "copied"
    assert listed(there, IMAGE) == {SBOM.digest, SIGNATURE.digest, late.digest}
