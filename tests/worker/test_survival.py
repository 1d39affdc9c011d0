"""Whatever dies, every accepted job ends in the right state, without a human and without double work.

Workers are real processes here, and really killed, frozen and stopped.
"""

import asyncio
import os
import signal
from collections import Counter

import pytest

from app.domain.job import ImageState, Job, JobState
from app.worker.heartbeat import DEAD_SECONDS
from tests.support.job_fixtures import WorkerProcesses
from tests.support.waiting import until
from tests.worker.house import CALLER, ON_POSTGRESQL, House
from tests.worker.sync_sessions import Journal

pytestmark = pytest.mark.kill

RESCUED_SECONDS = 120
"""Ends a test that hangs; `test_heartbeat.py` sees to it that the waits of a rescue come to less than half a minute."""


def copied_at_once(journal: Journal) -> int:
    """Count the destinations that were begun while they were being copied already (a killed process ends its own)."""
    running: dict[str, int] = {}
    doubled = 0
    for line in journal.lines():
        if line.event == "begin":
            other = running.get(line.destination)
            doubled += other is not None and other != line.pid and is_alive(other)
            running[line.destination] = line.pid
        elif line.event in {"end", "stop"}:
            running.pop(line.destination, None)
    return doubled


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def counts_are_right(house: House, job: Job) -> None:
    """See that a job's counts are those of its images."""
    states = Counter(image.state for image in await house.images(job))
    images = job.progress.images
    assert {state: getattr(images, state) for state in ImageState} == {state: states[state] for state in ImageState}


async def test_a_killed_worker_is_replaced_and_the_job_ends(house: House, workers: WorkerProcesses) -> None:
    first = workers.start("first")
    job = await house.submit("t1", "slow-3s", "kills", "t2")
    await asyncio.to_thread(first.wait, 30)
    workers.start("second")
    job = await house.done(job, seconds=RESCUED_SECONDS)
    assert job.state is JobState.SUCCEEDED
    assert job.progress.images.copied == 4
    await counts_are_right(house, job)


async def test_a_worker_killed_from_outside_while_bytes_move_is_replaced(
    house: House, workers: WorkerProcesses
) -> None:
    first = workers.start("first")
    job = await house.submit("many-50", *(f"slow-2s-{number}" for number in range(8)))
    await house.until(lambda seen: seen.progress.bytes.done > 6_000, job)
    first.kill()
    before = await house.jobs.get(job.id, caller=CALLER)
    written_down = {str(image.destination) for image in await house.images(job, ImageState.COPIED)}
    workers.start("second")
    job = await house.done(job, seconds=RESCUED_SECONDS)
    assert job.state is JobState.SUCCEEDED
    assert job.progress.images.copied == 58
    assert job.progress.bytes.done >= before.progress.bytes.done
    await counts_are_right(house, job)
    begun = {line.destination for line in house.journal.lines() if line.event == "begin"}
    again = {line.destination for line in house.journal.lines() if line.event == "begin" and line.pid != first.pid}
    assert written_down <= begun
    assert not written_down & again


async def test_a_killed_planner_is_replaced_and_no_image_is_counted_twice(
    house: House, workers: WorkerProcesses
) -> None:
    first = workers.start("first")
    job = await house.submit("many-600", "slowly-1s", "holds-planner")

    def is_held(seen: Job) -> bool:  # after a batch that was written down, and handed out
        return seen.progress.images.total >= 600 and house.journal.was_asked("planning")

    await house.until(is_held, job)
    first.kill()
    workers.start("second")
    totals = []

    def is_planned(seen: Job) -> bool:
        totals.append(seen.progress.images.total)
        return seen.progress.planned

    await house.until(is_planned, job, seconds=RESCUED_SECONDS)
    assert totals[0] >= 600
    assert totals == sorted(totals)
    assert totals[-1] == 602
    job = await house.done(job)
    assert (job.state, job.progress.images.total) == (JobState.SUCCEEDED, 602)
    await counts_are_right(house, job)
    assert len({line.destination for line in house.journal.lines() if line.event == "begin"}) == 602


