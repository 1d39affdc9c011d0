"""The way out: every address is checked, addresses are tried in turn, bytes pass both ways at once."""

import asyncio
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import pytest

from app.net.address_guard import AddressRules, Dialer, HostRefusedError
from app.net.stream import SocketStream
from tests.support.certificates import make_server_certificate
from tests.support.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def listening(serve: Serve, **options: Any) -> AsyncIterator[int]:
    """Serve connections on a free loopback port."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await serve(reader, writer)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says what names resolve to: the system's resolver is not ours to test."""

    def resolve(*addresses: str) -> None:
        async def getaddrinfo(_loop: object, _host: str, port: int, **_: object) -> list[Any]:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
                if ":" in address
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in addresses
            ]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)

    return resolve


def dialer(*, is_registered: bool = True) -> Dialer:
    return Dialer(AddressRules(), is_registered=is_registered)


async def connect(port: int, host: str = "127.0.0.1", seconds: float = 5) -> SocketStream:
    stream = await dialer().connect_tcp(host, port, timeout=seconds)
    assert isinstance(stream, SocketStream)
    return stream


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_bytes_go_and_come(resolve: Callable[..., None]) -> None:
    resolve("127.0.0.1")
    async with listening(echo) as port:
        stream = await connect(port, "registry.example.com")
        await stream.write(b"hello", timeout=5)
        assert await stream.read(65536, timeout=5) == b"hello"
        await stream.aclose()


async def test_the_next_address_is_tried_when_one_refuses(resolve: Callable[..., None]) -> None:
    async with listening(echo) as port:
        resolve("::1", "127.0.0.1")  # nothing listens on ::1
        stream = await connect(port, "registry.example.com")
        await stream.aclose()


async def test_a_silent_address_leaves_time_for_the_next(resolve: Callable[..., None]) -> None:
    silent = socket.create_server(("127.0.0.2", 0), backlog=0)
    port = silent.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:  # a full backlog: further connections get no answer
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.2", port))
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    try:
        resolve("127.0.0.2", "127.0.0.1")
        stream = await connect(port, "registry.example.com", seconds=2)
        await stream.aclose()
    finally:
        server.close()
        for filler in [*fillers, silent]:
            filler.close()


@pytest.mark.parametrize("addresses", [["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1", "fc00::1"]])
async def test_one_forbidden_address_refuses_the_host(resolve: Callable[..., None], addresses: list[str]) -> None:
    resolve(*addresses)
    with pytest.raises(HostRefusedError):
        await dialer(is_registered=False).connect_tcp("registry.example.com", 443, timeout=1)


async def test_a_registered_host_may_not_lead_to_metadata(resolve: Callable[..., None]) -> None:
    resolve("169.254.169.254")
    with pytest.raises(HostRefusedError):
        await dialer().connect_tcp("registry.example.com", 80, timeout=1)


async def test_every_connection_is_checked_anew(resolve: Callable[..., None]) -> None:
    async with listening(echo) as port:
        resolve("127.0.0.1")
        stream = await connect(port, "registry.example.com")
        await stream.aclose()
        resolve("169.254.169.254")  # the name was bound anew
        with pytest.raises(HostRefusedError):
            await connect(port, "registry.example.com")


async def test_no_answer_to_a_connection_is_a_timeout(resolve: Callable[..., None]) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = silent.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    try:
        with pytest.raises(httpcore.ConnectTimeout):
            await connect(port, seconds=0.2)
    finally:
        for filler in [*fillers, silent]:
            filler.close()


async def test_a_refused_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(httpcore.ConnectError):
        await connect(port)


async def test_a_peer_that_says_nothing_is_a_timeout() -> None:
    async with listening(lambda reader, _: reader.read()) as port:
        stream = await connect(port)
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(65536, timeout=0.05)
        await stream.aclose()


async def test_a_peer_that_takes_nothing_is_a_timeout() -> None:
    async with listening(lambda _reader, _writer: asyncio.sleep(5)) as port:
        stream = await connect(port)
        with pytest.raises(httpcore.WriteTimeout):
            await stream.write(bytes(64 * 1024 * 1024), timeout=0.2)
        await stream.aclose()


async def test_a_broken_connection_is_an_error() -> None:
    async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()

    async with listening(abort) as port:
        stream = await connect(port)
        await stream.write(b"hello")
        with pytest.raises(httpcore.ReadError):
            await stream.read(65536, timeout=5)
        await stream.aclose()


async def test_a_closed_stream_tells_whoever_waits() -> None:
    async with listening(lambda reader, _: reader.read()) as port:
        stream = await connect(port)
        waiting = asyncio.create_task(stream.read(65536, timeout=5))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(httpcore.ReadError):
            await waiting


