"""A registry that means harm: whatever it is asked, it answers so as to keep its caller busy for as long as it can.

The fake registry differs from others as real ones do; this one does what no real one would. `ACTS` has what it can do.
As a program it plays acts for whoever comes, each at a port of its own, and prints where:

    python -m tests.support.hostile_registry dripping_manifest silent
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.images import OCI_INDEX, blob, oci_image

HERE = "127.0.0.1"
IMAGE = oci_image("hostile", layers=[blob("hostile", size=256 * 1024)])
_BLOBS = {found.digest: found.data for found in IMAGE.blobs}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_FAST = 4096


@dataclass
class Visit:
    """One request, and the way to answer it."""

    method: str
    path: str
    length: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, status: str, *headers: str, body: bytes = b"") -> None:
        """Answer in one piece."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if self.method == "HEAD" else body))
        await self.writer.drain()

    async def drip(self, raw: bytes, *, seconds: float) -> None:
        """Answer a byte at a time."""
        for byte in raw:
            self.writer.write(bytes([byte]))
            await self.writer.drain()
            await asyncio.sleep(seconds)

    async def read_body(self) -> bytes:
        """Take the whole body."""
        return await self.reader.readexactly(self.length)


Act = Callable[["HostileRegistry", Visit], Awaitable[None]]


@dataclass
class HostileRegistry:
    """One that plays an act; what the act leaves alone is answered as a registry would."""

    act: Act
    drip_seconds: float = 1.0
    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    ca_file: Path | None = None
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _served: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def host(self) -> str:
        """Where it is, as references name it."""
        return f"{HERE}:{self.port}"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HostileRegistry"]:
        """Listen on loopback."""
        server = await asyncio.start_server(self._serve, HERE, self.port, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._served:
                task.cancel()
            await asyncio.gather(*self._served, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        # Cancelled is how this ends: the protocol of 3.11 logs a task that was, so it ends as if it were done.
        endings = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*endings), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                length = int(found[1]) if (found := _LENGTH.search(head)) else 0
                self.requests[method] += 1
                await self.act(self, Visit(method, target, length, reader, writer))


async def honest(_: HostileRegistry, visit: Visit) -> None:
    """Answer as a registry that has one image under every name, and takes every upload."""
    path, query = visit.path.partition("?")[::2]
    if visit.length:
        await visit.read_body()
    if "/blobs/uploads/" in path:
        is_closing = visit.method == "PUT" or "digest=" in query
        status = "201 Created" if is_closing and visit.method == "PUT" else "202 Accepted"
        await visit.say(status, f"Location: {path.rstrip('/')}/session")
    elif "/blobs/" in path and path.rpartition("/")[2] in _BLOBS:
        await visit.say("200 OK", body=_BLOBS[path.rpartition("/")[2]])
    elif "/manifests/" in path and visit.method == "PUT":
        await visit.say("201 Created", f"Docker-Content-Digest: {IMAGE.digest}")
    elif "/manifests/" in path and "/manifests/sha256-" not in path:
        headers = (f"Content-Type: {IMAGE.media_type}", f"Docker-Content-Digest: {IMAGE.digest}")
        await visit.say("200 OK", *headers, body=IMAGE.raw)
    elif path.endswith("/tags/list"):
        await visit.say("200 OK", "Content-Type: application/json", body=b'{"name": "app", "tags": ["1"]}')
    elif path == "/v2/":
        await visit.say("200 OK")
    else:
        await visit.say("404 Not Found")


async def silent(_: HostileRegistry, visit: Visit) -> None:
    """Take a request and never answer."""
    await visit.reader.read()


async def dripping_head(registry: HostileRegistry, visit: Visit) -> None:
    """Send the head of an answer a byte at a time."""
    await visit.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000, seconds=registry.drip_seconds)


async def dripping_manifest(registry: HostileRegistry, visit: Visit) -> None:
    """Send a manifest a byte at a time."""
    if "/manifests/" not in visit.path:
        return await honest(registry, visit)
    headers = f"Content-Type: {IMAGE.media_type}\r\nDocker-Content-Digest: {IMAGE.digest}\r\n"
    visit.writer.write(f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(IMAGE.raw)}\r\n\r\n".encode())
    if visit.method == "HEAD":
        return None
    return await visit.drip(IMAGE.raw, seconds=registry.drip_seconds)


async def dripping_blob(registry: HostileRegistry, visit: Visit) -> None:
    """Send blobs a byte at a time, from wherever they are asked for."""
    if "/blobs/sha256" not in visit.path or visit.method != "GET":
        return await honest(registry, visit)
    data = _BLOBS[visit.path.rpartition("/")[2]]
    visit.writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode())
    return await visit.drip(data, seconds=registry.drip_seconds)


