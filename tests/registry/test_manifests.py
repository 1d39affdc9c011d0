"""Manifests: what is asked, what is believed, what a refusal means."""

import gzip
import json
import tracemalloc
from typing import Any

import pytest

from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import digest_of, parse_manifest
from app.domain.reference import Digest, Tag
from app.registry.http.client import _inflate
from app.registry.http.errors import ErrorContext
from tests.registry.conftest import Connect, basic, parsed
from tests.support.fake_registry import Cut, CutAnswer, Quirks, Respond, fake_registry, on
from tests.support.images import docker_image, docker_list, oci_image, oci_index

IMAGE, OTHER = oci_image("app"), oci_image("other")
V1 = Tag("v1")


@pytest.mark.parametrize(
    "manifest", [IMAGE, oci_index([IMAGE]), docker_image("app"), docker_list([docker_image("app")])]
)
async def test_every_kind_is_accepted_in_one_header(connect: Connect, manifest: Any) -> None:
    async with fake_registry(Quirks(only_first_accept_header=True)) as registry:
        registry.load("team/app", manifest, "v1")
        client = connect(registry)
        found = await client.get_manifest("team/app", V1)
        assert (found.raw, found.media_type) == (manifest.raw, manifest.media_type)
        described = await client.head_manifest("team/app", V1)
        assert described is not None
        assert described.digest == manifest.digest
        assert registry.journal.count("manifest") == 2