@ON_POSTGRESQL
async def test_two_workers_share_a_job_and_copy_nothing_twice(house: House, workers: WorkerProcesses) -> None:
    first, second = workers.start("first"), workers.start("second")
    tags, at_work, number = ["many-400", *(f"slow-1s-{number}" for number in range(16))], set[int](), 0
    while at_work != {first.pid, second.pid}:  # which of them has what is chance
        number += 1
        job = await house.done(await house.submit(*tags, to=(f"dst.example.com/r{number}",)))
        await counts_are_right(house, job)
        at_work = {line.pid for line in house.journal.lines() if line.event == "begin"}
    begun = Counter(line.destination for line in house.journal.lines() if line.event == "begin")
    assert set(begun.values()) == {1}


@ON_POSTGRESQL
async def test_a_frozen_worker_that_wakes_up_writes_nothing(house: House, workers: WorkerProcesses) -> None:
    first = workers.start("first")
    job = await house.submit("slow-3s", "t1")
    await house.until(lambda seen: seen.progress.images.running == 1, job)
    os.kill(first.pid, signal.SIGSTOP)
    workers.start("second")
    job = await house.done(job, seconds=DEAD_SECONDS + RESCUED_SECONDS)
    before = [line for line in house.journal.lines() if line.pid == first.pid]

    def has_woken() -> bool:
        return [line for line in house.journal.lines() if line.pid == first.pid] != before

    os.kill(first.pid, signal.SIGCONT)
    await until(has_woken)
    await asyncio.to_thread(first.end)
    after = await house.jobs.get(job.id, caller=CALLER)
    assert after == job
    assert house.journal.events(":slow-3s")[-1] != "begin"
    await counts_are_right(house, job)


async def test_a_stopped_worker_gives_its_work_back_at_once(house: House, workers: WorkerProcesses) -> None:
    first = workers.start("first")
    job = await house.submit("slow-20s", "t1")
    await house.until(lambda seen: seen.progress.images.running == 1 and seen.progress.images.copied == 1, job)
    await asyncio.to_thread(first.end)
    seen = await house.jobs.get(job.id, caller=CALLER)
    assert (seen.state, seen.progress.images.running, seen.progress.images.queued) == (JobState.RUNNING, 0, 1)
    workers.start("second")
    await house.until(lambda seen: seen.progress.images.running == 1, job)
    assert house.journal.events(":slow-20s") == ["begin", "stop", "begin"]


async def test_a_rolling_restart_shows_progress_only(house: House, workers: WorkerProcesses) -> None:
    """Each worker copies its part of the images, has the next part in hand, and is replaced."""
    parts, images = 4, 30
    program = workers.start("w0")
    job = await house.submit(*(f"gate-{part}-{image}" for part in range(parts) for image in range(images)))
    for part in range(parts):
        house.journal.open_gate(part)
        copied = (part + 1) * images
        seen = await house.until(lambda seen, copied=copied: seen.progress.images.copied == copied, job)  # type: ignore[misc]  # mypy can't tell the type of a default in a lambda
        if copied == parts * images:
            break
        assert seen.state is JobState.RUNNING
        await house.until(lambda seen: seen.progress.images.running > 0, job)
        if not house.database.is_sqlite:
            following = workers.start(f"w{part + 1}")
            await asyncio.to_thread(program.end)
        else:
            await asyncio.to_thread(program.end)
            following = workers.start(f"w{part + 1}")
        program = following
    job = await house.done(job)
    assert (job.state, job.progress.images.copied) == (JobState.SUCCEEDED, parts * images)
    assert copied_at_once(house.journal) == 0
    ended = Counter(line.destination for line in house.journal.lines() if line.event == "end")
    assert set(ended.values()) == {1}
    pids = {line.pid for line in house.journal.lines() if line.event == "end"}
    assert len(pids) == parts


async def test_cancelling_reaches_whichever_worker_has_it(house: House, workers: WorkerProcesses) -> None:
    workers.start("first")
    job = await house.submit("slow-60s")
    await house.until(lambda seen: seen.progress.images.running == 1, job)
    job = await house.cancel(job)
    assert job.state is JobState.CANCELLED
    assert job.finished_at is not None
    assert house.journal.events(":slow-60s") == ["begin", "stop"]
