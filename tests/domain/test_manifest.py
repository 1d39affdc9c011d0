"""Manifests: parsed as they are, refused where two readers could understand them differently."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import ContentError
from app.domain.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    MediaType,
    Platform,
    digest_of,
    parse_manifest,
)
from tests.sync.zoo import zoo

IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": MediaType.OCI_MANIFEST,
    "config": {"mediaType": "application/x", "digest": digest_of(b"c"), "size": 1},
    "layers": [{"mediaType": "application/y", "digest": digest_of(b"l"), "size": 1}],
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": [IMAGE["config"]]}

EMPTY: dict[str, Any] = {"mediaType": "application/x", "digest": digest_of(b"{}"), "size": 2}


def parse(body: object, media_type: str | None = None) -> Manifest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_manifest(raw, media_type=media_type, digest=digest_of(raw))


@pytest.mark.parametrize("animal", zoo(), ids=lambda animal: f"{animal.repository}-{animal.manifest.digest[7:13]}")
def test_every_shape_of_content_is_understood(animal: Any) -> None:
    made = animal.manifest
    parsed = parse(made.raw, made.media_type)
    body = json.loads(made.raw)
    assert (parsed.raw, parsed.media_type, parsed.digest) == (made.raw, made.media_type, made.digest)
    assert [child.digest for child in parsed.children] == [entry["digest"] for entry in body.get("manifests", [])]
    named = [*filter(None, [body.get("config")]), *body.get("layers", [])]
    assert [blob.digest for blob in parsed.blobs] == [entry["digest"] for entry in named]
    assert (parsed.subject.digest if parsed.subject else None) == (body.get("subject") or {}).get("digest")


@pytest.mark.parametrize(
    ("body", "given_type", "kind"),
    [
        (IMAGE, None, MediaType.OCI_MANIFEST),
        (IMAGE, "application/json", MediaType.OCI_MANIFEST),
        (IMAGE | {"mediaType": None}, MediaType.DOCKER_MANIFEST, MediaType.DOCKER_MANIFEST),
        (IMAGE | {"mediaType": None}, "text/plain", MediaType.OCI_MANIFEST),
        (INDEX | {"mediaType": None}, "application/octet-stream; charset=x", MediaType.OCI_INDEX),
        (INDEX, f"{MediaType.OCI_INDEX}; charset=utf-8", MediaType.OCI_INDEX),
    ],
)
def test_the_kind_is_what_the_document_says_or_what_it_came_as(body: object, given_type: str, kind: str) -> None:
    assert parse(body, given_type).media_type == kind


@pytest.mark.parametrize(
    ("body", "given_type", "code"),
    [
        (b"no json", None, "manifest_invalid"),
        (b"[]", None, "manifest_invalid"),
        (b'{"a": NaN}', None, "manifest_invalid"),
        (b'{"mediaType": "x", "mediaType": "y"}', None, "manifest_invalid"),
        (b"[" * 100_000, None, "manifest_invalid"),
        (b" " * (MAX_MANIFEST_BYTES + 1), None, "limit_exceeded"),
        ({"a": eval("[" * 70 + "]" * 70)}, None, "limit_exceeded"),  # noqa: S307 — a literal
        (IMAGE | {"manifests": []}, None, "manifest_invalid"),
        (INDEX | {"layers": []}, None, "manifest_invalid"),
        (IMAGE, MediaType.OCI_INDEX, "manifest_invalid"),
        (IMAGE | {"schemaVersion": 1}, None, "manifest_invalid"),
        (IMAGE, MediaType.DOCKER_SCHEMA1_SIGNED, "manifest_invalid"),
        (IMAGE | {"mediaType": "application/vnd.example"}, None, "manifest_invalid"),
        (IMAGE | {"mediaType": 7}, None, "manifest_invalid"),
        ({key: IMAGE[key] for key in ("schemaVersion", "layers")}, None, "manifest_invalid"),
        (IMAGE | {"layers": {}}, None, "manifest_invalid"),
        (IMAGE | {"config": IMAGE["config"] | {"digest": "sha256:../x"}}, None, "manifest_invalid"),
        (IMAGE | {"config": IMAGE["config"] | {"size": -1}}, None, "limit_exceeded"),
        (IMAGE | {"config": IMAGE["config"] | {"size": 2**41}}, None, "limit_exceeded"),
        (IMAGE | {"config": IMAGE["config"] | {"size": True}}, None, "limit_exceeded"),
        (IMAGE | {"config": IMAGE["config"] | {"mediaType": ""}}, None, "manifest_invalid"),
        (IMAGE | {"subject": "x"}, None, "manifest_invalid"),
        (IMAGE | {"config": EMPTY | {"data": "e3s="}}, None, "manifest_invalid"),
        (IMAGE | {"config": EMPTY | {"data": "e30"}}, None, "manifest_invalid"),
        (IMAGE | {"config": EMPTY | {"data": {}}}, None, "manifest_invalid"),
        (IMAGE | {"config": EMPTY | {"size": 3, "data": "e30="}}, None, "manifest_invalid"),
        (INDEX | {"manifests": [EMPTY | {"platform": {"os": "l" * 129, "architecture": "a"}}]}, None, "limit_exceeded"),
        (INDEX | {"manifests": [EMPTY | {"platform": {"os": "l", "architecture": "a" * 129}}]}, None, "limit_exceeded"),
    ],
)
def test_a_document_that_is_none_of_ours_is_refused(body: object, given_type: str | None, code: str) -> None:
    with pytest.raises(ContentError) as refused:
        parse(body, given_type)
    assert refused.value.code == code


def test_content_that_a_descriptor_brings_along_is_taken_where_it_is_what_it_says() -> None:
    assert parse(IMAGE | {"config": EMPTY | {"data": "e30="}}).blobs[0].size == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType"])


@given(changes=st.dictionaries(FIELDS, JSON, max_size=3), base=st.sampled_from([IMAGE, INDEX]))
def test_any_document_is_understood_or_refused(changes: dict[str, Any], base: dict[str, Any]) -> None:
    try:
        parsed = parse(base | changes)
    except ContentError:
        return
    assert not (parsed.children and parsed.blobs)


@given(raw=st.binary(max_size=60))
def test_any_bytes_are_understood_or_refused(raw: bytes) -> None:
    with pytest.raises(ContentError):
        parse(raw)


def test_what_a_referrers_list_shows_of_a_manifest() -> None:
    plain = parse(IMAGE | {"annotations": {"a": "b"}})
    assert (plain.descriptor.artifact_type, plain.descriptor.annotations) == ("application/x", (("a", "b"),))
    assert parse(IMAGE | {"artifactType": "application/z"}).descriptor.artifact_type == "application/z"


@pytest.mark.parametrize(
    ("wanted", "there", "taken"),
    [
        ("linux/amd64", Platform("linux", "amd64"), True),
        ("linux/amd64", Platform("windows", "amd64"), False),
        ("linux/arm64", Platform("linux", "arm64", "v8"), True),
        ("linux/arm64/v8", Platform("linux", "arm64"), True),
        ("linux/arm/v7", Platform("linux", "arm"), True),
        ("linux/arm/v6", Platform("linux", "arm", "v7"), False),
    ],
)
def test_a_wish_for_a_platform_takes_what_runs_there(wanted: str, there: Platform, *, taken: bool) -> None:
    assert Platform.parse(wanted).selects(there) is taken


@pytest.mark.parametrize("text", ["linux", "linux/", "Linux/amd64", "linux/arm/v7/x", "linux/amd64 "])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not os/architecture"):
        Platform.parse(text)
