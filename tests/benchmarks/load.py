"""A client that costs next to nothing, so that what is measured is the service: requests are made beforehand."""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def post(path: str, body: dict[str, Any], *, host: str, key: str) -> bytes:
    """Make a request."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def send_all(requests: Sequence[bytes], *, address: tuple[str, int], clients: int, expects: HTTPStatus) -> float:
    """Send requests over some connections, each one when the one before was answered.

    Return how many a second that were; raise `RuntimeError` for an answer that is not as expected.
    """
    left = iter(requests)
    begin = time.perf_counter()
    await asyncio.gather(*(_send(left, address, expects) for _ in range(clients)))
    return len(requests) / (time.perf_counter() - begin)


async def _send(requests: Iterator[bytes], address: tuple[str, int], expects: HTTPStatus) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if int(head.split(b" ", 2)[1]) != expects:
                raise RuntimeError(f"not {expects}: {head.decode()}{body.decode()}")
    finally:
        writer.close()
