"""Uploads: one streaming PUT, chunks where that is refused or cut, resuming, mounts, and locations as they come."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import digest_of
from app.domain.reference import Digest, Tag
from app.registry.client import ClientPool, RegistryClient
from app.registry.limits import ClientSettings
from app.registry.uploads import UploadSession
from tests.registry.conftest import QUICK, SETTINGS, Connect, basic, descriptor, pieces, upload
from tests.support.clock import SettableClock
from tests.support.fake_registry import (
    ECR,
    GHCR,
    Call,
    Cut,
    Entry,
    FakeRegistry,
    Quirks,
    Respond,
    TooMany,
    fake_registry,
    on,
)
from tests.support.images import Blob, blob
from tests.support.waiting import until

MIB = 1024 * 1024
LAYER = blob("layer", size=5 * MIB + 3)
DIGEST = Digest(LAYER.digest)


def check_stored(registry: FakeRegistry, layer: Blob = LAYER, repository: str = "team/app") -> None:
    assert registry.content.repository(repository).blobs[layer.digest] == layer.data
    registry.check()


async def test_a_blob_is_one_post_and_one_put(connect: Connect) -> None:
    async with fake_registry() as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.table() == {"GET ping": 1, "POST upload_start": 1, "PUT upload_close": 1}
        start, close = registry.journal.find("upload_start")[0], registry.journal.find("upload_close")[0]
        assert start.header("content-length") == "0"
        assert close.header("content-length") == str(LAYER.size)


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_empty_blob_has_no_body(connect: Connect, *, chunked: bool) -> None:
    empty = Blob(b"")
    async with fake_registry(Quirks(monolithic_refused=405 if chunked else None)) as registry:
        client = connect(registry)
        await upload(client, "team/app", LAYER)
        mark = registry.journal.mark()
        await upload(client, "team/app", empty)
        check_stored(registry, empty)
        assert registry.journal.table(since=mark) == {"POST upload_start": 1, "PUT upload_close": 1}


@pytest.mark.parametrize("status", [413, 400, 405, 415, 501])
async def test_a_registry_that_refuses_a_whole_blob_gets_chunks_from_then_on(connect: Connect, status: int) -> None:
    async with fake_registry(Quirks(monolithic_refused=status, chunk_needs_range=True)) as registry:
        client = connect(registry)
        await upload(client, "team/app", LAYER)
        check_stored(registry)
        chunks = registry.journal.find("upload_chunk")
        assert [chunk.header("content-range") for chunk in chunks] == [
            f"0-{2 * MIB - 1}",
            f"{2 * MIB}-{4 * MIB - 1}",
            f"{4 * MIB}-{LAYER.size - 1}",
        ]
        mark = registry.journal.mark()
        await upload(client, "team/other", LAYER)
        assert registry.journal.table(since=mark) == {
            "POST upload_start": 1,
            "PATCH upload_chunk": 3,
            "PUT upload_close": 1,
        }


@pytest.mark.parametrize("early", [False, True])
async def test_chunks_shrink_below_a_proxys_limit(connect: Connect, *, early: bool) -> None:
    async with fake_registry(Quirks(body_limit_bytes=MIB + 5, early_refusals=early)) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert max(entry.received_bytes for entry in registry.journal.find("upload_chunk", status=202)) <= MIB


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("range_form", ["plain", "bytes", "missing"])
async def test_chunks_are_taken_with_any_status_and_range(connect: Connect, status: int, range_form: Any) -> None:
    quirks = Quirks(monolithic_refused=405, chunk_status=status, chunk_range=range_form)
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)


async def test_one_byte_is_a_chunk_too(connect: Connect) -> None:
    one = Blob(b"x")
    async with fake_registry(Quirks(monolithic_refused=405)) as registry:
        client = connect(registry)
        await upload(client, "team/app", LAYER)
        await upload(client, "team/app", one)
        check_stored(registry, one)


async def test_the_least_chunk_a_registry_wants_is_kept(connect: Connect) -> None:
    quirks = Quirks(monolithic_refused=405, chunk_min_bytes=4 * MIB, chunk_min_enforced=True)
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.find("upload_chunk")[0].received_bytes == 4 * MIB


async def test_a_most_that_is_told_with_416_is_kept(connect: Connect) -> None:
    async with fake_registry(Quirks(monolithic_refused=405, chunk_max_bytes=MIB)) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)


async def test_ecr_gets_no_chunks(connect: Connect) -> None:
    async with fake_registry(ECR) as registry:
        registry.faults.add(Cut(), matching=on("upload_close"), times=2)
        client = connect(registry, type="ecr", auth=basic())
        await upload(client, "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.count("upload_chunk") == 0


@pytest.mark.parametrize("quirks", [{"later_chunks_dropped": True}, {"chunk_range": "wrong"}])
async def test_chunks_that_get_nowhere_are_given_up_for_a_whole_blob(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        # The first PUT is cut, so chunks are tried; they get nowhere.
        registry.faults.add(Cut(), matching=on("upload_close"))
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)


async def test_chunks_that_get_nowhere_where_nothing_else_is_taken_are_an_error(connect: Connect) -> None:
    async with fake_registry(Quirks(monolithic_refused=405, later_chunks_dropped=True)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await upload(connect(registry), "team/app", LAYER)
        assert (refusal.value.code, refusal.value.temporary) == ("upload_failed", False)
        registry.check()


async def test_a_session_in_which_nothing_arrives_is_given_up(connect: Connect) -> None:
    quirks = Quirks(upload_cut_after_bytes=MIB, upload_cut_times=None, cut_uploads="lost", chunk_range="bytes")
    async with fake_registry(quirks) as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        for _ in range(2):
            with pytest.raises(RegistryError):
                await session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST)
            assert await session.status() == 0
        with pytest.raises(RegistryError):
            await session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST)
        with pytest.raises(RegistryError, match="nothing more arrives") as lost:
            await session.status()
        assert (lost.value.code, lost.value.temporary) == ("upload_failed", True)
        await session.cancel()


async def test_a_registry_that_refuses_both_ways_is_not_asked_for_ever(connect: Connect) -> None:
    async with fake_registry(Quirks(monolithic_refused=405, chunk_refused=405)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await upload(connect(registry), "team/app", LAYER)
        assert (refusal.value.code, refusal.value.temporary) == ("upload_failed", False)
        assert registry.journal.count("upload_close") + registry.journal.count("upload_chunk") <= 3
        registry.check()


@pytest.mark.parametrize("cut", ["kept", "lost", "killed"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cut_upload_goes_on_where_the_registry_is(connect: Connect, cut: Any, times: int) -> None:
    quirks = Quirks(upload_cut_after_bytes=MIB, upload_cut_times=times, cut_uploads=cut)
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)


async def test_bytes_that_arrived_are_not_sent_twice(connect: Connect) -> None:
    async with fake_registry(Quirks(upload_cut_after_bytes=MIB)) as registry:
        client = connect(registry)
        session = await client.start_upload("team/app", descriptor(LAYER))
        with pytest.raises(RegistryError) as broken:
            await session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST)
        assert broken.value.temporary
        arrived = await session.status()
        assert arrived == session.offset >= MIB
        mark = registry.journal.mark()
        await session.send(pieces(LAYER.data[arrived:]), size=LAYER.size, digest=DIGEST)
        check_stored(registry)
        assert registry.journal.count("upload_chunk", since=mark) > 1  # in steps that last
        assert sum(entry.received_bytes for entry in registry.journal.entries[mark:]) == LAYER.size - arrived


async def test_a_distribution_2_that_forgets_cut_sessions_is_written_anew(connect: Connect) -> None:
    quirks = Quirks(
        upload_cut_after_bytes=MIB, cut_uploads="killed", content_range_ignored=True, uploads_with_state=True
    )
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.count("upload_start") == 2


async def test_a_lost_answer_to_the_last_byte_sends_nothing_again(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.faults.add(Cut(), matching=on("upload_close"), after_work=True)
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.received_bytes("upload_close") == LAYER.size


@pytest.mark.parametrize("status", [404, 405])
async def test_a_session_that_tells_nothing_is_replaced(connect: Connect, status: int) -> None:
    async with fake_registry(Quirks(upload_status_refused=status, upload_cut_after_bytes=MIB)) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.count("upload_status") == 1
        assert registry.journal.count("upload_start") == 2


async def test_a_session_that_is_forgotten_is_replaced(connect: Connect) -> None:
    async with fake_registry(Quirks(monolithic_refused=405, sessions_live_requests=2)) as registry:
        with pytest.raises(AssertionError, match="never ends"):
            await upload(connect(registry), "team/app", LAYER)
        registry.change(sessions_live_requests=None)
        await upload(connect(registry), "team/app", LAYER)
        assert registry.content.repository("team/app").blobs[LAYER.digest] == LAYER.data


@pytest.mark.parametrize("code", ["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"])
@pytest.mark.parametrize("kind", ["upload_close", "upload_chunk"])
async def test_a_session_another_replica_does_not_know_is_replaced(connect: Connect, kind: Any, code: str) -> None:
    async with fake_registry(Quirks(monolithic_refused=405 if kind == "upload_chunk" else None)) as registry:
        body = json.dumps({"errors": [{"code": code}]}).encode()
        registry.faults.add(Respond(404 if "UNKNOWN" in code else 400, body=body), matching=on(kind))
        client = connect(registry)
        await upload(client, "team/app", LAYER)
        assert registry.content.repository("team/app").blobs[LAYER.digest] == LAYER.data
        mark = registry.journal.mark()
        await upload(client, "team/other", LAYER)  # nothing was learned from it about the way of sending
        assert registry.journal.count("upload_chunk", since=mark) == (3 if kind == "upload_chunk" else 0)


@pytest.mark.parametrize("location", ["relative", "absolute", "scheme_less", "last_segment"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_locations_are_followed_letter_for_letter(connect: Connect, location: Any, *, chunked: bool) -> None:
    quirks = Quirks(location=location, uploads_with_state=True, monolithic_refused=405 if chunked else None)
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)


async def test_a_location_with_the_wrong_scheme_means_the_registry(connect: Connect) -> None:
    quirks = Quirks(auth="basic", location="http_same_port", uploads_with_state=True)
    async with fake_registry(quirks, tls=True) as registry:
        await upload(connect(registry, auth=basic()), "team/app", LAYER)
        check_stored(registry)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("plain_http", "host_not_allowed"),
        ("stranger", "host_not_allowed"),
        ("link_local", "host_not_allowed"),
        ("missing", "upload_failed"),
    ],
)
async def test_a_location_elsewhere_gets_nothing(connect: Connect, location: Any, code: str) -> None:
    quirks = Quirks(auth="basic", location=location)
    async with fake_registry(quirks, tls=True, hostnames={"stranger": "localhost"}) as registry:
        with pytest.raises(RegistryError) as refusal:
            await upload(connect(registry, auth=basic()), "team/app", LAYER)
        assert (refusal.value.code, refusal.value.temporary) == (code, False)
        assert {entry.origin for entry in registry.journal} == {"registry"}
        registry.check(open_sessions=True)


async def test_a_trusted_location_gets_the_bytes_but_no_credentials(connect: Connect) -> None:
    quirks = Quirks(auth="none", location="stranger", ping_status=200)
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        client = connect(registry, auth=basic(), trusted_hosts=["localhost"])
        await upload(client, "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.count("upload_close", origin="stranger") == 1
        assert registry.journal.find("upload_start")[0].authorization is not None


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_the_end_of_an_upload_may_have_another_status(connect: Connect, status: int) -> None:
    async with fake_registry(Quirks(monolithic_status=status, upload_digest_header="missing")) as registry:
        await upload(connect(registry), "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.count("blob", method="HEAD") == 1


async def test_a_site_that_says_yes_to_everything_is_found_out(connect: Connect) -> None:
    async with fake_registry(Quirks(accepts_everything=True)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await upload(connect(registry), "team/app", LAYER)
        assert refusal.value.code == "upload_failed"


async def test_another_digest_than_was_sent_is_refused(connect: Connect) -> None:
    async with fake_registry(Quirks(upload_digest_header="wrong")) as registry:
        with pytest.raises(ContentError) as refusal:
            await upload(connect(registry), "team/app", LAYER)
        assert refusal.value.code == "digest_mismatch"


async def test_damage_on_the_way_is_told_and_a_new_session_begun(connect: Connect) -> None:
    async with fake_registry() as registry:
        client = connect(registry)
        session = await client.start_upload("team/app", descriptor(LAYER))
        with pytest.raises(RegistryError) as refusal:
            await session.send(pieces(b"!" + LAYER.data[1:]), size=LAYER.size, digest=DIGEST)
        assert (refusal.value.code, refusal.value.temporary) == ("digest_mismatch", True)
        with pytest.raises(RegistryError) as lost:
            await session.status()
        assert lost.value.code == "upload_failed"
        assert registry.journal.count("upload_status") == 0
        await session.cancel()
        await upload(client, "team/app", LAYER)
        check_stored(registry)


async def test_a_source_that_breaks_is_not_the_registrys_fault(connect: Connect) -> None:
    async with fake_registry() as registry:
        client = connect(registry)
        session = await client.start_upload("team/app", descriptor(LAYER))
        error = RegistryError("gone", registry="source", operation="open_blob", code="timeout", status=400)

        async def breaks() -> AsyncIterator[bytes]:
            yield LAYER.data[:MIB]
            raise error

        with pytest.raises(RegistryError) as broken:
            await session.send(breaks(), size=LAYER.size, digest=DIGEST)
        assert broken.value is error
        with pytest.raises(ContentError) as short:
            await session.send(pieces(LAYER.data[:-1]), size=LAYER.size, digest=DIGEST)
        assert short.value.code == "size_mismatch"
        await session.cancel()
        await upload(client, "team/app", LAYER)
        check_stored(registry)
        assert registry.journal.count("upload_chunk") == 0  # nothing was learned about the registry


@pytest.mark.parametrize("kind", ["session", "refused"])
@pytest.mark.parametrize("status", [400, 401, 404, 405, 500])
@pytest.mark.parametrize("origin", ["team/old", "team/app"])
async def test_a_mount_that_is_not_made_becomes_a_session(
    connect: Connect, kind: Any, status: int, origin: str
) -> None:
    async with fake_registry(Quirks(mount=kind, mount_refused_status=status)) as registry:
        registry.content.put_blob("team/old", LAYER.data)
        session = await connect(registry).mount_blob("team/app", DIGEST, from_repository=origin)
        assert session is not None
        await session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST)
        check_stored(registry)


async def test_a_mount_in_a_repository_that_is_missing_says_so(connect: Connect) -> None:
    async with fake_registry(Quirks(upload_start_status=404)) as registry:
        with pytest.raises(RegistryError) as missing:
            await connect(registry).mount_blob("team/app", DIGEST, from_repository="team/app")
        assert (missing.value.code, missing.value.temporary) == ("repository_missing", False)


async def test_a_mount_names_where_from(connect: Connect) -> None:
    async with fake_registry(Quirks(mount_needs_from=True)) as registry:
        registry.content.put_blob("team/old", LAYER.data)
        assert await connect(registry).mount_blob("team/app", DIGEST, from_repository="team/old") is None
        check_stored(registry)


async def test_a_session_is_cancelled_once(connect: Connect) -> None:
    async with fake_registry() as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        await session.cancel()
        await session.cancel()
        registry.check()
        assert registry.journal.count("upload_cancel") == 1


async def opening(client: RegistryClient, *, mounts: bool) -> UploadSession | None:
    if mounts:
        return await client.mount_blob("team/app", DIGEST, from_repository="team/app")
    return await client.start_upload("team/app", descriptor(LAYER))


async def cancelled_while_asked(registry: FakeRegistry, work: Coroutine[Any, Any, object]) -> None:
    """Cancel some work while the registry answers its request for a session, and wait for its end."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: Entry) -> None:
        asked.set()
        await go_on.wait()

    registry.faults.add(Call(hold), matching=on("upload_start"))
    task = asyncio.create_task(work)
    await asked.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("mounts", [True, False])
