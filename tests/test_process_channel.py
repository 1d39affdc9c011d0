"""The channel between the supervisor and its processes: whole messages, hints to nobody who does not read."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from app.process_channel import MAX_BACKLOG_BYTES, ProcessChannel, ProcessTable, Topic, open_channel

SOON_SECONDS = 90


@pytest.fixture
async def ends() -> AsyncIterator[tuple[ProcessChannel, ProcessChannel]]:
    one, other = socket.socketpair()
    opened = await open_channel(one), await open_channel(other)
    yield opened
    for end in opened:
        end.close()


async def test_messages_arrive_whole_and_in_order(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    ours, theirs = ends
    heard: list[object] = []
    theirs.on(Topic.ENQUEUE, heard.append)
    sent = [[number, "x" * number * 1_000] for number in range(200)]
    for content in sent:
        ours.send(Topic.ENQUEUE, content)

    async with asyncio.timeout(SOON_SECONDS):
        while len(heard) < len(sent):  # noqa: ASYNC110 — messages set no event
            await asyncio.sleep(0.01)
    assert heard == sent


async def test_the_table_of_processes_is_what_came_last(ends: tuple[ProcessChannel, ProcessChannel]) -> None:
    ours, theirs = ends
    assert theirs.processes.alive == frozenset()
    table = ProcessTable(workers={"worker-1": "a"}, gone=("b",), pids={"worker-1": 7}, restarts={"worker-1": 1})
    changed = asyncio.Event()
    theirs.on(Topic.PROCESSES, lambda _: changed.set())

    ours.send_processes(table)

    async with asyncio.timeout(SOON_SECONDS):
        await changed.wait()
    assert theirs.processes == table
    assert theirs.processes.alive == {"a"}


async def test_who_does_not_read_is_sent_no_more_hints_but_everything_else() -> None:
    one, other = socket.socketpair()
    ours = await open_channel(one)
    try:
        for _ in range(100):
            ours.send(Topic.BLOBS, "x" * MAX_BACKLOG_BYTES)
        assert ours.backlog_bytes < 3 * MAX_BACKLOG_BYTES
        before = ours.backlog_bytes
        ours.send(Topic.RUN, 1)
        assert ours.backlog_bytes > before
    finally:
        ours.close()
        other.close()


async def test_a_process_whose_supervisor_has_gone_is_told_to_end_at_once(
    ends: tuple[ProcessChannel, ProcessChannel],
) -> None:
    ours, theirs = ends
    told: list[Topic] = []
    for topic in (Topic.STOP, Topic.HURRY):
        theirs.on(topic, lambda _, topic=topic: told.append(topic))  # type: ignore[misc]  # mypy knows no such lambda

    ours.close()

    async with asyncio.timeout(SOON_SECONDS):
        await theirs.closed.wait()
    assert told == [Topic.STOP, Topic.HURRY]
    theirs.send(Topic.HEARTBEAT)  # nothing happens
