"""Large blobs to Distribution 2, which forgets an upload that breaks off within a request: chunks that stay.

With its real program, killed and started again, and behind a proxy that hands on whole requests only, as nginx does
unless it is told otherwise.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Digest
from app.registry.client import ClientPool
from app.registry.limits import ClientSettings
from app.registry.uploads import UploadSession
from tests.registry.conftest import SETTINGS, Connect, descriptor, pieces, upload
from tests.support.clock import SettableClock
from tests.support.fake_registry import Call, Quirks, fake_registry, on
from tests.support.images import blob
from tests.support.registries import RegistryOptions, run_registry

MIB = 1024 * 1024
LAYER = blob("large", size=5 * MIB + 3)
DIGEST = Digest(LAYER.digest)


@pytest.fixture
def settings() -> ClientSettings:
    """Return what calls a few MiB large."""
    return replace(SETTINGS, resumable_above_bytes=4 * MIB, resumable_chunk_bytes=MIB)


@dataclass
class Notes:
    """Where an upload goes on, as noted after each chunk."""

    session: UploadSession
    enough: Callable[[int], None] = lambda _count: None
    count: int = 0
    location: str = ""

    async def note(self) -> None:
        self.count += 1
        self.location = self.session.location
        self.enough(self.count)


async def stalling(data: bytes) -> AsyncIterator[bytes]:
    """Yield these bytes, and then nothing any more."""
    async for piece in pieces(data):
        yield piece
    await asyncio.Event().wait()


async def test_a_registry_that_was_killed_goes_on_after_the_last_chunk(connect: Connect, clock: SettableClock) -> None:
    async with run_registry() as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        third = asyncio.Event()
        notes = Notes(session, lambda count: third.set() if count == 3 else None)
        source = stalling(LAYER.data[: 3 * MIB + MIB // 2])  # half of the fourth chunk is read
        sending = asyncio.create_task(session.send(source, size=LAYER.size, digest=DIGEST, passed=notes.note))
        await third.wait()
        await asyncio.to_thread(registry.kill)
        await asyncio.to_thread(registry.start)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

        pool = ClientPool(settings=SETTINGS, clock=clock)  # another worker, which knows only what was noted
        client = pool.clients((connect(registry).entry,)).for_registry(connect(registry).entry.registry)
        left = await client.resume_upload("team/app", notes.location)
        assert left.offset == 3 * MIB
        await left.send(pieces(LAYER.data[left.offset :]), size=LAYER.size, digest=DIGEST)
        assert await client.has_blob("team/app", descriptor(LAYER))
        await pool.aclose()


async def test_a_chunk_begins_when_all_of_it_is_here(connect: Connect) -> None:
    async with fake_registry(Quirks(uploads_with_state=True)) as registry:
        session = await connect(registry).start_upload("team/app", descriptor(LAYER))
        third = asyncio.Event()
        notes = Notes(session, lambda count: third.set() if count == 3 else None)
        source = stalling(LAYER.data[: 3 * MIB + MIB // 2])
        sending = asyncio.create_task(session.send(source, size=LAYER.size, digest=DIGEST, passed=notes.note))
        await third.wait()
        sending.cancel()  # which would wait for a chunk that was begun, so that some of it would arrive
        await asyncio.gather(sending, return_exceptions=True)
        assert [len(one.data) for one in registry.content.sessions.values()] == [3 * MIB]
        await session.cancel()


async def test_a_stopped_upload_ends_the_chunk_it_is_sending(connect: Connect) -> None:
    async with fake_registry(
        Quirks(uploads_with_state=True, cut_uploads="killed", upload_pause_seconds=0.001)
    ) as there:
        begun = asyncio.Event()
        there.faults.add(Call(lambda _entry: begun.set()), matching=on("upload_chunk"))
        session = await connect(there).start_upload("team/app", descriptor(LAYER))
        sending = asyncio.create_task(session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST))
        await begun.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert session.offset % MIB == 0 < session.offset
        assert await session.status() == session.offset
        await session.send(pieces(LAYER.data[session.offset :]), size=LAYER.size, digest=DIGEST)
        assert there.content.repository("team/app").blobs[LAYER.digest] == LAYER.data
        assert there.journal.count("upload_start") == 1


@asynccontextmanager
async def buffering_proxy(port: int, *, cut_at: int) -> AsyncIterator[int]:
    """Hand on whole requests only; the connection that brings the so-manieth byte of bodies is cut, once."""
    received = 0
    is_cut = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received, is_cut
        there = None
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").lower().split("\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
                body = bytearray()
                while len(body) < length:
                    piece = await reader.read(min(65_536, length - len(body)))
                    received += len(piece)
                    body += piece
                    if not piece or (received >= cut_at and not is_cut):
                        is_cut = True
                        return
                if there is None:
                    there = await asyncio.open_connection("127.0.0.1", port)
                    answers = asyncio.create_task(answer(there[0], writer))
                    tasks.add(answers)
                there[1].write(head + body)
                await there[1].drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            if there is not None:
                there[1].close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_upload_cut_behind_a_buffering_proxy_goes_on_after_the_last_chunk(
    pool: ClientPool, connect: Connect
) -> None:
    async with (
        run_registry(RegistryOptions(relative_urls=True)) as registry,
        buffering_proxy(registry.port, cut_at=3 * MIB + MIB // 2) as port,
    ):
        entry = connect(registry).entry.model_copy(update={"host": f"127.0.0.1:{port}"})
        client = pool.clients((entry,)).for_registry(entry.registry)
        session = await client.start_upload("team/app", descriptor(LAYER))
        notes = Notes(session)
        with pytest.raises(RegistryError) as broken:
            await session.send(pieces(LAYER.data), size=LAYER.size, digest=DIGEST, passed=notes.note)
        assert broken.value.temporary
        assert notes.count == 3
        assert await session.status() == 3 * MIB
        await session.send(pieces(LAYER.data[3 * MIB :]), size=LAYER.size, digest=DIGEST)
        assert await client.has_blob("team/app", descriptor(LAYER))


async def test_a_chunk_that_broke_ends_the_session_of_distribution_2_and_the_blob_is_sent_anew(
    connect: Connect,
) -> None:
    quirks = Quirks(
        uploads_with_state=True, cut_uploads="killed", content_range_ignored=True, upload_cut_after_bytes=MIB // 2
    )
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        assert registry.content.repository("team/app").blobs[LAYER.digest] == LAYER.data
        assert registry.journal.count("upload_start") == 2


@pytest.mark.parametrize("kind", ["zot", "docker_hub", "acr", "ecr", "gar", "quay", "artifactory", "nexus"])
async def test_who_is_better_off_with_one_request_gets_one(connect: Connect, kind: str) -> None:
    async with fake_registry(Quirks(uploads_with_state=True)) as registry:
        await upload(connect(registry, type=kind), "team/app", LAYER)
        assert registry.journal.count("upload_chunk") == 0


@pytest.mark.parametrize("kind", ["auto", "generic", "harbor", "gitlab"])
async def test_distribution_gets_large_blobs_in_chunks_and_small_ones_in_one_request(
    connect: Connect, kind: str
) -> None:
    async with fake_registry(Quirks(uploads_with_state=True)) as registry:
        client = connect(registry, type=kind)
        await upload(client, "team/app", LAYER)
        assert [chunk.received_bytes for chunk in registry.journal.find("upload_chunk")] == [*[MIB] * 5, 3]
        mark = registry.journal.mark()
        await upload(client, "team/app", blob("small", size=4 * MIB))
        assert registry.journal.count("upload_chunk", since=mark) == 0


DISTRIBUTION_3 = "01a21998-8822-76b9-8b6f-{:012x}"


async def test_distribution_3_shows_itself_by_the_names_of_its_uploads_and_gets_one_request(connect: Connect) -> None:
    quirks = Quirks(uploads_with_state=True, upload_names=DISTRIBUTION_3)
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        assert registry.journal.count("upload_chunk") == 0


async def test_a_proxy_before_distribution_3_that_keeps_nothing_gets_chunks_from_the_next_upload_on(
    connect: Connect,
) -> None:
    quirks = Quirks(
        uploads_with_state=True, upload_names=DISTRIBUTION_3, cut_uploads="lost", upload_cut_after_bytes=2 * MIB
    )
    async with fake_registry(quirks) as registry:
        client = connect(registry)
        await upload(client, "team/app", LAYER)
        mark = registry.journal.mark()
        await upload(client, "team/other", LAYER)
        assert registry.journal.count("upload_chunk", since=mark) > 0


async def test_the_least_chunk_is_kept_and_what_is_too_much_for_memory_is_not_read_ahead(connect: Connect) -> None:
    quirks = Quirks(uploads_with_state=True, chunk_min_bytes=3 * MIB, chunk_min_enforced=True)
    async with fake_registry(quirks) as registry:
        await upload(connect(registry), "team/app", LAYER)
        assert registry.journal.find("upload_chunk")[0].received_bytes == 3 * MIB


@pytest.mark.parametrize(("cut", "in_chunks"), [("kept", False), ("lost", True)])
async def test_what_stays_of_a_broken_upload_decides_how_the_next_one_goes(
    connect: Connect, cut: str, *, in_chunks: bool
) -> None:
    """By what was seen, whatever the type: zot's are sent in chunks where a proxy before it keeps nothing."""
    quirks = Quirks(uploads_with_state=True, cut_uploads=cut, upload_cut_after_bytes=2 * MIB)  # type: ignore[arg-type]  # one of the words it takes, by parameter
    async with fake_registry(quirks) as registry:
        client = connect(registry, type="zot")
        await upload(client, "team/app", LAYER)
        mark = registry.journal.mark()
        await upload(client, "team/other", LAYER)
        assert (registry.journal.count("upload_chunk", since=mark) > 0) == in_chunks
