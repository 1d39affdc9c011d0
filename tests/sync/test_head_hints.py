"""HEAD is a hint: where it decides what is missing, kept, moved or whole, it is not believed alone."""

import json
from typing import Any

import pytest

from tests.support.fake_registry import Call, Entry, FakeRegistry, Respond, on
from tests.support.images import (
    OCI_INDEX,
    Manifest,
    artifact,
    blob,
    cosign_signature,
    cosign_tag,
    docker_image,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, asked
from tests.sync.zoo import foreign_layer

IMAGE = oci_image("one", layers=[blob("a", size=5_000), blob("b", size=3_000)])
OTHER = oci_image("other")
DENIED = b'{"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}'


def hide_missing(registry: FakeRegistry) -> None:
    """Let a registry deny what it does not have."""
    registry.change(missing_manifest_status=403)
    registry.faults.add(Respond(403, body=DENIED), matching=on("referrers"), times=None)

    def is_missing(entry: Entry) -> bool:
        return (
            entry.kind == "manifest"
            and entry.method in {"GET", "HEAD"}
            and (registry.content.digest(entry.repository, entry.reference) is None)
        )

    registry.faults.add(Respond(403, body=DENIED), matching=is_missing, times=None)


@pytest.mark.parametrize(("overwrite", "outcome"), [("never", "up_to_date"), ("fail", "failed")])
async def test_a_tag_that_head_misses_is_not_overwritten(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, overwrite: str, outcome: str
) -> None:
    here.load("app", IMAGE, "1")
    there.load("app", OTHER, "1")
    there.change(head_manifest_status=404)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), overwrite=overwrite)
    assert (result.outcome, result.previous_digest) == (outcome, OTHER.digest)
    assert there.content.tags("app") == {"1": OTHER.digest}


async def test_a_digest_tag_that_head_misses_is_not_overwritten(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    signature, theirs = cosign_signature(IMAGE), cosign_signature(IMAGE, seed="theirs")
    tag = cosign_tag(IMAGE.digest)
    here.load("app", IMAGE, "1")
    here.load("app", signature, tag)
    there.load("app", theirs, tag)
    there.change(head_manifest_status=404)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), overwrite="never")
    assert (result.outcome, result.error) == ("copied", None)
    assert there.content.tags("app") == {"1": IMAGE.digest, tag: theirs.digest}


async def test_a_source_whose_head_finds_nothing_is_asked_by_get(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    signature, tag = cosign_signature(IMAGE), cosign_tag(IMAGE.digest)
    here.load("app", IMAGE, "1")
    here.load("app", signature, tag)
    here.change(head_manifest_status=404)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.error) == ("copied", None)
    assert there.content.tags("app") == {"1": IMAGE.digest, tag: signature.digest}
    assert here.journal.count("manifest", method="HEAD") == 1  # found out, it is asked no more


async def test_what_is_missing_costs_one_request_more_and_is_missing(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert result.error is not None
    assert result.error.code == "reference_not_found"
    assert asked(here) == {"HEAD manifest": 1, "GET manifest": 1}
    assert asked(there) == {"HEAD manifest": 1}


@pytest.mark.parametrize("has_api", [True, False])
async def test_a_destination_that_denies_what_it_does_not_have_is_written(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    *,
    has_api: bool,
) -> None:
    index = oci_index([IMAGE, oci_image("arm", platform="linux/arm64")])
    here.load("app", index, "1")
    here.load("app", artifact("sbom", subject=index))
    there.change(referrers="api" if has_api else "missing")
    hide_missing(there)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.error) == ("copied", None)
    assert there.content.tags("app")["1"] == index.digest
    assert has_api or fallback_tag(index.digest) in there.content.tags("app")