async def test_large_bodies_arrive_whole_and_are_not_overwritten() -> None:
    sent = bytes(range(256)) * 4096 * 8

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()

    async with listening(pour) as port:
        stream, other = await connect(port), await connect(port)
        parts: list[bytes] = []
        while part := await stream.read(65536, timeout=5):
            parts.append(part)
            await other.read(65536, timeout=5)  # streams share a buffer
        assert b"".join(parts) == sent
        await stream.aclose()
        await other.aclose()


async def test_what_was_read_stays_as_it_was_however_long_it_is_kept() -> None:
    sent = random.Random(1).randbytes(16 * 1024 * 1024)

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()

    async with listening(pour) as port:
        stream, received = await connect(port), 0
        kept: list[tuple[bytes | memoryview, bytes]] = []
        while received < len(sent):
            piece = await stream.receive(5)
            received += len(piece)
            if random.Random(received).random() < 0.5:  # the others are let go, and their buffers filled anew
                kept.append((piece, bytes(piece)))
        assert all(bytes(piece) == copy for piece, copy in kept)
        await stream.aclose()


@pytest.mark.parametrize("secure", [False, True])
async def test_an_answer_before_the_end_of_a_body_is_heard(tmp_path: Any, *, secure: bool) -> None:
    answer = b"HTTP/1.1 413 Too Large\r\n\r\n"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        await asyncio.sleep(30)  # and it reads no more

    server, client = _tls_contexts(tmp_path) if secure else (None, None)
    async with listening(refuse, ssl=server, limit=1000) as port:
        stream: Any = await connect(port)
        if client is not None:
            stream = await stream.start_tls(client, "localhost", timeout=5)
        async with asyncio.timeout(10):  # long before the server gives up
            with pytest.raises(httpcore.WriteError):
                await stream.write(bytes(64 * 1024 * 1024), timeout=5)
        assert await stream.read(65536, timeout=5) == answer
        await stream.aclose()


async def test_an_interim_answer_does_not_stop_a_body() -> None:
    size = 8 * 1024 * 1024

    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        await reader.readexactly(size)
        writer.write(b"HTTP/1.1 201 Created\r\n\r\n")

    async with listening(interim) as port:
        stream = await connect(port)
        await stream.write(bytes(size), timeout=5)
        received = b""
        while b"201" not in received:
            received += await stream.read(65536, timeout=5)
        assert received.startswith(b"HTTP/1.1 100")
        await stream.aclose()


async def test_an_answer_behind_an_interim_one_is_heard_while_a_body_is_sent() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\n\r\n"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer[:30])
        await asyncio.sleep(0.05)
        writer.write(answer[30:])
        await asyncio.sleep(30)

    async with listening(refuse, limit=1000) as port:
        stream = await connect(port)
        async with asyncio.timeout(10):
            with pytest.raises(httpcore.WriteError):
                await stream.write(bytes(64 * 1024 * 1024), timeout=20)
        assert answer.startswith(await stream.read(65536, timeout=5))
        await stream.aclose()


async def test_tls_carries_large_bodies_both_ways(tmp_path: Any) -> None:
    server, client = _tls_contexts(tmp_path)
    sent = bytes(range(256)) * 4096 * 8

    async def keep_and_give_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(sent)))
        await writer.drain()

    async with listening(keep_and_give_back, ssl=server) as port:
        stream = await (await connect(port)).start_tls(client, "localhost", timeout=5)
        await stream.write(sent, timeout=5)
        received = bytearray()
        while len(received) < len(sent):
            received += await stream.read(65536, timeout=5)
        assert bytes(received) == sent
        await stream.aclose()


async def test_a_certificate_of_nobody_known_is_refused(tmp_path: Any) -> None:
    server, _ = _tls_contexts(tmp_path)
    async with listening(echo, ssl=server) as port:
        stream = await connect(port)
        with pytest.raises(httpcore.ConnectError) as error:
            await stream.start_tls(ssl.create_default_context(), "localhost", timeout=5)
        assert isinstance(error.value.__cause__, ssl.SSLCertVerificationError)


async def test_an_idle_connection_that_was_ended_is_noticed() -> None:
    ended = asyncio.Event()

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()
        await writer.wait_closed()

    async with listening(end) as port:
        stream = await connect(port)
        assert stream.get_extra_info("is_readable") is False
        ended.set()
        await until(lambda: stream.get_extra_info("is_readable") is True)
        await stream.aclose()


def _tls_contexts(folder: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    files = make_server_certificate(folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate_file, files.key_file)
    return server, ssl.create_default_context(cafile=str(files.ca_file))