@pytest.mark.parametrize(
    "quirks",
    [
        {"head_manifest_status": 405},
        {"head_manifest_status": 400},
        {"head_manifest_status": 403},
        {"head_manifest_status": 401},
        {"head_manifest_status": 500},
        {"head_manifest_without_digest": True},
        {"head_manifest_without_length": True},
        {"manifest_content_type": "application/json"},
        {"manifest_content_type": "text/plain"},
    ],
)
async def test_get_answers_where_head_does_not(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        registry.load("team/app", IMAGE, "v1")
        described = await connect(registry).head_manifest("team/app", V1)
        assert described is not None
        assert (described.digest, described.size) == (IMAGE.digest, IMAGE.size)
        assert described.media_type == IMAGE.media_type
        assert registry.journal.table() == {"GET ping": 1, "HEAD manifest": 1, "GET manifest": 1}


@pytest.mark.parametrize(
    "quirks",
    [
        {},
        {"missing_manifest_status": 403},
        {"missing_manifest_code": "NOT_FOUND"},
        {"missing_manifest_code": "UNKNOWN"},
        {"missing_manifest_status": 400, "missing_manifest_code": "UNKNOWN"},
    ],
)
async def test_what_is_missing_is_missing_however_it_is_said(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        client = connect(registry)
        assert await client.head_manifest("team/app", V1) is None
        with pytest.raises(RegistryError) as missing:
            await client.get_manifest("team/app", V1)
        assert (missing.value.code, missing.value.temporary) == ("reference_not_found", False)


async def test_a_denial_is_not_taken_for_nothing_there(connect: Connect) -> None:
    async with fake_registry() as registry:
        body = json.dumps({"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]})
        registry.faults.add(Respond(403, body=body.encode()), matching=on("manifest"), times=None)
        with pytest.raises(RegistryError, match="requested access") as denial:
            await connect(registry).head_manifest("team/app", V1)
        assert (denial.value.code, denial.value.status, denial.value.spec_codes) == ("denied", 403, ("DENIED",))


@pytest.mark.parametrize("header", ["right", "missing"])
async def test_another_manifest_than_the_digest_asked_for_is_refused(connect: Connect, header: Any) -> None:
    async with fake_registry(Quirks(manifest_bytes_other=True, manifest_digest_header=header)) as registry:
        registry.load("team/app", IMAGE, "v1")
        with pytest.raises(ContentError) as refusal:
            await connect(registry).get_manifest("team/app", Digest(IMAGE.digest))
        assert (refusal.value.code, refusal.value.temporary) == ("digest_mismatch", False)


async def test_a_wrong_digest_header_is_refused(connect: Connect) -> None:
    async with fake_registry(Quirks(manifest_digest_header="wrong")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry)
        for target in (Digest(IMAGE.digest), V1):
            with pytest.raises(ContentError) as refusal:
                await client.get_manifest("team/app", target)
            assert refusal.value.code == "digest_mismatch"
        with pytest.raises(ContentError):
            await client.head_manifest("team/app", Digest(IMAGE.digest))


async def test_without_a_digest_header_the_body_is_hashed(connect: Connect) -> None:
    async with fake_registry(Quirks(manifest_digest_header="missing")) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert (await connect(registry).get_manifest("team/app", V1)).digest == IMAGE.digest


async def test_sha512_digests_are_checked_with_sha512(connect: Connect) -> None:
    async with fake_registry() as registry:
        digest = digest_of(IMAGE.raw, "sha512")
        registry.content.put_manifest("team/app", IMAGE.raw, IMAGE.media_type, tag="v1", digest=digest)
        client = connect(registry)
        assert (await client.get_manifest("team/app", digest)).digest == digest
        assert (await client.get_manifest("team/app", V1)).digest == digest
        registry.content.put_manifest("team/app", OTHER.raw, OTHER.media_type, digest=digest)
        with pytest.raises(ContentError):
            await client.get_manifest("team/app", digest)


@pytest.mark.parametrize("gzipped", [False, True])
async def test_a_huge_manifest_is_not_read_to_its_end(connect: Connect, *, gzipped: bool) -> None:
    quirks = Quirks(manifest_padded_to_bytes=64 * 1024 * 1024, manifest_gzip=gzipped)
    async with fake_registry(quirks) as registry:
        registry.load("team/app", IMAGE, "v1")
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).get_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.temporary) == ("limit_exceeded", False)
        assert registry.journal.sent_bytes("manifest") < 16 * 1024 * 1024


def test_a_bomb_is_not_inflated_beyond_the_limit() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(RegistryError) as refusal:
            _inflate(bomb, {"content-encoding": "gzip"}, context=ErrorContext("registry", "get_manifest"), limit=1024)
        assert refusal.value.code == "limit_exceeded"
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_a_gzipped_manifest_is_read_all_the_same(connect: Connect) -> None:
    async with fake_registry(Quirks(manifest_gzip=True)) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry)
        assert (await client.get_manifest("team/app", V1)).raw == IMAGE.raw
        asked = registry.journal.find("manifest")[0]
        assert asked.header("accept-encoding") == "identity"


async def test_a_content_type_with_parameters_is_understood(connect: Connect) -> None:
    async with fake_registry(Quirks(manifest_type_with_parameter=True)) as registry:
        registry.load("team/app", IMAGE, "v1")
        described = await connect(registry).head_manifest("team/app", V1)
        assert described is not None
        assert described.media_type == IMAGE.media_type
        assert registry.journal.count("manifest", method="GET") == 0


async def test_manifest_redirects_are_followed_without_credentials(connect: Connect) -> None:
    async with fake_registry(Quirks(auth="basic", manifest_redirect="storage")) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, auth=basic())
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
        registry.check()


async def test_the_media_type_goes_with_the_manifest(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE)
        outcome = await connect(registry).put_manifest("team/app", V1, parsed(IMAGE))
        assert (outcome.digest, outcome.subject_acknowledged) == (IMAGE.digest, False)
        assert registry.journal.find("manifest", method="PUT")[0].header("content-type") == IMAGE.media_type
        assert registry.content.tags("team/app") == {"v1": IMAGE.digest}


async def test_a_manifest_without_a_media_type_is_pushed_byte_for_byte(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE)
        document = json.loads(IMAGE.raw)
        del document["mediaType"]
        raw = json.dumps(document, indent=7).encode()
        manifest = parse_manifest(raw, media_type=None, digest=digest_of(raw))
        await connect(registry).put_manifest("team/app", V1, manifest)
        assert registry.content.repository("team/app").manifests[manifest.digest].raw == raw


