"""Blobs: is it there, its bytes from anywhere in it, and redirects to storage without credentials."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import ContentError, RegistryError
from app.registry.client import RegistryClient
from app.registry.limits import ClientSettings
from tests.registry.conftest import QUICK, Connect, basic, descriptor
from tests.support.fake_registry import Quirks, Respond, fake_registry, on
from tests.support.images import Blob, blob
from tests.support.waiting import until

LAYER = blob("layer", size=300_000)


async def read(client: RegistryClient, layer: Blob = LAYER, *, offset: int = 0) -> tuple[int, bytes]:
    async with client.open_blob("team/app", descriptor(layer), offset=offset) as reader:
        return reader.offset, b"".join([part async for part in reader])


async def read_into(arrived: bytearray, client: RegistryClient) -> None:
    async with client.open_blob("team/app", descriptor(LAYER)) as reader:
        async for part in reader:
            arrived += part


@pytest.mark.parametrize("status", [405, 400, 403, 500, 501])
async def test_a_byte_is_asked_for_where_head_does_not_answer(connect: Connect, status: int) -> None:
    async with fake_registry(Quirks(head_blob_status=status)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry)
        assert await client.has_blob("team/app", descriptor(LAYER))
        assert not await client.has_blob("team/app", descriptor(blob("missing")))
        assert registry.journal.sent_bytes("blob") < 1000


async def test_a_missing_blob_may_be_a_403(connect: Connect) -> None:
    async with fake_registry(Quirks(missing_blob_status=403)) as registry:
        assert not await connect(registry).has_blob("team/app", descriptor(LAYER))


@pytest.mark.parametrize("offset", [0, 1, 150_000, 299_999])
@pytest.mark.parametrize(
    ("ranges", "start"),
    [
        ("honoured", lambda offset: offset),
        ("ignored", lambda _: 0),
        ("wrong_start", lambda offset: max(0, offset - 1)),
        ("wrong_header", lambda _: 0),
        ("no_header", lambda _: 0),
        ("refused", lambda _: 0),
    ],
)
async def test_the_bytes_begin_where_the_reader_says(connect: Connect, ranges: Any, start: Any, offset: int) -> None:
    async with fake_registry(Quirks(ranges=ranges)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        begin, data = await read(connect(registry), offset=offset)
        assert begin == start(offset)
        assert data == LAYER.data[begin:]


async def test_a_range_refused_with_a_broken_answer_is_asked_for_whole(connect: Connect) -> None:
    async with fake_registry(Quirks(ranges="refused", refused_range_breaks=True)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        assert await read(connect(registry), offset=1000) == (0, LAYER.data)


async def test_nothing_is_asked_for_when_nothing_is_left(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.content.put_blob("team/app", LAYER.data)
        assert await read(connect(registry), offset=LAYER.size) == (LAYER.size, b"")
        assert registry.journal.count("blob") == 0


@pytest.mark.parametrize("quirks", [{"blob_bytes": "short"}, {"blob_bytes": "long"}])
@pytest.mark.parametrize("with_length", [True, False])
async def test_another_size_than_the_descriptors_is_refused(
    connect: Connect,
    quirks: dict[str, Any],
    *,
    with_length: bool,
) -> None:
    async with fake_registry(Quirks(blob_without_length=not with_length, **quirks)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        told = "announced" if with_length else "came"
        with pytest.raises(ContentError, match=told) as refusal:
            await read(connect(registry))
        assert (refusal.value.code, refusal.value.temporary) == ("size_mismatch", False)


async def test_a_length_is_not_needed(connect: Connect) -> None:
    async with fake_registry(Quirks(blob_without_length=True)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        assert await read(connect(registry), offset=7) == (7, LAYER.data[7:])


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip", "br"])
async def test_a_label_of_an_encoding_changes_no_byte(connect: Connect, encoding: str) -> None:
    async with fake_registry(Quirks(blob_labelled=encoding)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        assert await read(connect(registry)) == (0, LAYER.data)


async def test_a_blob_that_was_really_encoded_does_not_fit_and_says_why(connect: Connect) -> None:
    async with fake_registry(Quirks(blob_gzip=True)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        with pytest.raises(ContentError, match="Content-Encoding gzip") as refusal:
            await read(connect(registry))
        assert refusal.value.code == "size_mismatch"


async def test_the_length_of_what_is_there_is_looked_at_twice(connect: Connect) -> None:
    async with fake_registry(Quirks(head_blob_length=7)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry)
        assert await client.has_blob("team/app", descriptor(LAYER))
        assert registry.journal.count("blob", method="GET") == 1  # which knows better
        registry.change(range_total=7)
        with pytest.raises(ContentError, match="7 bytes") as refusal:
            await client.has_blob("team/app", descriptor(LAYER))
        assert refusal.value.code == "size_mismatch"


async def test_the_length_of_an_encoded_body_says_nothing(connect: Connect) -> None:
    async with fake_registry(Quirks(head_blob_length=7, blob_labelled="gzip")) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        assert await connect(registry).has_blob("team/app", descriptor(LAYER))
        assert registry.journal.count("blob", method="GET") == 0


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_cut_is_a_temporary_error_after_what_arrived(connect: Connect, *, with_length: bool) -> None:
    async with fake_registry(Quirks(blob_cut_after_bytes=100_000, blob_without_length=not with_length)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry)
        arrived = bytearray()
        with pytest.raises(RegistryError) as broken:
            await read_into(arrived, client)
        assert (broken.value.code, broken.value.temporary) == ("registry_unreachable", True)
        assert LAYER.data.startswith(arrived)
        begin, rest = await read(client, offset=len(arrived))
        assert bytes(arrived[:begin]) + rest == LAYER.data


class TestStalls:
    """Bodies that stand still; answers may take longer."""

    @pytest.fixture
    def settings(self) -> ClientSettings:
        return ClientSettings(idle_seconds=0.2, answer_seconds=100)

    async def test_a_blob_that_stands_still_is_a_timeout(self, connect: Connect) -> None:
        async with fake_registry(Quirks(blob_stall_after_bytes=100_000)) as registry:
            registry.content.put_blob("team/app", LAYER.data)
            async with asyncio.timeout(50):
                with pytest.raises(RegistryError) as refusal:
                    await read(connect(registry))
            assert (refusal.value.code, refusal.value.temporary) == ("timeout", True)


class TestSilence:
    """Registries that do not answer at all."""

    @pytest.fixture
    def settings(self) -> ClientSettings:
        return ClientSettings(idle_seconds=100, answer_seconds=0.2, retry_policy=replace(QUICK, attempts=2))

    async def test_a_registry_that_does_not_answer_is_a_timeout(self, connect: Connect) -> None:
        async with fake_registry(Quirks(latency_seconds=30)) as registry:
            async with asyncio.timeout(50):
                with pytest.raises(RegistryError) as refusal:
                    await connect(registry).has_blob("team/app", descriptor(LAYER))
            assert (refusal.value.code, refusal.value.temporary) == ("timeout", True)


class TestTrickles:
    """Bodies that come, but too slowly."""

    @pytest.fixture
    def settings(self) -> ClientSettings:
        return ClientSettings(trickle_seconds=0.2, trickle_bytes_per_second=100_000_000)

    async def test_a_blob_that_trickles_is_broken_off(self, connect: Connect) -> None:
        async with fake_registry(Quirks(blob_piece_bytes=10, blob_pause_seconds=0.01)) as registry:
            registry.content.put_blob("team/app", LAYER.data)
            async with asyncio.timeout(50):
                with pytest.raises(RegistryError, match="bytes a second") as refusal:
                    await read(connect(registry))
            assert (refusal.value.code, refusal.value.temporary) == ("timeout", True)

    async def test_a_reader_may_take_its_time(self, connect: Connect) -> None:
        async with fake_registry(Quirks(blob_pause_seconds=0.001)) as registry:  # so that it comes in several parts
            registry.content.put_blob("team/app", LAYER.data)
            client = connect(registry)
            async with client.open_blob("team/app", descriptor(LAYER)) as reader:
                data = b""
                async for part in reader:
                    data += part
                    await asyncio.sleep(0.3)
            assert data == LAYER.data


async def test_a_reader_that_leaves_early_leaves_the_connection_usable(connect: Connect) -> None:
    async with fake_registry(Quirks(blob_pause_seconds=0.01)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry, limits={"connections": 1})
        for _ in range(3):
            async with client.open_blob("team/app", descriptor(LAYER)) as reader:
                async for _part in reader:
                    break
        arrived = bytearray()
        task = asyncio.create_task(read_into(arrived, client))
        await until(lambda: bool(arrived))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read(client) == (0, LAYER.data)


@pytest.mark.parametrize("target", ["storage", "same_host", "relative"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_letter_for_letter_and_without_credentials(
    connect: Connect, target: Any, status: int
) -> None:
    quirks = Quirks(auth="token", blob_redirect=target, blob_redirect_status=status)
    async with fake_registry(quirks) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry, auth=basic())
        assert await read(client, offset=1000) == (1000, LAYER.data[1000:])
        assert await client.has_blob("team/app", descriptor(LAYER))
        registry.check()


async def test_credentials_do_not_cross_to_another_host_port_or_scheme(connect: Connect) -> None:
    quirks = Quirks(auth="basic", blob_redirect="storage", storage_challenges=True)
    async with fake_registry(quirks) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        with pytest.raises(RegistryError) as refusal:
            await read(connect(registry, auth=basic()))
        assert refusal.value.code == "denied"
        registry.check()


@pytest.mark.parametrize("target", ["loop", "nowhere"])
async def test_a_redirect_that_leads_nowhere_ends(connect: Connect, target: Any) -> None:
    async with fake_registry(Quirks(blob_redirect=target)) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        with pytest.raises(RegistryError) as refusal:
            await read(connect(registry))
        assert (refusal.value.code, refusal.value.temporary) == ("registry_unreachable", False)
        assert registry.journal.count("blob") <= 6


async def test_a_redirect_from_https_to_http_is_followed_where_its_host_was_named_so(connect: Connect) -> None:
    quirks = Quirks(auth="basic", blob_redirect="plain_http")
    async with fake_registry(quirks, tls=True, hostnames={"plain": "localhost"}) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        for trusted in ([], ["localhost"]):
            with pytest.raises(RegistryError, match="add http://localhost to trusted_hosts of") as refusal:
                await read(connect(registry, auth=basic(), trusted_hosts=trusted))
            assert (refusal.value.code, refusal.value.temporary) == ("host_not_allowed", False)
        assert registry.journal.count(origin="plain") == 0
        registry.change(auth="none")
        client = connect(registry, auth=basic(), trusted_hosts=["http://localhost"])
        assert await read(client) == (0, LAYER.data)
        assert [entry.secrets for entry in registry.journal.find(origin="plain")] == [()]


@pytest.mark.parametrize("target", ["link_local", "stranger"])
async def test_a_redirect_to_an_address_that_is_not_public_is_refused(connect: Connect, target: Any) -> None:
    quirks = Quirks(blob_redirect=target)
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        with pytest.raises(RegistryError) as refusal:
            await read(connect(registry))
        assert (refusal.value.code, refusal.value.temporary) == ("host_not_allowed", False)
        assert ("add localhost to trusted_hosts of the entry registry" in refusal.value.message) is (
            target == "stranger"
        )
        assert registry.journal.count(origin="stranger") == 0


async def test_a_redirect_to_a_trusted_private_host_is_followed(connect: Connect) -> None:
    quirks = Quirks(auth="token", blob_redirect="stranger")
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry, auth=basic(), trusted_hosts=["localhost"])
        assert await read(client) == (0, LAYER.data)
        registry.check()


async def test_a_signed_url_that_ran_out_is_asked_for_anew(connect: Connect) -> None:
    async with fake_registry(Quirks(blob_redirect="storage")) as registry:
        registry.content.put_blob("team/app", LAYER.data)
        registry.faults.add(Respond(403), matching=on("storage"), times=2)
        assert await read(connect(registry)) == (0, LAYER.data)
        assert registry.journal.count("blob") == 3


async def test_bytes_per_second_are_kept(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.content.put_blob("team/app", LAYER.data)
        client = connect(registry, limits={"bytes_per_second": 1_000_000})
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await read(client) == (0, LAYER.data)
        assert await read(client) == (0, LAYER.data)
        # 600,000 bytes; a tenth of a second's worth goes at once, and the last piece is paid for by whoever comes next.
        assert loop.time() - begun > 0.2
