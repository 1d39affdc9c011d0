"""Connections with deadlines: real sockets against uvicorn with our protocol, in this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from app.cli import http_protocol
from app.cli.serving import server_config

SECONDS = 0.4
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the length of the body."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
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