@pytest.mark.parametrize(
    "quirks", [{"manifest_put_status": 200}, {"manifest_put_status": 202}, {"manifest_put_without_digest": True}]
)
async def test_a_manifest_that_was_taken_is_taken_whatever_the_answer(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        registry.load("team/app", IMAGE)
        assert (await connect(registry).put_manifest("team/app", V1, parsed(IMAGE))).digest == IMAGE.digest
        heads = registry.journal.count("manifest", method="HEAD")
        assert heads == (1 if "manifest_put_without_digest" in quirks else 0)


async def test_a_site_that_says_yes_to_everything_is_found_out(connect: Connect) -> None:
    async with fake_registry(Quirks(accepts_everything=True)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).put_manifest("team/app", V1, parsed(IMAGE))
        assert refusal.value.code == "manifest_rejected"


IMMUTABLE = ["harbor", "quay", "docker_hub", "ecr", "gitlab", "acr", "nexus", "artifactory"]


@pytest.mark.parametrize("registry_type", IMMUTABLE)
async def test_a_tag_that_may_not_move_is_called_that(connect: Connect, registry_type: Any) -> None:
    async with fake_registry(Quirks(immutable_tags=registry_type)) as registry:
        registry.load("team/app", IMAGE, "v1")
        registry.load("team/app", OTHER)
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).put_manifest("team/app", V1, parsed(OTHER))
        assert (refusal.value.code, refusal.value.temporary) == ("tag_immutable", False)


@pytest.mark.parametrize("registry_type", IMMUTABLE)
async def test_putting_what_is_there_already_is_no_conflict(connect: Connect, registry_type: Any) -> None:
    async with fake_registry(Quirks(immutable_tags=registry_type, immutable_even_same=True)) as registry:
        registry.load("team/app", IMAGE, "v1")
        assert (await connect(registry).put_manifest("team/app", V1, parsed(IMAGE))).digest == IMAGE.digest


@pytest.mark.parametrize(
    ("quirks", "code"),
    [
        ({"manifest_put_refused": 401}, "unauthorized"),
        ({"manifest_put_refused": 403}, "denied"),
        ({"read_only": True}, "denied"),
        ({"max_manifest_bytes": 10}, "limit_exceeded"),
        ({"refused_media_types": frozenset({IMAGE.media_type})}, "manifest_rejected"),
    ],
)
async def test_refusals_of_a_manifest_have_their_codes(connect: Connect, quirks: dict[str, Any], code: str) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        registry.load("team/app", IMAGE)
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).put_manifest("team/app", Digest(IMAGE.digest), parsed(IMAGE))
        assert (refusal.value.temporary, refusal.value.operation) == (False, "put_manifest")
        assert refusal.value.code in ({code, "denied"} if code == "unauthorized" else {code})


@pytest.mark.parametrize("fault", [Respond(503), Respond(502), Respond(500), Cut(), CutAnswer(20)])
async def test_what_is_temporary_is_tried_again(connect: Connect, fault: Any) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry)
        for method in ("GET", "PUT"):
            registry.faults.add(fault, matching=on("manifest", method=method), times=2)
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
        assert (await client.put_manifest("team/app", Tag("v2"), parsed(IMAGE))).digest == IMAGE.digest


async def test_a_put_whose_answer_got_lost_is_put_again(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE)
        registry.faults.add(Cut(), matching=on("manifest", method="PUT"), after_work=True)
        assert (await connect(registry).put_manifest("team/app", V1, parsed(IMAGE))).digest == IMAGE.digest
        assert registry.journal.count("manifest", method="PUT") == 2


async def test_a_subject_that_was_acknowledged_is_reported(connect: Connect) -> None:
    signature = oci_image("signature", subject=IMAGE)
    for has_api in (True, False):
        async with fake_registry(Quirks(referrers="api" if has_api else "missing")) as registry:
            registry.load("team/app", IMAGE, "v1")
            registry.load("team/app", signature)
            outcome = await connect(registry).put_manifest("team/app", Digest(signature.digest), parsed(signature))
            assert outcome.subject_acknowledged is has_api


async def test_a_part_that_is_seen_late_is_waited_for_once(connect: Connect) -> None:
    async with fake_registry(Quirks(blobs_visible_after_puts=1)) as registry:
        registry.load("team/app", IMAGE)
        client = connect(registry)
        assert (await client.put_manifest("team/app", V1, parsed(IMAGE))).digest == IMAGE.digest
        with pytest.raises(RegistryError) as refusal:
            await client.put_manifest("team/other", V1, parsed(IMAGE))
        assert refusal.value.code == "manifest_rejected"
        assert registry.journal.count("manifest", method="PUT") == 3
