"""Connections with deadlines: real sockets against uvicorn with our protocol, in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
import uvicorn

from app.cli import http_protocol
from app.cli.serving import server_config

SECONDS = 0.4
LARGE_PIECES = 16
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the length of the body."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
        return
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(LARGE_PIECES):
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
        await send({"type": "http.response.body"})
        return
    if scope["path"] == "/refused":
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": str(size)[-1].encode()})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", SECONDS)
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", SECONDS)
    monkeypatch.setattr(http_protocol, "SEND_SECONDS", SECONDS)
    config = server_config(application)
    config.host, config.port = "127.0.0.1", 0
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 — it is uvicorn's flag
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def is_cut(reader: asyncio.StreamReader) -> bool:
    """Return whether the other end ends the connection without an answer."""
    try:
        return await asyncio.wait_for(reader.read(), 60) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: here\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc",
    ],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
async def test_who_does_not_finish_a_request_is_cut_off(port: int, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    assert await is_cut(reader)
    writer.close()


async def test_a_drip_of_bytes_does_not_move_the_deadline(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    cut = asyncio.create_task(is_cut(reader))
    writer.write(b"GET / HTTP/1.1\r\n")
    for number in range(200):
        if cut.done():
            break
        writer.write(f"X-{number}: y\r\n".encode())
        await asyncio.sleep(SECONDS / 10)
    assert cut.done()
    assert cut.result()
    writer.close()


async def test_a_connection_that_is_used_again_is_not_cut_off(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(1) == b"0"
        await asyncio.sleep(SECONDS * 1.5)
    writer.close()


async def test_where_there_is_no_room_the_longest_waiting_goes_first(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 60)
    monkeypatch.setattr(http_protocol, "max_connections", lambda: 20)
    half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
    for _, writer in half:
        writer.write(b"GET / HTTP/1.1\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
    assert await is_cut(half[0][0])
    for _, other in [*half, (reader, writer)]:
        other.close()


async def test_who_leaves_an_answer_unread_is_cut_off(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(REQUEST.replace(b" / ", b" /large "))
    await gone_from(http_protocol._sending)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(LARGE_PIECES * 1_000_000), 60)
    writer.close()


async def test_who_takes_an_answer_slowly_has_all_of_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "SEND_SECONDS", LARGE_PIECES * SECONDS / 5)  # all of it takes longer
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 * 1024)
    writer.write(REQUEST.replace(b" / ", b" /large "))
    body = b""
    for _ in range(LARGE_PIECES):
        body += await asyncio.wait_for(reader.readexactly(1_000_000), 60)
        await asyncio.sleep(SECONDS / 4)
    body += await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
    assert body.count(b"x") == LARGE_PIECES * 1_000_000
    writer.close()


async def test_of_callers_that_leave_their_answers_only_so_many_stay(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "SEND_SECONDS", 60)
    monkeypatch.setattr(http_protocol, "MAX_SENDING", 3)
    others = await leave_answers(port, callers=6)
    await gone_from(http_protocol._sending, left=3)
    for _, writer in others:
        writer.close()


async def test_where_there_is_no_room_who_leaves_an_answer_goes_first(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "SEND_SECONDS", 60)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 60)
    monkeypatch.setattr(http_protocol, "max_connections", lambda: 5)
    others = await leave_answers(port, callers=5)
    while len(http_protocol._sending) < 5:  # noqa: ASYNC110 — nothing else tells
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
    for _, other in [*others, (reader, writer)]:
        other.close()


@pytest.mark.parametrize("target", ["/", "/refused"])
async def test_a_body_of_tiny_chunks_is_not_read_to_its_end(
    port: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 60)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {target} HTTP/1.1\r\nHost: here\r\n".encode() + CHUNKED + b"1\r\n \r\n" * 100_000)
    writer.write(b"0\r\n\r\n" + REQUEST)
    assert b" 200 " not in await everything(reader)
    writer.close()


async def test_a_body_in_chunks_of_a_usual_size_is_read(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(901))
    writer.write(b"POST / HTTP/1.1\r\nHost: here\r\n" + CHUNKED + body + b"0\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert head.startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(1) == str(901 * 1024)[-1].encode()
    writer.close()


async def test_a_body_that_goes_on_after_its_answer_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 60)
    monkeypatch.setattr(http_protocol, "UNREAD_BYTES", 1_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    size = 64_000_000
    writer.write(f"POST /refused HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
    writer.write(b"x" * size)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(writer.drain(), 60)
    writer.close()


async def test_a_connection_is_kept_where_a_small_body_came_after_its_answer(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /refused HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
    writer.write(b"x" * 100_000 + REQUEST)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_long_head_is_read_whole(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST.replace(b" / ", b" /" + b"a" * 60_000 + b" "))
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_others_have_their_turn_between_the_pieces_of_a_large_body(port: int) -> None:
    """So many requests as one connection sends at once are looked at piece by piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST * 5_000)
    for _ in range(5_000):
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
        await reader.readexactly(1)
    writer.close()


async def leave_answers(port: int, *, callers: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Ask for a long answer over so many connections, and read none of them."""
    others = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(callers)]
    for _, writer in others:
        writer.write(REQUEST.replace(b" / ", b" /large "))
    return others


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Read until the other end ends the connection, however it does."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(reader.read(100_000), 60):
            found += piece
    return found


async def gone_from(connections: Collection[object], *, left: int = 0) -> None:
    """Wait until there were some, and then no more than are to be left."""
    while not connections:  # noqa: ASYNC110 — it is the protocol's own list
        await asyncio.sleep(0.01)
    while len(connections) > left:  # noqa: ASYNC110 — as above
        await asyncio.sleep(0.01)
