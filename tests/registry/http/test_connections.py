"""Connections against servers that say exactly what they are told to, byte for byte."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import httpcore
import pytest
from msgspec.structs import replace

from app.net.address_guard import AddressRules, Dialer
from app.net.stream import Piece
from app.registry.http.chunked import ChunkBudgetError
from app.registry.http.connections import Connections, StreamingResponse, Timeouts
from app.registry.http.message import MAX_HEAD_BYTES, HttpRequest, StreamedBody, Url
from app.registry.http.proxy import ProxyRoute
from tests.support.waiting import until

MakeConnections = Callable[..., Connections]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """A loopback server that runs a script for each connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.heads: list[bytes] = []
        self.port = 0
        self._served: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task, writer in self._served:
                task.cancel()
                writer.close()
            await asyncio.gather(*(task for task, _ in self._served), return_exceptions=True)

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        return self.heads[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._served.append((task, writer))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._script(reader, writer)
        writer.close()


@pytest.fixture
def make_connections() -> Iterator[MakeConnections]:
    made: list[Connections] = []

    def make(
        *, proxy: ProxyRoute | None = None, keep_alive_seconds: float = 30, timeouts: Timeouts | None = None
    ) -> Connections:
        dialer = Dialer(AddressRules(), is_registered=True)
        made.append(
            Connections(
                dialer,
                make_context=ssl.create_default_context,
                keep_alive_seconds=keep_alive_seconds,
                timeouts=timeouts or Timeouts(connect=5.0, answer=5.0, idle=5.0),
                proxy=proxy,
            )
        )
        return made[-1]

    yield make
    for connections in made:
        connections.close()


class Pieces:
    """A body that comes in pieces."""

    def __init__(self, *parts: bytes, length: int | None = None) -> None:
        self.length = sum(map(len, parts)) if length is None else length
        self.has_begun = False
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[Piece]:
        self.has_begun = True
        for part in self._parts:
            yield part


def request(port: int, *, method: str = "GET", content: StreamedBody | None = None) -> HttpRequest:
    return HttpRequest(method=method, url=Url("http", "127.0.0.1", port, "/v2/"), content=content)


async def whole(answer: StreamingResponse) -> bytes:
    return b"".join([part async for part in answer])


async def noticed(connections: Connections) -> None:
    """Wait until something has come over the idle connection, be it its end."""
    [[idle]] = connections._idle.values()
    await until(lambda: idle.stream._is_spoiled)


def always(raw: bytes, *, then_close: bool = False) -> Server:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            writer.write(raw)
            await writer.drain()
            if then_close:
                return

    server = Server(script)
    return server


async def test_a_connection_serves_one_request_after_the_other(make_connections: MakeConnections) -> None:
    connections = make_connections()
    async with always(OK).running() as server:
        for _ in range(3):
            assert await whole(await connections.send(request(server.port))) == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more than it said",
    ],
    ids=["told to close", "HTTP/1.0", "bytes nobody asked for"],
)
async def test_a_connection_that_may_not_stay_is_not_used_again(make_connections: MakeConnections, raw: bytes) -> None:
    connections = make_connections()
    async with always(raw).running() as server:
        for _ in range(2):
            assert await whole(await connections.send(request(server.port))) == b"ok"
    assert server.connections == 2


async def test_an_idle_connection_that_the_other_end_closed_is_left_and_another_one_made(
    make_connections: MakeConnections,
) -> None:
    connections = make_connections()
    async with always(OK, then_close=True).running() as server:
        assert await whole(await connections.send(request(server.port))) == b"ok"
        await noticed(connections)
        assert await whole(await connections.send(request(server.port))) == b"ok"
    assert server.connections == 2


async def test_connections_idle_for_too_long_are_closed(make_connections: MakeConnections) -> None:
    connections = make_connections(keep_alive_seconds=0)
    async with always(OK).running() as server:
        for _ in range(2):
            await whole(await connections.send(request(server.port)))
    assert server.connections == 2


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
    ids=["chunked", "after an interim answer", "without a body"],
)
async def test_bodies_end_where_their_framing_says(make_connections: MakeConnections, raw: bytes, body: bytes) -> None:
    connections = make_connections()
    async with always(raw).running() as server:
        for _ in range(2):
            assert await whole(await connections.send(request(server.port))) == body
    assert server.connections == 1


async def test_a_body_without_a_length_ends_with_the_connection(make_connections: MakeConnections) -> None:
    connections = make_connections()
    async with always(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_close=True).running() as server:
        assert await whole(await connections.send(request(server.port))) == b"all of it"


async def test_a_head_answer_has_no_body_whatever_length_it_names(make_connections: MakeConnections) -> None:
    connections = make_connections()
    async with always(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").running() as server:
        for _ in range(2):
            assert await whole(await connections.send(request(server.port, method="HEAD"))) == b""
    assert server.connections == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
    ids=["short body", "short chunk", "nonsense", "silence"],
)
async def test_an_answer_that_breaks_off_or_breaks_the_rules_is_an_error(
    make_connections: MakeConnections, raw: bytes
) -> None:
    connections = make_connections()
    async with always(raw, then_close=True).running() as server:
        with pytest.raises((httpcore.RemoteProtocolError, httpcore.ReadError)):
            await whole(await connections.send(request(server.port)))


async def test_a_head_without_an_end_is_an_error_and_not_kept_in_memory(make_connections: MakeConnections) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x" * MAX_HEAD_BYTES)
            await writer.drain()

    connections = make_connections()
    async with Server(script).running() as server:
        with pytest.raises(httpcore.RemoteProtocolError):
            await connections.send(request(server.port))


