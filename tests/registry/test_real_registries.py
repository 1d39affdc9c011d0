"""Every operation against CNCF Distribution itself: open to all, with passwords, with tokens, over TLS."""

import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from app.domain.errors import RegistryError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Tag
from app.registry.client import RegistryClient
from tests.registry.conftest import Connect, basic, descriptor, parsed, pieces, upload
from tests.support.images import artifact, blob, oci_image, oci_index
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.token_server import Account, TokenServer

USERS = {"ann": "secret"}


def _plain(_: ExitStack) -> RegistryOptions:
    return RegistryOptions(relative_urls=True)


def _basic(_: ExitStack) -> RegistryOptions:
    return RegistryOptions(users=USERS)


def _token(stack: ExitStack) -> RegistryOptions:
    return RegistryOptions(token_server=stack.enter_context(TokenServer({"ann": Account("secret")})))


def _tls(_: ExitStack) -> RegistryOptions:
    return RegistryOptions(users=USERS, tls=True)


@pytest.fixture(params=[_plain, _basic, _token, _tls], ids=["plain", "basic", "token", "tls"], scope="module")
def registry(request: pytest.FixtureRequest) -> Iterator[RegistryProcess]:
    """Run one kind of registry for the tests of this file."""
    make: Callable[[ExitStack], RegistryOptions] = request.param
    with ExitStack() as stack:
        yield stack.enter_context(RegistryProcess(make(stack)))


@pytest.fixture
def client(registry: RegistryProcess, connect: Connect) -> RegistryClient:
    """Return a client that may do everything."""
    is_open = not registry.options.users and registry.options.token_server is None
    return connect(registry, auth={"type": "none"} if is_open else basic())


async def push(client: RegistryClient, repository: str, seed: str, tag: str) -> str:
    image = oci_image(seed)
    for layer in image.blobs:
        await upload(client, repository, layer)
    await client.put_manifest(repository, Digest(image.digest), parsed(image))
    await client.put_manifest(repository, Tag(tag), parsed(image))
    return image.digest


async def test_an_image_is_written_and_read_back(client: RegistryClient) -> None:
    image = oci_image("written")
    digest = await push(client, "team/written", "written", "v1")
    described = await client.head_manifest("team/written", Tag("v1"))
    assert described is not None
    assert (described.digest, described.size, described.media_type) == (digest, image.size, image.media_type)
    manifest = await client.get_manifest("team/written", Tag("v1"))
    assert manifest.raw == image.raw
    assert await client.get_manifest("team/written", Digest(digest)) == manifest
    assert [tag async for tag in client.list_tags("team/written")] == ["v1"]
    assert "team/written" in [path async for path in client.list_repositories("team")]
    assert "team/written" not in [path async for path in client.list_repositories("teams")]


async def test_what_is_not_there_is_said_so(client: RegistryClient) -> None:
    await push(client, "team/there", "there", "v1")
    nothing = descriptor(blob("nothing"))
    assert await client.head_manifest("team/there", Tag("v2")) is None
    assert await client.head_manifest("team/missing", Tag("v1")) is None
    assert not await client.has_blob("team/there", nothing)
    with pytest.raises(RegistryError) as missing:
        await client.get_manifest("team/there", Tag("v2"))
    assert (missing.value.code, missing.value.status) == ("reference_not_found", 404)
    with pytest.raises(RegistryError) as unknown:
        [tag async for tag in client.list_tags("team/missing")]
    assert unknown.value.code == "repository_missing"


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_001])
async def test_blobs_of_any_size_go_there_and_back(client: RegistryClient, size: int) -> None:
    layer = blob("any size", size=size)
    await upload(client, "team/blobs", layer)
    assert await client.has_blob("team/blobs", descriptor(layer))
    async with client.open_blob("team/blobs", descriptor(layer)) as reader:
        assert b"".join([part async for part in reader]) == layer.data


