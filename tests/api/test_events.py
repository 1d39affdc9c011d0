"""A job's progress: server-sent events that resume, and the same as JSON pages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.api import events
from tests.api.conftest import Api, Serve, pointers

STREAM = {"Accept": "text/event-stream"}


@asynccontextmanager
async def stream(api: Api, job_id: str, **headers: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with api.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM | headers, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"
        yield read(answer)


async def read(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line.startswith(":"):
            yield {"comment": line}
        elif not line:
            if event:
                yield event
            event = {}
        else:
            event[name] = json.loads(value) if name == "data" else value


async def test_a_stream_begins_with_the_job_as_it_is_and_ends_with_end(api: Api) -> None:
    job = await api.submit()

    async with stream(api, job["id"]) as events:
        first = await anext(events)
        assert (first["event"], first["data"]) == ("job", job)
        await api.client.post(f"/v1/jobs/{job['id']}/cancel")
        rest = [event async for event in events]

    assert [event["event"] for event in rest][-1] == "end"
    assert rest[-1]["data"]["state"] == "cancelled"
    numbers = [int(event["id"]) for event in [first, *rest]]
    assert numbers == sorted(numbers)


async def test_a_stream_that_broke_goes_on_where_it_was(api: Api) -> None:
    job = await api.submit()
    async with stream(api, job["id"]) as events:
        seen = (await anext(events))["id"]
    await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    async with stream(api, job["id"], **{"Last-Event-ID": seen}) as events:
        rest = [event async for event in events]

    assert all(int(event["id"]) > int(seen) for event in rest)
    assert rest[-1]["event"] == "end"


async def test_a_silent_stream_has_a_heartbeat(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events.HEARTBEAT_SECONDS <= 15
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.05)
    job = await api.submit()

    async with stream(api, job["id"]) as happening:
        while "comment" in await anext(happening):
            pass  # heartbeats that came before the snapshot was read
        assert "comment" in await anext(happening)


async def test_a_process_that_stops_ends_its_streams(serve: Serve) -> None:
    async with serve() as api:
        job = await api.submit()
        async with stream(api, job["id"]) as happening:
            await anext(happening)
            api.stop()
            assert [event async for event in happening if "comment" not in event] == []


async def test_the_same_events_are_there_as_pages(api: Api) -> None:
    job = await api.submit()
    path = f"/v1/jobs/{job['id']}/events"
    first = (await api.client.get(path)).json()
    await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    second = (await api.client.get(path, params={"cursor": first["items"][-1]["id"]})).json()

    assert first["items"][0] == {"id": job["version"], "event": "job", "data": job}
    assert [event["event"] for event in second["items"]] == ["job", "end"]
    assert second["items"][-1]["data"]["state"] == "cancelled"
    assert second["next_cursor"] is None


async def test_a_cursor_of_events_is_a_number(api: Api) -> None:
    job = await api.submit()

    answer = await api.client.get(f"/v1/jobs/{job['id']}/events", params={"cursor": "x"})

    assert pointers(answer) == {"cursor": "string_pattern_mismatch"}


async def test_many_may_watch_and_leave(api: Api) -> None:
    job = await api.submit()

    watching = asyncio.Semaphore(0)

    async def watch() -> str:
        async with stream(api, job["id"]) as happening:
            names: list[str] = []
            async for event in happening:
                if not names:
                    watching.release()
                names.append(event["event"])
            return str(names[-1])

    watchers = [asyncio.create_task(watch()) for _ in range(30)]
    for _ in watchers:
        await watching.acquire()
    for watcher in watchers[:10]:
        watcher.cancel()
    await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    assert await asyncio.gather(*watchers[10:]) == ["end"] * 20