@pytest.mark.parametrize("overwrite", ["never", "fail"])
async def test_where_existing_tags_stay_a_denial_ends_the_copy(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, overwrite: str
) -> None:
    here.load("app", IMAGE, "1")
    hide_missing(there)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), overwrite=overwrite)
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("denied", "destination")
    assert there.content.tags("app") == {}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_tag_that_moves_while_it_is_copied_is_copied_as_it_is_then(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, method: str
) -> None:
    old, new = oci_index([IMAGE]), oci_index([OTHER])
    here.load("app", old, "latest")

    def move(_: Entry) -> None:
        for gone in (old, IMAGE):
            here.content.repository("app").manifests.pop(gone.digest, None)
        here.load("app", new, "latest")

    # Right after the tag was asked for, or when the index was read and its children were not.
    asked_for = "latest" if method == "HEAD" else old.digest
    here.faults.add(Call(move), matching=on("manifest", method=method, reference=asked_for), after_work=True)
    [result] = await bench.copy(here.reference("app", "latest"), there.reference("app", "latest"))
    assert (result.outcome, result.error, result.digest) == ("copied", None, new.digest)
    assert there.content.tags("app") == {"latest": new.digest}


async def test_a_digest_that_is_gone_while_its_tag_stays_is_not_tried_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", oci_index([IMAGE, OTHER]), "1")
    del here.content.repository("app").manifests[OTHER.digest]
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side, result.attempts) == ("reference_not_found", "source", 1)
    for told in (OTHER.digest, "linux/amd64", "platform_mode: rewrite"):
        assert told in result.error.message


async def test_a_blob_that_is_there_with_another_length_is_sent(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    cut_off = IMAGE.blobs[1]
    there.content.put_blob("app", cut_off.data[:-1], digest=cut_off.digest)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.error) == ("copied", None)
    assert there.content.blob("app", cut_off.digest) == cut_off.data


async def test_a_blob_whose_length_stays_wrong_fails_its_image(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.load("app", oci_image("other"), "other")
    there.content.put_blob("app", IMAGE.blobs[1].data)
    there.change(head_blob_length=7, range_total=7, only_blobs=frozenset({IMAGE.blobs[1].digest}))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("size_mismatch", "destination")
    assert "1" not in there.content.tags("app")


async def test_a_thousand_and_one_referrers_come_along(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    here.load("app", IMAGE, "v1")
    config = blob("shared", size=10)
    many = [artifact(f"n{number}", subject=IMAGE, blobs=[config]) for number in range(1_001)]
    for one in many:
        here.load("app", one)
    here.load("app", fallback_index(many), fallback_tag(IMAGE.digest))
    [result] = await bench.copy(here.reference("app", "v1"), there.reference("app", "v1"))
    assert (result.outcome, result.error, result.warnings) == ("copied", None, ())
    assert {one.digest for one in many} < set(there.content.repository("app").manifests)


async def test_more_layers_than_anybody_thought_of_are_copied(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    layer = blob("tiny", size=20)
    raw = json.loads(oci_image("many", layers=[layer]).raw)
    raw["layers"] *= 1_100
    image = Manifest(json.dumps(raw, indent=3).encode(), IMAGE.media_type, oci_image("many", layers=[layer]).blobs)
    here.load("app", image, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.error) == ("copied", None)


async def test_a_list_of_referrers_that_can_not_be_read_is_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(referrers="missing")
    here.load("app", IMAGE, "1")
    here.content.put_manifest("app", b'{"manifests": 7}', OCI_INDEX, tag=fallback_tag(IMAGE.digest))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, [warning.code for warning in result.warnings]) == ("copied", ["fallback_list_ignored"])


async def test_layers_that_lie_elsewhere_and_are_refused_are_told_with_what_to_do(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", docker_image("windows", layers=[foreign_layer(), blob("own")]), "1")
    refusal: dict[str, Any] = {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry"}
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": "unknown error"}, refusal]}).encode()
    there.faults.add(Respond(500, body=body), matching=on("manifest", method="PUT"), times=None)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.temporary, result.attempts) == ("manifest_rejected", False, 1)
    assert "validation.manifests.urls.allow" in result.error.message