@pytest.mark.parametrize("offset", [0, 1, 99_999, 100_000])
async def test_a_blob_is_read_from_the_middle(client: RegistryClient, offset: int) -> None:
    layer = blob("from the middle", size=100_000)
    await upload(client, "team/blobs", layer)
    async with client.open_blob("team/blobs", descriptor(layer), offset=offset) as reader:
        assert reader.offset == offset
        assert b"".join([part async for part in reader]) == layer.data[offset:]


async def test_a_blob_is_mounted_from_a_neighbour(client: RegistryClient) -> None:
    layer = blob("mounted", size=5000)
    await upload(client, "team/neighbour", layer)
    assert await client.mount_blob("team/mounted", Digest(layer.digest), from_repository="team/neighbour") is None
    assert await client.has_blob("team/mounted", descriptor(layer))


async def test_a_mount_that_becomes_a_session_is_gone_on_in(client: RegistryClient) -> None:
    layer = blob("not there to mount", size=5000)
    session = await client.mount_blob("team/session", Digest(layer.digest), from_repository="team/neighbour")
    assert session is not None
    await session.send(pieces(layer.data), size=layer.size, digest=Digest(layer.digest))
    assert await client.has_blob("team/session", descriptor(layer))


async def test_a_session_is_cancelled_and_resumed(client: RegistryClient) -> None:
    layer = blob("half", size=400_000)
    session = await client.start_upload("team/half", descriptor(layer))

    async def half() -> object:
        yield layer.data[:200_000]
        raise RegistryError("the source broke", registry="source", operation="open_blob", code="timeout")

    with pytest.raises(RegistryError, match="the source broke"):
        await session.send(half(), size=layer.size, digest=Digest(layer.digest))  # type: ignore[arg-type]  # a sender that breaks off is no whole one
    await session.cancel()
    await session.cancel()
    await upload(client, "team/half", layer)
    assert await client.has_blob("team/half", descriptor(layer))


async def test_a_wrong_digest_is_not_stored(client: RegistryClient) -> None:
    layer, other = blob("right", size=5000), blob("wrong", size=5000)
    session = await client.start_upload("team/wrong", descriptor(layer))
    with pytest.raises(RegistryError) as refusal:
        await session.send(pieces(other.data), size=layer.size, digest=Digest(layer.digest))
    assert refusal.value.code == "digest_mismatch"
    assert not await client.has_blob("team/wrong", descriptor(layer))
    await session.cancel()


async def test_a_manifest_without_its_blobs_is_rejected(client: RegistryClient) -> None:
    image = oci_image("without its blobs")
    with pytest.raises(RegistryError) as refusal:
        await client.put_manifest("team/without", Tag("v1"), parsed(image))
    assert refusal.value.code == "manifest_rejected"
    assert "MANIFEST_BLOB_UNKNOWN" in refusal.value.spec_codes


async def test_an_index_is_pushed_after_its_children(client: RegistryClient) -> None:
    images = [oci_image("multi", platform="linux/amd64"), oci_image("multi", platform="linux/arm64")]
    index = oci_index(images)
    for image in images:
        for layer in image.blobs:
            await upload(client, "team/multi", layer)
        await client.put_manifest("team/multi", Digest(image.digest), parsed(image))
    await client.put_manifest("team/multi", Tag("v1"), parsed(index))
    assert [child.digest for child in (await client.get_manifest("team/multi", Tag("v1"))).children] == [
        image.digest for image in images
    ]


async def test_referrers_are_kept_under_the_fallback_tag(client: RegistryClient) -> None:
    subject = await push(client, "team/referred", "referred", "v1")
    image = oci_image("referred")
    signature = artifact("signature", subject=image)
    for part in signature.blobs:
        await upload(client, "team/referred", part)
    outcome = await client.put_manifest("team/referred", Digest(signature.digest), parsed(signature))
    assert not outcome.subject_acknowledged  # Distribution 2 has no referrers API
    assert await client.list_referrers("team/referred", Digest(subject)) == ()
    await client.add_referrer_fallback("team/referred", Digest(subject), parsed(signature).descriptor)
    found = await client.list_referrers("team/referred", Digest(subject))
    assert [(entry.digest, entry.artifact_type) for entry in found] == [(signature.digest, signature.artifact_type)]