async def sipping_uploads(registry: HostileRegistry, visit: Visit) -> None:
    """Take an upload a byte at a time."""
    if visit.method not in {"PUT", "PATCH"} or "/blobs/uploads/" not in visit.path:
        if "/manifests/" in visit.path or "/blobs/sha256" in visit.path:
            return await visit.say("404 Not Found")
        return await honest(registry, visit)
    for _ in range(visit.length):
        await visit.reader.readexactly(1)
        await asyncio.sleep(registry.drip_seconds)
    return None


async def long_pauses(_: HostileRegistry, visit: Visit) -> None:
    """Ask for a pause that is just short of what is believed."""
    await visit.say("429 Too Many Requests", "Retry-After: 890")


async def short_pauses(_: HostileRegistry, visit: Visit) -> None:
    """Ask for a pause that is just short enough to be waited for, every time."""
    await visit.say("429 Too Many Requests", "Retry-After: 29")


async def endless_referrers(registry: HostileRegistry, visit: Visit) -> None:
    """Lead on from one page of referrers to the next, for ever; none has an entry."""
    if "/referrers/" not in visit.path:
        return await honest(registry, visit)
    following = f"Link: <{visit.path.partition('?')[0]}?last={next(registry.numbers)}>; rel=next"
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    return await visit.say("200 OK", f"Content-Type: {OCI_INDEX}", following, body=body)


async def endless_tags(registry: HostileRegistry, visit: Visit) -> None:
    """Lead on from one page of tags to the next, for ever; none has an entry."""
    if not visit.path.partition("?")[0].endswith("/tags/list"):
        return await honest(registry, visit)
    following = f"Link: <{visit.path.partition('?')[0]}?last={next(registry.numbers)}>; rel=next"
    return await visit.say("200 OK", "Content-Type: application/json", following, body=b'{"tags": []}')


async def many_values(registry: HostileRegistry, visit: Visit) -> None:
    """List tags that are little in bytes and much in memory."""
    if not visit.path.partition("?")[0].endswith("/tags/list"):
        return await honest(registry, visit)
    body = b'{"tags": [' + b"[]," * 5_000_000 + b"[]]}"
    return await visit.say("200 OK", "Content-Type: application/json", body=body)


async def angry_headers(_: HostileRegistry, visit: Visit) -> None:
    """Answer with headers that are expensive to read."""
    quota = "".join(f"; r={number}" for number in range(3_000))
    headers = ("Link: " + "<" * 20_000, f"RateLimit: {quota}", "Warning: " + '299 - "' * 2_000)
    await visit.say("200 OK", "Content-Type: application/json", *headers, body=b'{"tags": ["' + b"a" * 200_000 + b'"]}')


async def angry_errors(_: HostileRegistry, visit: Visit) -> None:
    """Answer with errors that are expensive to show."""
    page = b"<title" * 2_000 + b"<script>" * 2_000 + b"https://a" * 3_000
    await visit.say("403 Forbidden", "Content-Type: text/html", body=page)


async def tiny_chunks(_: HostileRegistry, visit: Visit) -> None:
    """Answer in chunks of one byte, as fast as they are taken."""
    visit.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        visit.writer.write(b"1\r\n \r\n" * _FAST)
        await visit.writer.drain()


async def strange_numbers(registry: HostileRegistry, visit: Visit) -> None:
    """Send numbers that are none, or too large for any machine."""
    if visit.path.startswith("/token"):
        body = b'{"token": "abc", "expires_in": ' + b"9" * 400 + b"}"
        return await visit.say("200 OK", "Content-Type: application/json", body=body)
    if visit.method == "POST":
        return await visit.say("202 Accepted", "Location: /v2/a/blobs/uploads/1", "OCI-Chunk-Min-Length: " + "9" * 400)
    if "/blobs/" in visit.path:
        return await visit.say("206 Partial Content", "Content-Range: bytes 9-9/" + "9" * 400, "Range: 0-" + "9" * 400)
    if visit.path == "/v2/":
        challenge = f'Bearer realm="{registry.url}/token",service="x"'
        return await visit.say("401 Unauthorized", f"WWW-Authenticate: {challenge}")
    return await honest(registry, visit)


ACTS: dict[str, Act] = {
    act.__name__: act
    for act in (
        silent,
        dripping_head,
        dripping_manifest,
        dripping_blob,
        sipping_uploads,
        long_pauses,
        short_pauses,
        endless_referrers,
        endless_tags,
        many_values,
        angry_headers,
        angry_errors,
        tiny_chunks,
        strange_numbers,
    )
}


@asynccontextmanager
async def hostile_registry(act: str, *, drip_seconds: float = 1.0) -> AsyncIterator[HostileRegistry]:
    """Run a registry that plays an act, on a free port."""
    async with HostileRegistry(ACTS[act], drip_seconds=drip_seconds).running() as registry:
        yield registry


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("acts", choices=sorted(ACTS), nargs="+")
    async with contextlib.AsyncExitStack() as stack:
        for act in parser.parse_args().acts:
            registry = await stack.enter_async_context(hostile_registry(act))
            print(act, registry.host, flush=True)  # noqa: T201 — a program's answer
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
