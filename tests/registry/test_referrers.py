"""Referrers: the API, the fallback tag, and an index that several keep."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.errors import ContentError, RegistryError
from app.domain.reference import Digest, Tag
from app.registry.client import ClientPool, RegistryClient
from tests.registry.conftest import Connect, parsed
from tests.support.clock import SettableClock
from tests.support.fake_registry import Call, Entry, FakeRegistry, Quirks, fake_registry, on
from tests.support.images import (
    Manifest,
    artifact,
    docker_image,
    docker_list,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)

IMAGE = oci_image("app")
SUBJECT = Digest(IMAGE.digest)
SIGNATURE, SBOM = (artifact(name, subject=IMAGE, annotations={"made-by": name}) for name in ("signature", "sbom"))
NO_API: list[dict[str, Any]] = [
    {"referrers": "missing"},
    {"referrers": "html"},
    {"referrers": "json_error"},
    {"referrers": "manifest"},
    {"referrers_status": 400},
    {"referrers_status": 405},
    {"referrers_status": 500},
]


def filled(registry: FakeRegistry, *referrers: Manifest) -> None:
    registry.load("team/app", IMAGE, "v1")
    for referrer in referrers:
        registry.load("team/app", referrer)


async def listed(client: RegistryClient) -> list[str]:
    return sorted(entry.digest for entry in await client.list_referrers("team/app", SUBJECT))


async def test_the_api_is_asked(connect: Connect) -> None:
    async with fake_registry(Quirks(page_cap=1)) as registry:
        filled(registry, SIGNATURE, SBOM)
        assert await listed(connect(registry)) == sorted([SIGNATURE.digest, SBOM.digest])
        assert registry.journal.count("referrers") == 2
        assert registry.journal.count("manifest") == 0


@pytest.mark.parametrize("quirks", NO_API)
async def test_without_an_api_the_fallback_tag_is_read(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        filled(registry, SIGNATURE, SBOM)
        client = connect(registry)
        assert await listed(client) == []
        registry.load("team/app", fallback_index([SIGNATURE, SBOM]), fallback_tag(IMAGE.digest))
        assert await listed(client) == sorted([SIGNATURE.digest, SBOM.digest])


async def test_a_missing_api_is_remembered(connect: Connect) -> None:
    async with fake_registry(Quirks(referrers="missing")) as registry:
        filled(registry)
        client = connect(registry)
        for _ in range(3):
            await listed(client)
        assert registry.journal.count("referrers") == 1


async def test_an_image_under_the_fallback_tag_is_not_believed(connect: Connect) -> None:
    async with fake_registry(Quirks(referrers="missing", fallback_tag_is_image=True)) as registry:
        filled(registry)
        assert await listed(connect(registry)) == []


async def test_an_index_that_is_its_own_fallback_is_not_believed(connect: Connect) -> None:
    index = oci_index([IMAGE])
    async with fake_registry(Quirks(referrers="missing", fallback_tag_is_image=True)) as registry:
        registry.load("team/app", index, "v1")
        assert await connect(registry).list_referrers("team/app", Digest(index.digest)) == ()


async def test_a_manifest_does_not_refer_to_itself(connect: Connect) -> None:
    async with fake_registry(Quirks(referrers="missing")) as registry:
        filled(registry, SIGNATURE)
        registry.load("team/app", fallback_index([IMAGE, SIGNATURE, SIGNATURE]), fallback_tag(IMAGE.digest))
        assert await listed(connect(registry)) == [SIGNATURE.digest]


@pytest.mark.parametrize("etags", [True, False])
async def test_an_entry_is_added_and_the_others_kept(connect: Connect, *, etags: bool) -> None:
    async with fake_registry(Quirks(referrers="missing", etags=etags)) as registry:
        filled(registry, SIGNATURE, SBOM)
        index = json.loads(fallback_index([SBOM]).raw)
        index["annotations"] = {"kept": "as it is"}
        index["manifests"][0]["x-unknown"] = 7
        registry.content.put_manifest(
            "team/app", json.dumps(index).encode(), fallback_index([]).media_type, tag=fallback_tag(IMAGE.digest)
        )
        client = connect(registry)
        for _ in range(2):
            await client.add_referrer_fallback("team/app", SUBJECT, parsed(SIGNATURE).descriptor)
        found = await client.get_manifest("team/app", Tag(fallback_tag(IMAGE.digest)))
        document = json.loads(found.raw)
        assert document["annotations"] == {"kept": "as it is"}
        assert document["manifests"][0] == index["manifests"][0]
        assert document["manifests"][1] == {
            "mediaType": SIGNATURE.media_type,
            "digest": SIGNATURE.digest,
            "size": SIGNATURE.size,
            "artifactType": SIGNATURE.artifact_type,
            "annotations": {"made-by": "signature"},
        }
        assert len(document["manifests"]) == 2


async def test_writers_of_one_process_wait_for_each_other(connect: Connect) -> None:
    async with fake_registry(Quirks(referrers="missing", latency_seconds=0.005)) as registry:
        many = [artifact(f"n{number}", subject=IMAGE) for number in range(8)]
        filled(registry, *many)
        client = connect(registry)
        await asyncio.gather(
            *(client.add_referrer_fallback("team/app", SUBJECT, parsed(one).descriptor) for one in many)
        )
        assert await listed(client) == sorted(one.digest for one in many)


@pytest.mark.parametrize("etags", [True, False])
async def test_another_writer_in_between_loses_nothing(connect: Connect, *, etags: bool) -> None:
    async with fake_registry(Quirks(referrers="missing", etags=etags)) as registry:
        filled(registry, SIGNATURE, SBOM)

        def write(_: Entry) -> None:
            registry.load("team/app", fallback_index([SBOM]), fallback_tag(IMAGE.digest))

        registry.load("team/app", fallback_index([]), fallback_tag(IMAGE.digest))
        # With ETags: between our read and our write, which is then refused. Without: right after our write.
        method, number = ("PUT", 1) if etags else ("GET", 2)
        registry.faults.add(Call(write), number=number, matching=on("manifest", method=method))
        client = connect(registry)
        await client.add_referrer_fallback("team/app", SUBJECT, parsed(SIGNATURE).descriptor)
        assert await listed(client) == sorted([SIGNATURE.digest, SBOM.digest])


async def test_a_writer_that_always_comes_between_is_given_up_on(connect: Connect) -> None:
    async with fake_registry(Quirks(referrers="missing")) as registry:
        filled(registry, SIGNATURE, SBOM)

        def write(_: Entry) -> None:
            registry.load("team/app", fallback_index([SBOM]), fallback_tag(IMAGE.digest))

        registry.faults.add(Call(write), matching=on("manifest", method="GET"), times=None)
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).add_referrer_fallback("team/app", SUBJECT, parsed(SIGNATURE).descriptor)
        assert refusal.value.temporary


@pytest.mark.parametrize("make", [oci_image, lambda seed: docker_list([docker_image(seed)])])
async def test_a_tag_that_holds_something_else_is_left_alone(connect: Connect, make: Callable[[str], Manifest]) -> None:
    async with fake_registry(Quirks(referrers="missing")) as registry:
        filled(registry, SIGNATURE)
        other = make("somebody's own")
        registry.load("team/app", other, fallback_tag(IMAGE.digest))
        client = connect(registry)
        assert await listed(client) == []
        with pytest.raises(ContentError):
            await client.add_referrer_fallback("team/app", SUBJECT, parsed(SIGNATURE).descriptor)
        assert registry.content.tags("team/app")[fallback_tag(IMAGE.digest)] == other.digest


async def test_gitlabs_image_under_the_tag_gives_way_to_an_index(connect: Connect) -> None:
    async with fake_registry(Quirks(referrers="missing", fallback_tag_is_image=True)) as registry:
        filled(registry, SIGNATURE)
        client = connect(registry)
        await client.add_referrer_fallback("team/app", SUBJECT, parsed(SIGNATURE).descriptor)
        assert await listed(client) == [SIGNATURE.digest]


async def test_a_pool_of_another_process_loses_nothing_either(connect: Connect, clock: SettableClock) -> None:
    async with fake_registry(Quirks(referrers="missing", etags=True)) as registry:
        many = [artifact(f"n{number}", subject=IMAGE) for number in range(4)]
        filled(registry, *many)
        registry.load("team/app", fallback_index([]), fallback_tag(IMAGE.digest))
        client = connect(registry)
        other_pool = ClientPool(clock=clock)
        try:
            other = other_pool.clients((client.entry,)).for_registry(client.entry.registry)
            await asyncio.gather(
                *(
                    one.add_referrer_fallback("team/app", SUBJECT, parsed(referrer).descriptor)
                    for one, referrer in zip([client, other] * 2, many, strict=True)
                )
            )
        finally:
            await other_pool.aclose()
        assert await listed(client) == sorted(one.digest for one in many)