async def test_tags_come_in_pages(client: RegistryClient, registry: RegistryProcess) -> None:
    digest = Digest(await push(client, "team/many", "many", "v0"))
    manifest = await client.get_manifest("team/many", digest)
    for number in range(1, 5):
        await client.put_manifest("team/many", Tag(f"v{number}"), manifest)
    assert sorted([tag async for tag in client.list_tags("team/many")]) == ["v0", "v1", "v2", "v3", "v4"]


async def test_a_capped_catalog_is_listed_to_its_end(
    connect: Connect, start_registry: Callable[..., RegistryProcess]
) -> None:
    registry = start_registry(RegistryOptions(catalog_page_cap=3))
    client = connect(registry)
    for number in range(8):
        await push(client, f"team/r{number}", "capped", "v1")
    assert [path async for path in client.list_repositories()] == [f"team/r{number}" for number in range(8)]


async def test_a_registry_entered_as_a_harbor_it_is_not_is_listed_by_its_catalog(
    client: RegistryClient, registry: RegistryProcess, connect: Connect
) -> None:
    await push(client, "team/app", "app", "v1")
    other = connect(registry, type="harbor", auth=client.entry.auth)
    assert "team/app" in [path async for path in other.list_repositories("team")]


async def test_a_login_that_may_not_see_the_catalog_is_told_what_to_do(
    connect: Connect, start_registry: Callable[[RegistryOptions], RegistryProcess]
) -> None:
    with TokenServer({"ann": Account("secret", catalog=False)}) as tokens:
        registry = start_registry(RegistryOptions(token_server=tokens))
        with pytest.raises(RegistryError, match="name the repositories in the rule") as refusal:
            [path async for path in connect(registry, auth=basic()).list_repositories()]
        assert (refusal.value.code, refusal.value.temporary) == ("denied", False)


async def test_without_a_password_nothing_is_told(
    connect: Connect, start_registry: Callable[..., RegistryProcess]
) -> None:
    registry = start_registry(RegistryOptions(users=USERS))
    for auth in ({"type": "none"}, basic(("ann", "wrong"))):
        client = connect(registry, auth=auth)
        with pytest.raises(RegistryError) as refusal:
            await client.get_manifest("team/app", Tag("v1"))
        assert (refusal.value.code, refusal.value.temporary) == ("unauthorized", False)


async def test_a_token_without_the_scope_is_a_denial(
    connect: Connect, start_registry: Callable[..., RegistryProcess]
) -> None:
    reader = Account("secret", repositories={"*": frozenset({"pull"})}, catalog=False)
    with TokenServer({"ann": reader}) as tokens:
        client = connect(start_registry(RegistryOptions(token_server=tokens)), auth=basic())
        with pytest.raises(RegistryError) as refusal:
            await client.start_upload("team/app", descriptor(blob("denied")))
        assert refusal.value.code in {"denied", "unauthorized"}
        assert not refusal.value.temporary


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_blob_never_lies_in_memory(
    connect: Connect,
    start_registry: Callable[..., RegistryProcess],
    *,
    chunked: bool,
) -> None:
    client = connect(start_registry(RegistryOptions()))
    piece, count = bytes(range(256)) * 1024, 256
    size = len(piece) * count
    digest = Digest(f"sha256:{hashlib.sha256(piece * count).hexdigest()}")
    client._strategy.refuses_whole = chunked

    async def many() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    tracemalloc.start()
    try:
        session = await client.start_upload("team/large", Descriptor("application/octet-stream", digest, size))
        await session.send(many(), size=size, digest=digest)
        hashed = hashlib.sha256()
        async with client.open_blob("team/large", Descriptor("application/octet-stream", digest, size)) as reader:
            async for part in reader:
                hashed.update(part)
        assert hashed.hexdigest() == digest.encoded
        assert tracemalloc.get_traced_memory()[1] < size / 8
    finally:
        tracemalloc.stop()