async def test_who_is_cancelled_while_a_session_is_opened_leaves_none(connect: Connect, *, mounts: bool) -> None:
    async with fake_registry(Quirks(mount="session")) as registry:
        await cancelled_while_asked(registry, opening(connect(registry), mounts=mounts))
        assert registry.journal.count("upload_cancel") == 1
        registry.check()


async def test_who_is_cancelled_between_two_attempts_makes_no_other(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.faults.add(TooMany("1"), matching=on("upload_start"))
        client = connect(registry)
        task = asyncio.create_task(opening(client, mounts=False))
        await until(lambda: client.executor.window.pause_seconds > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.ping()  # after the pause
        assert registry.journal.count("upload_start") == 1
        registry.check()


async def test_who_is_cancelled_while_an_attempt_fails_makes_no_other(connect: Connect) -> None:
    async with fake_registry(Quirks(upload_start_status=500)) as registry:
        await cancelled_while_asked(registry, opening(connect(registry), mounts=False))
        await asyncio.sleep(0.1)
        assert registry.journal.count("upload_start") == 1


async def test_who_is_cancelled_before_its_turn_opens_no_session_and_delays_no_other(connect: Connect) -> None:
    async with fake_registry() as registry:
        client = connect(registry, limits={"requests_per_second": 10})
        session = await client.start_upload("team/app", descriptor(LAYER))
        tasks = [asyncio.create_task(opening(client, mounts=False)) for _ in range(300)]
        window = client.executor.window
        while window.in_use + len(window.waiting) < 290:  # noqa: ASYNC110 — no event tells of a queue
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        early = [one for one in ended if not isinstance(one, BaseException)]
        assert len(early) < 3  # the first has its turn at once, and may be done by now
        for one in (*filter(None, early), session):
            await one.cancel()  # it would be half a minute behind them, and is given a third of a second
        opened, cancelled = (registry.journal.count(kind) for kind in ("upload_start", "upload_cancel"))
        assert opened == cancelled
        assert opened <= 3
        registry.check()


@pytest.mark.parametrize("connections", [1, 50])
@pytest.mark.parametrize("settings", [replace(SETTINGS, cancel_seconds=60)])
async def test_a_cancel_goes_before_all_that_waits(connect: Connect, connections: int) -> None:
    """With one connection the others wait for it, with many they wait for the rate."""
    async with fake_registry() as registry:
        client = connect(registry, limits={"requests_per_second": 20, "connections": connections})
        session = await client.start_upload("team/app", descriptor(LAYER))
        window = client.executor.window
        for _ in range(connections):
            window.went_well()
        others = [asyncio.create_task(client.head_manifest("team/app", Tag("v1"))) for _ in range(40)]
        await asyncio.sleep(0)
        assert window.in_use + len(window.waiting) == 40
        await session.cancel()
        kinds = [entry.kind for entry in registry.journal]
        assert kinds[: kinds.index("upload_cancel")].count("manifest") < 20  # those that had their turn by then
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        registry.check()


@pytest.mark.parametrize(
    "quirks", [{"cancel_status": 401}, {"cancel_status": 405}, {"auth": "token", "cancel_needs_delete": True}]
)
async def test_a_cancel_that_is_refused_is_no_error(connect: Connect, quirks: dict[str, Any]) -> None:
    async with fake_registry(Quirks(**quirks)) as registry:
        session = await connect(registry, auth=basic()).start_upload("team/app", descriptor(LAYER))
        await session.cancel()


async def test_a_cancel_that_hangs_is_given_up(connect: Connect) -> None:
    async with fake_registry() as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        registry.change(latency_seconds=60)
        async with asyncio.timeout(10):
            await session.cancel()


async def test_a_cancelled_transfer_stops_the_bytes_and_the_session(connect: Connect) -> None:
    async with fake_registry(Quirks(upload_pause_seconds=0.02)) as registry:
        client = connect(registry)
        session = await client.start_upload("team/app", descriptor(LAYER))
        began = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield LAYER.data[:MIB]
            began.set()
            yield LAYER.data[MIB:]

        async def transfer() -> None:
            try:
                await session.send(slow(), size=LAYER.size, digest=DIGEST)
            finally:
                await session.cancel()

        task = asyncio.create_task(transfer())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        registry.check()


async def test_sha512_blobs_are_announced(connect: Connect) -> None:
    digest = digest_of(LAYER.data, "sha512")
    async with fake_registry() as registry:
        client = connect(registry)
        blob_ = descriptor(LAYER)
        session = await client.start_upload("team/app", type(blob_)(blob_.media_type, digest, blob_.size))
        await session.send(pieces(LAYER.data), size=LAYER.size, digest=digest)
        assert registry.content.repository("team/app").blobs[digest] == LAYER.data
        assert registry.journal.find("upload_start")[0].query == "digest-algorithm=sha512"


@pytest.mark.parametrize(
    ("status", "code"), [(404, "repository_missing"), (403, "denied"), (405, "denied"), (401, "unauthorized")]
)
async def test_a_refused_start_has_its_code(connect: Connect, status: int, code: str) -> None:
    async with fake_registry(Quirks(upload_start_status=status)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).start_upload("team/app", descriptor(LAYER))
        assert refusal.value.code in {code, "denied"}
        assert not refusal.value.temporary


@pytest.mark.parametrize("fault", [Respond(500), Respond(503), Respond(502), Cut()])
@pytest.mark.parametrize("kind", ["upload_start", "upload_close", "upload_chunk", "upload_status"])
async def test_one_failed_request_anywhere_is_got_over(connect: Connect, fault: Any, kind: Any) -> None:
    chunked = kind == "upload_chunk"
    quirks = Quirks(
        monolithic_refused=405 if chunked else None, upload_cut_after_bytes=MIB if kind == "upload_status" else None
    )
    async with fake_registry(quirks) as registry:
        registry.faults.add(fault, matching=on(kind))
        await upload(connect(registry), "team/app", LAYER)
        assert registry.content.repository("team/app").blobs[LAYER.digest] == LAYER.data


async def test_another_process_goes_on_in_a_session(connect: Connect, clock: SettableClock) -> None:
    quirks = Quirks(auth="token", upload_cut_after_bytes=MIB, uploads_with_state=True)
    async with fake_registry(quirks) as registry:
        client = connect(registry, auth=basic())
        session = await client.start_upload("team/app", descriptor(LAYER))
        location = session.location
        with pytest.raises(RegistryError):
            await session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST)
        other_pool = ClientPool(clock=clock)
        try:
            other = other_pool.clients((client.entry,)).for_registry(client.entry.registry)
            resumed = await other.resume_upload("team/app", location)
            assert resumed.offset >= MIB
            await resumed.send(pieces(LAYER.data[resumed.offset :]), size=LAYER.size, digest=DIGEST)
            check_stored(registry)
            with pytest.raises(RegistryError, match="gone") as gone:
                await other.resume_upload("team/app", location)
            assert (gone.value.code, gone.value.temporary) == ("upload_failed", True)
            with pytest.raises(RegistryError) as refusal:
                await other.resume_upload("team/app", "https://evil.example/upload")
            assert refusal.value.code == "host_not_allowed"
        finally:
            await other_pool.aclose()


async def test_what_was_on_its_way_when_a_process_died_is_waited_for(connect: Connect) -> None:
    async with fake_registry() as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        held = registry.content.sessions["session-1"]

        def arrive(_entry: object) -> None:
            held.data += LAYER.data[len(held.data) : len(held.data) + 1000]

        registry.faults.add(Call(arrive), matching=on("upload_status"), times=3, after_work=True)
        resumed = await connect(registry).resume_upload("team/app", session.location)
        assert resumed.offset == 3000
        await resumed.send(pieces(LAYER.data[3000:]), size=LAYER.size, digest=DIGEST)
        check_stored(registry)


async def test_an_upload_that_never_stops_growing_is_not_gone_on_with(connect: Connect) -> None:
    async with fake_registry() as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        held = registry.content.sessions["session-1"]
        arrive = Call(lambda _entry: held.data.extend(b"more"))
        registry.faults.add(arrive, matching=on("upload_status"), times=None)
        with pytest.raises(RegistryError, match="still writes"):
            await connect(registry).resume_upload("team/app", session.location)
        await session.cancel()


class TestPatience:
    """The end of an upload may take longer than other answers."""

    @pytest.fixture
    def settings(self) -> ClientSettings:
        return ClientSettings(answer_seconds=0.3, commit_seconds=20, retry_policy=QUICK)

    async def test_a_registry_may_take_its_time_to_put_a_blob_away(self, connect: Connect) -> None:
        async with fake_registry() as registry:
            registry.faults.add(Call(lambda _: asyncio.sleep(1)), matching=on("upload_close"))
            small = blob("small", size=1000)
            await upload(connect(registry), "team/app", small)
            check_stored(registry, small)
            assert registry.journal.count("upload_close") == 1


class TestLargeChunks:
    """Chunks as large as they are outside of tests."""

    @pytest.fixture
    def settings(self) -> ClientSettings:
        return ClientSettings(retry_policy=QUICK)

    async def test_ghcr_never_gets_more_than_it_takes(self, connect: Connect) -> None:
        layer = blob("ghcr", size=9 * MIB)
        async with fake_registry(GHCR) as registry:
            registry.change(monolithic_refused=413, auth="none")
            await upload(connect(registry, type="ghcr"), "team/app", layer)
            check_stored(registry, layer)
            sizes = [entry.received_bytes for entry in registry.journal.find("upload_chunk", status=202)]
            assert sizes == [4 * MIB, 4 * MIB, MIB]
            assert registry.journal.count("upload_chunk", status=416) == 0

    async def test_others_are_told_once_how_much_they_take(self, connect: Connect) -> None:
        layer = blob("told", size=9 * MIB)
        async with fake_registry(Quirks(monolithic_refused=413, chunk_max_bytes=4 * MIB)) as registry:
            client = connect(registry)
            await upload(client, "team/app", layer)
            await upload(client, "team/other", layer)
            check_stored(registry, layer)
            assert registry.journal.count("upload_chunk", status=416) == 1
