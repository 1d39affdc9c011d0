"""The queue beside SQLite: who gets which unit, and what becomes of it when its process ends."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from app.process_channel import ProcessChannel, Topic, open_channel
from app.processes.unit_dispatcher import UnitDispatcher

SOON_SECONDS = 90


@dataclass
class Process:
    """A worker process as the dispatcher knows it: the other end of a channel."""

    name: str
    channel: ProcessChannel
    units: list[int] = field(default_factory=list)

    def done(self, unit_id: int, again_seconds: float | None = None) -> None:
        self.channel.send(Topic.DONE, [unit_id, again_seconds])


@dataclass
class Dispatching:
    dispatcher: UnitDispatcher
    processes: dict[str, Process] = field(default_factory=dict)

    async def join(self, name: str, *, slots: int) -> Process:
        """Have a worker process show up."""
        ours, theirs = socket.socketpair()
        self.dispatcher.serve(name, await open_channel(ours))
        process = self.processes[name] = Process(name, await open_channel(theirs))
        process.channel.on(Topic.RUN, process.units.append)
        process.channel.send(Topic.READY, slots)
        return process

    async def until_running(self, number: int) -> None:
        """Wait until so many units have been handed out in all."""
        async with asyncio.timeout(SOON_SECONDS):
            while sum(len(process.units) for process in self.processes.values()) < number:  # noqa: ASYNC110 — what is waited for sets no event
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # in case there are more


@pytest.fixture
async def dispatching() -> AsyncIterator[Dispatching]:
    dispatching = Dispatching(UnitDispatcher())
    yield dispatching
    for process in dispatching.processes.values():
        process.channel.close()


async def test_units_go_to_whichever_process_is_less_busy(dispatching: Dispatching) -> None:
    first, second = await dispatching.join("first", slots=2), await dispatching.join("second", slots=2)
    first.channel.send(Topic.ENQUEUE, [[number, 1] for number in range(6)])

    await dispatching.until_running(4)
    assert (len(first.units), len(second.units)) == (2, 2)
    second.done(second.units[0])
    await dispatching.until_running(5)
    assert (len(first.units), len(second.units)) == (2, 3)


async def test_the_most_urgent_unit_goes_first_and_each_unit_goes_once(dispatching: Dispatching) -> None:
    process = await dispatching.join("only", slots=1)
    for _ in range(2):
        process.channel.send(Topic.ENQUEUE, [[9, 90], [1, 10], [2, 30], [3, 20], [4, 30]])
    for number in range(1, 6):
        await dispatching.until_running(number)
        process.done(process.units[-1])
    await dispatching.until_running(5)
    assert process.units == [9, 2, 4, 3, 1]


async def test_a_unit_that_is_done_may_be_enqueued_again(dispatching: Dispatching) -> None:
    process = await dispatching.join("only", slots=1)
    for number in range(1, 3):
        process.channel.send(Topic.ENQUEUE, [[1, 10]])
        await dispatching.until_running(number)
        process.done(1)
    assert process.units == [1, 1]


async def test_what_a_process_had_that_ended_goes_to_another_at_once(dispatching: Dispatching) -> None:
    first = await dispatching.join("first", slots=4)
    first.channel.send(Topic.ENQUEUE, [[number, 1] for number in range(3)])
    await dispatching.until_running(3)

    second = await dispatching.join("second", slots=4)
    dispatching.dispatcher.leave("first")

    await dispatching.until_running(6)
    assert sorted(second.units) == [0, 1, 2]


async def test_a_process_that_drains_gets_nothing_more_and_what_waits_is_kept_for_the_next(
    dispatching: Dispatching,
) -> None:
    first = await dispatching.join("first", slots=4)
    first.channel.send(Topic.DRAINING)
    first.channel.send(Topic.ENQUEUE, [[7, 1]])
    await dispatching.until_running(0)
    assert first.units == []

    second = await dispatching.join("second", slots=1)

    await dispatching.until_running(1)
    assert second.units == [7]


async def test_a_unit_that_is_to_come_again_comes_again(dispatching: Dispatching) -> None:
    process = await dispatching.join("only", slots=1)
    process.channel.send(Topic.ENQUEUE, [[5, 1]])
    await dispatching.until_running(1)

    process.done(5, 0.05)

    await dispatching.until_running(2)
    assert process.units == [5, 5]


async def test_nothing_is_handed_out_while_all_processes_end(dispatching: Dispatching) -> None:
    process = await dispatching.join("only", slots=2)
    process.channel.send(Topic.ENQUEUE, [[1, 1]])
    await dispatching.until_running(1)

    dispatching.dispatcher.stop()
    process.channel.send(Topic.ENQUEUE, [[2, 1]])
    process.done(1, 0.0)

    await dispatching.until_running(1)
    assert process.units == [1]
