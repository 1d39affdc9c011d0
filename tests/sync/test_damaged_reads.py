"""What arrives damaged once is asked for once more, over another connection; twice is what it is."""

import pytest

from app.domain.errors import ContentError, RegistryError
from app.domain.reference import Repository, Tag
from tests.support.fake_registry import FakeRegistry, Kind, Quirks, Respond, fake_registry, on
from tests.support.images import OCI_INDEX, artifact, blob, fallback_index, fallback_tag, oci_image, oci_index
from tests.sync.workbench import Workbench, workbench

LARGE = blob("large", size=3_000_000)
IMAGE = oci_image("one", layers=[LARGE])
INDEX = oci_index([IMAGE])


def spoil(registry: FakeRegistry, kind: Kind, body: bytes, *, times: int = 1) -> None:
    """Let a registry answer a cut document that looks whole."""
    json = (("Content-Type", "application/json"),)
    registry.faults.add(Respond(200, json, body), matching=on(kind, method="GET"), times=times)


def assert_other_connection(registry: FakeRegistry, kind: Kind) -> None:
    first, second, *_ = registry.journal.find(kind, method="GET")
    assert first.connection != second.connection


@pytest.mark.parametrize("reference", ["tag", "digest"])
async def test_a_manifest_is_asked_for_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, reference: str
) -> None:
    here.load("app", INDEX, "1")
    spoil(here, "manifest", INDEX.raw[:-20])
    client = bench.clients.for_repository(Repository.parse(f"{here.host}/app"))
    if reference == "tag":
        assert (await client.get_manifest("app", Tag("1"))).raw == INDEX.raw
    else:
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
        assert (result.outcome, result.error, result.attempts) == ("copied", None, 1)
    assert_other_connection(here, "manifest")


async def test_a_manifest_that_stays_damaged_is_refused(bench: Workbench, here: FakeRegistry) -> None:
    here.load("app", INDEX, "1")
    spoil(here, "manifest", INDEX.raw[:-20], times=2)
    client = bench.clients.for_repository(Repository.parse(f"{here.host}/app"))
    with pytest.raises(ContentError):
        await client.get_manifest("app", Tag("1"))
    assert here.journal.count("manifest") == 2


async def test_what_was_pushed_wrong_is_not_asked_for_twice(bench: Workbench, here: FakeRegistry) -> None:
    here.content.put_manifest("app", b'{"mediaType": 7}', tag="1")
    client = bench.clients.for_repository(Repository.parse(f"{here.host}/app"))
    with pytest.raises(ContentError):
        await client.get_manifest("app", Tag("1"))
    assert here.journal.count("manifest") == 1


async def test_a_list_of_tags_is_asked_for_again(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1", "2")
    spoil(here, "tags", b'{"name": "app", "tags": ["1", "2')
    results = await bench.sync(f"{here.host}/app", f"{there.host}/app")
    assert [result.outcome for result in results] == ["copied", "copied"]
    assert_other_connection(here, "tags")


async def test_a_catalog_is_asked_for_again(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    spoil(here, "catalog", b'{"repositories": ["ap')
    assert len(await bench.plan({"source": f"{here.host}/**", "destination": there.host})) == 1
    assert_other_connection(here, "catalog")


async def test_a_list_of_referrers_is_asked_for_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    sbom = artifact("sbom", subject=IMAGE)
    here.load("app", IMAGE, "1")
    here.load("app", sbom)
    cut = (("Content-Type", OCI_INDEX),)
    here.faults.add(Respond(200, cut, b'{"manifests": [{'), matching=on("referrers"))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"
    assert sbom.digest in there.content.repository("app").manifests
    assert_other_connection(here, "referrers")


async def test_the_index_under_a_fallback_tag_is_asked_for_again(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    sbom = artifact("sbom", subject=IMAGE)
    here.change(referrers="missing", manifest_digest_header="missing")
    here.load("app", IMAGE, "1")
    here.load("app", sbom)
    index = fallback_index([sbom])
    here.load("app", index, fallback_tag(IMAGE.digest))
    cut = Respond(200, (("Content-Type", OCI_INDEX),), index.raw[:-9])
    here.faults.add(cut, matching=on("manifest", method="GET", reference=fallback_tag(IMAGE.digest)))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.warnings) == ("copied", ())
    assert sbom.digest in there.content.repository("app").manifests


async def test_a_token_is_asked_for_again() -> None:
    async with fake_registry(Quirks(auth="token")) as here, fake_registry() as there:
        here.load("app", IMAGE, "1")
        spoil(here, "token", b'{"token": "half a to')
        async with workbench(here, there) as bench:
            [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
        assert (result.outcome, result.error) == ("copied", None)
        assert_other_connection(here, "token")


async def test_a_page_of_something_else_is_not_asked_for_again() -> None:
    async with fake_registry(Quirks(auth="token", token_body="html")) as here:
        async with workbench(here) as bench:
            client = bench.clients.for_repository(Repository.parse(f"{here.host}/app"))
            with pytest.raises(RegistryError):
                await client.get_manifest("app", Tag("1"))
        assert here.journal.count("token") == 1


@pytest.mark.parametrize("wrong", ["flipped", "short", "long"])
@pytest.mark.parametrize("with_length", [True, False])
async def test_a_blob_is_read_again(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    wrong: str,
    *,
    with_length: bool,
) -> None:
    here.load("app", IMAGE, "1")
    here.change(blob_bytes=wrong, blob_bytes_wrong_times=1, blob_without_length=not with_length)
    here.change(only_blobs=frozenset({LARGE.digest}))
    destinations = (there.reference("app", "1"), there.reference("other", "1"))
    results = await bench.copy(here.reference("app", "1"), *destinations)
    assert [(result.outcome, result.error, result.attempts) for result in results] == [("copied", None, 1)] * 2
    assert there.content.blob("app", LARGE.digest) == there.content.blob("other", LARGE.digest) == LARGE.data
    first, second = here.journal.find("blob", method="GET", reference=LARGE.digest)
    assert first.connection != second.connection


async def test_a_blob_that_stays_damaged_fails_its_image(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.change(blob_bytes="flipped", only_blobs=frozenset({LARGE.digest}))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side, result.error.temporary) == ("digest_mismatch", "source", False)
    assert here.journal.count("blob", method="GET", reference=LARGE.digest) == 2
    assert there.content.tags("app") == {}