async def test_an_answer_left_unread_costs_its_connection(make_connections: MakeConnections) -> None:
    connections = make_connections()
    async with always(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000).running() as server:
        for _ in range(2):
            answer = await connections.send(request(server.port))
            answer.close()
            answer.close()
    assert server.connections == 2


async def test_a_body_is_sent_as_it_comes_and_with_the_head_in_one_piece(make_connections: MakeConnections) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        received.append(await reader.readexactly(6))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    received: list[bytes] = []
    connections = make_connections()
    async with Server(script).running() as server:
        answer = await connections.send(request(server.port, method="PUT", content=Pieces(b"abc", b"def")))
    assert (answer.status, received) == (201, [b"abcdef"])


async def test_an_answer_that_comes_before_the_body_was_sent_is_heard_and_the_rest_kept_back(
    make_connections: MakeConnections,
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await release.wait()

    sent = 0

    class Endless(Pieces):
        async def __aiter__(self) -> AsyncIterator[Piece]:
            nonlocal sent
            for _ in range(1000):
                sent += 1
                yield b"x" * 1_000_000

    release = asyncio.Event()
    connections = make_connections()
    async with Server(script).running() as server:
        answer = await connections.send(request(server.port, method="PUT", content=Endless(length=10**9)))
        release.set()
    assert answer.status == 413
    assert sent < 100


async def test_a_request_cut_by_its_caller_costs_its_connection(make_connections: MakeConnections) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        if server.connections == 1:
            sending.cancel()
            await asyncio.sleep(30)
        writer.write(OK)

    connections = make_connections()
    async with Server(script).running() as server:
        sending = asyncio.ensure_future(connections.send(request(server.port)))
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await whole(await connections.send(request(server.port))) == b"ok"
    assert server.connections == 2


async def test_silence_is_an_error_after_the_time_given(make_connections: MakeConnections) -> None:
    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.head(reader)
        await reader.read()

    connections = make_connections()
    async with Server(script).running() as server:
        with pytest.raises(httpcore.ReadTimeout):
            await connections.send(replace(request(server.port), answer_seconds=0.05))


async def test_a_header_that_would_break_the_head_is_never_sent(make_connections: MakeConnections) -> None:
    connections = make_connections()
    async with always(OK).running() as server:
        asked = request(server.port)
        headers = {"X-Evil": "a\r\nX-Other: b"}
        with pytest.raises(httpcore.LocalProtocolError):
            await connections.send(replace(asked, headers=headers))
    assert server.heads == []


async def test_http_through_a_proxy_names_the_whole_url_and_logs_in_there(make_connections: MakeConnections) -> None:
    async with always(OK).running() as server:
        proxy = ProxyRoute.parse(f"http://ann:s%3Acret@127.0.0.1:{server.port}")
        connections = make_connections(proxy=proxy)
        asked = replace(request(1), url=Url("http", "registry.test", 5000, "/v2/"))
        assert await whole(await connections.send(asked)) == b"ok"
    [head] = server.heads
    assert head.startswith(b"GET http://registry.test:5000/v2/ HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic YW5uOnM6Y3JldA==" in head


async def test_https_through_a_proxy_asks_for_a_tunnel_and_says_when_it_is_refused(
    make_connections: MakeConnections,
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with always(refusal).running() as server:
        connections = make_connections(proxy=ProxyRoute.parse(f"http://127.0.0.1:{server.port}"))
        asked = replace(request(1), url=Url("https", "registry.test", 443, "/v2/"))
        with pytest.raises(httpcore.ProxyError, match="407"):
            await connections.send(asked)
    assert server.heads[0].startswith(b"CONNECT registry.test:443 HTTP/1.1\r\n")


async def test_an_answer_in_tiny_chunks_is_refused(make_connections: MakeConnections) -> None:
    connections = make_connections()
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000
    async with always(raw).running() as server:
        with pytest.raises(ChunkBudgetError):
            await whole(await connections.send(request(server.port)))


async def test_a_head_that_comes_byte_by_byte_has_the_time_of_one_answer(make_connections: MakeConnections) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    connections = make_connections()
    async with Server(script).running() as server:
        with pytest.raises(httpcore.ReadTimeout):
            await connections.send(replace(request(server.port), answer_seconds=0.2))


async def test_bytes_that_come_to_an_idle_connection_spoil_it(make_connections: MakeConnections) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK)
        await asks.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await reader.read()

    asks = asyncio.Event()
    connections = make_connections()
    async with Server(script).running() as server:
        assert await whole(await connections.send(request(server.port))) == b"ok"
        asks.set()
        await noticed(connections)
        assert await whole(await connections.send(request(server.port))) == b"ok"
    assert server.connections == 2


async def test_an_answer_with_two_ways_to_end_is_read_but_its_connection_not_kept(
    make_connections: MakeConnections,
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    connections = make_connections()
    async with always(raw).running() as server:
        for _ in range(2):
            assert await whole(await connections.send(request(server.port))) == b"ok"
    assert server.connections == 2


async def test_a_body_of_another_length_than_announced_is_not_sent_as_if_it_were_whole(
    make_connections: MakeConnections,
) -> None:
    connections = make_connections()
    async with always(OK).running() as server:
        for length in (2, 4):
            with pytest.raises(httpcore.LocalProtocolError):
                await connections.send(request(server.port, method="PUT", content=Pieces(b"abc", length=length)))
            assert await whole(await connections.send(request(server.port))) == b"ok"
