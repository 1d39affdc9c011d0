"""A caller that means harm: it asks so as to keep the service from others for as long as it can.

`ACTS` has what it can do. As a program it plays one act against a service until it is ended:

    REGISTRY_SYNC_KEY=rsk_… python -m tests.support.hostile_caller half_requests http://127.0.0.1:8080
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

MANY = 600
UNREAD = 200
"""As many as may wait for their callers: beyond that it is a flood of requests."""
JOBS = 300
_AT_ONCE = 4
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class HostileCaller:
    """One that knows a service, and has a key to it."""

    host: str
    port: int
    key: str

    def head(self, method: str, target: str, *headers: str) -> bytes:
        """Return the head of a request that proves itself, without its end."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.key}", *headers]
        return "\r\n".join([*lines, ""]).encode()

    async def say(self, raw: bytes, *, drip: bytes = b"") -> None:
        """Send something over a connection of its own, then a byte a second, until the service ends it."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(writer):
            writer.write(raw)
            await writer.drain()
            for byte in itertools.chain(drip):
                await asyncio.sleep(1)
                writer.write(bytes([byte]))
                await writer.drain()
            while await reader.read(2**16):
                pass

    async def again_and_again(self, *raws: bytes) -> None:
        """Send these over and over, each as soon as it is answered."""

        async def go_on() -> None:
            for raw in itertools.cycle(raws):
                with contextlib.suppress(OSError):
                    await self.say(raw)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(go_on())

    async def all_at_once(self, raw: bytes, *, drip: bytes = b"") -> None:
        """Have it open many times, and open again what was closed."""

        async def keep_open() -> None:
            while True:
                with contextlib.suppress(OSError):
                    await self.say(raw, drip=drip)
                await asyncio.sleep(_PAUSE_SECONDS)

        async with asyncio.TaskGroup() as group:
            for _ in range(MANY):
                group.create_task(keep_open())

    def post(self, target: str, document: object) -> bytes:
        """Return a whole request with a JSON body, after which the connection is closed."""
        body = json.dumps(document).encode()
        headers = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
        return self.head("POST", target, *headers) + b"\r\n" + body

    def get(self, target: str, *headers: str) -> bytes:
        """Return a whole request without a body, after which the connection is closed."""
        return self.head("GET", target, *headers, "Connection: close") + b"\r\n"


async def half_requests(caller: HostileCaller) -> None:
    """Begin heads and go on a byte a second."""
    await caller.all_at_once(b"GET /v1/jobs HTTP/1.1\r\nX: ", drip=b"x" * 600)


async def half_bodies(caller: HostileCaller) -> None:
    """Begin bodies and go on a byte a second."""
    head = caller.head("POST", "/v1/jobs", "Content-Type: application/json", "Content-Length: 60000")
    await caller.all_at_once(head + b"\r\n{", drip=b" " * 600)


async def event_streams(caller: HostileCaller) -> None:
    """Follow the events of a job that does not end, as often as it goes."""
    await caller.all_at_once(caller.get("/v1/events", "Accept: text/event-stream"))


async def costly_expressions(caller: HostileCaller) -> None:
    """Submit small regular expressions that are large programs."""
    include = [f"/\\pL{{300}}{number}/" for number in range(200)]
    rules = [{"source": "a.example.com/b", "destination": "b.example.com/b", "tags": {"include": include}}]
    await caller.again_and_again(caller.post("/v1/jobs", {"rules": rules}))


async def long_paths(caller: HostileCaller) -> None:
    """Ask for paths that are costly to log."""
    paths = ("/v1/" + "token=" * 8_000, "/v1/jobs/" + "a" * 60_000, "/" + "https://a" * 6_000)
    await caller.again_and_again(*map(caller.get, paths))


async def deep_bodies(caller: HostileCaller) -> None:
    """Send bodies that are costly to read."""
    deep = b"[" * 400_000
    head = caller.head("POST", "/v1/jobs", "Content-Type: application/json", f"Content-Length: {len(deep)}")
    many = {"rules": [{"source": f"a.example.com/{n}", "destination": "b.example.com/{name}"} for n in range(10_001)]}
    await caller.again_and_again(head + b"Connection: close\r\n\r\n" + deep, caller.post("/v1/jobs", many))


async def tiny_chunks_of_bodies(caller: HostileCaller) -> None:
    """Send bodies in chunks of one byte, which are costly to take apart, with a key and without one."""
    chunks = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + b"1\r\n \r\n" * 300_000
    stranger = f"POST /v1/hooks/none HTTP/1.1\r\nHost: {caller.host}\r\n".encode()
    await caller.again_and_again(
        stranger + chunks, caller.head("POST", "/v1/jobs", "Content-Type: application/json") + chunks
    )


async def unread_answers(caller: HostileCaller) -> None:
    """Ask for long answers without a key, and take nothing of them."""
    raw = f"GET /openapi.json HTTP/1.1\r\nHost: {caller.host}\r\n\r\n".encode() * 20

    async def leave() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(caller.host, caller.port, limit=1)
                with contextlib.closing(writer):
                    writer.write(raw)
                    await reader.read(1)
                    while not writer.is_closing():  # noqa: ASYNC110 — it is to be left as it is
                        await asyncio.sleep(_PAUSE_SECONDS)
            await asyncio.sleep(_PAUSE_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(UNREAD):
            group.create_task(leave())


async def wrong_keys(caller: HostileCaller) -> None:
    """Try keys, one after the other."""
    await caller.again_and_again(HostileCaller(caller.host, caller.port, f"rsk_{'a' * 16}_{'b' * 43}").get("/v1/jobs"))


async def many_jobs(caller: HostileCaller) -> None:
    """Submit three hundred good jobs at once, and as many again when they are done."""
    async with httpx.AsyncClient(base_url=f"http://{caller.host}:{caller.port}", trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {caller.key}"
        entered = {item["name"]: item["host"] for item in (await client.get("/v1/registries")).json()["items"]}
        for turn in itertools.count():
            jobs = []
            for number in range(JOBS):
                request = {
                    "source": f"{entered['source']}/app:1",
                    "destination": f"{entered['destination']}/many-{turn}-{number}",
                }
                jobs.append((await client.post("/v1/jobs", json=request)).json()["id"])
            for job in jobs:
                while not (await client.get(f"/v1/jobs/{job}", params={"wait": "30s"})).json()["done"]:
                    pass


async def strange_questions(caller: HostileCaller) -> None:
    """Ask with values that no database, calendar or counter has."""
    queries = ("since=0001-01-01", "since=9999-12-31T23:59:59Z", "label=a%00b:c", "policy=a%00", "cursor=%00")
    await caller.again_and_again(
        *(caller.get(f"/v1/jobs?{query}") for query in queries),
        caller.get("/v1/jobs/x/events", "Last-Event-ID: " + "9" * 20),
        caller.post("/v1/jobs", {"source": "a..b/c", "destination": "0177.0.0.1/c", "labels": {"a\0": "b\0"}}),
    )


ACTS: dict[str, Callable[[HostileCaller], Awaitable[None]]] = {
    act.__name__: act
    for act in (
        half_requests,
        half_bodies,
        event_streams,
        costly_expressions,
        long_paths,
        deep_bodies,
        tiny_chunks_of_bodies,
        unread_answers,
        wrong_keys,
        many_jobs,
        strange_questions,
    )
}


def main() -> None:
    """Play an act."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=sorted(ACTS))
    parser.add_argument("url")
    arguments = parser.parse_args()
    url = urlsplit(arguments.url)
    caller = HostileCaller(url.hostname or "", url.port or 80, os.environ["REGISTRY_SYNC_KEY"])
    asyncio.run(ACTS[arguments.act](caller))  # type: ignore[arg-type]  # each is a coroutine function


if __name__ == "__main__":
    main()
