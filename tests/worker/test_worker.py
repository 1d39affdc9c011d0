"""A worker in this process: what goes first, what is found again, how it ends."""

import asyncio

from sqlalchemy import text

from app.domain.job import JobState, Priority
from tests.worker.house import CALLER, ON_POSTGRESQL, ON_SQLITE, House, wish


async def test_more_urgent_jobs_go_first(house: House) -> None:
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        to = (f"dst.example.com/{priority}",)
        await house.jobs.submit(wish("slow-1s", to=to), caller=CALLER, priority=priority)
    await house.submit("slow-1s", to=("dst.example.com/other",))
    last = await house.submit("slow-1s", to=("dst.example.com/last",))  # two at a time, so the fifth begins alone
    async with house.worker(concurrency=2):
        await house.done(last)
        await house.jobs.wait(last.id, timeout_seconds=60, caller=CALLER)
        async with asyncio.timeout(60):
            while len([line for line in house.journal.lines() if line.event == "end"]) < 5:  # noqa: ASYNC110 — what is waited for sets no event
                await asyncio.sleep(0.05)
    begun = [
        line.destination.split("/")[1].removesuffix(":slow-1s")
        for line in house.journal.lines()
        if line.event == "begin"
    ]
    assert begun.index("high") < begun.index("low")
    assert begun[-1] == "low"


async def test_a_small_job_is_not_starved_by_a_large_one(house: House) -> None:
    large = await house.submit(*(f"slow-0.5s-{number}" for number in range(100)))
    async with house.worker(concurrency=2):
        await house.until(lambda seen: seen.progress.images.copied > 0, large)
        small = await house.run("t1")
        seen = await house.jobs.get(large.id, caller=CALLER)
        assert small.state is JobState.SUCCEEDED
        assert not seen.done
        assert seen.progress.images.queued > 0
        await house.cancel(large)


async def test_what_was_accepted_without_a_worker_is_found_by_the_next_one(house: House) -> None:
    job = await house.submit("t1")
    async with house.worker():
        assert (await house.done(job)).state is JobState.SUCCEEDED


async def test_what_another_process_accepted_is_found(house: House, another_house: House) -> None:
    async with house.worker():
        job = await another_house.submit("t1")
        assert (await house.done(job)).state is JobState.SUCCEEDED


async def test_a_worker_that_is_told_to_stop_lets_short_work_end(house: House) -> None:
    job = await house.submit("slow-1s")
    async with house.worker(grace_seconds=10):
        await house.until(lambda seen: seen.progress.images.running == 1, job)
    assert (await house.jobs.get(job.id, caller=CALLER)).state is JobState.SUCCEEDED
    assert house.journal.events(":slow-1s") == ["begin", "end"]


async def test_a_planning_that_is_stopped_is_begun_anew_by_the_next_worker(house: House) -> None:
    job = await house.submit("t1", "slowly-3s")
    async with house.worker(grace_seconds=0):
        await house.until(lambda seen: seen.state is JobState.RUNNING, job)
    assert (await house.jobs.get(job.id, caller=CALLER)).state is JobState.RUNNING
    async with house.worker("two"):
        assert (await house.done(job)).state is JobState.SUCCEEDED


@ON_SQLITE
async def test_beside_sqlite_a_second_worker_waits_for_the_first_to_end(house: House, another_house: House) -> None:
    job = await house.submit("slow-3s", "slow-3s-2")
    async with another_house.worker("first"):
        await house.until(lambda seen: seen.progress.images.running > 0, job)
        async with house.worker("second"):
            assert (await house.done(job)).state is JobState.SUCCEEDED
    begun = [line.destination for line in house.journal.lines() if line.event == "begin"]
    assert len(begun) == len(set(begun)) == 2


@ON_POSTGRESQL
async def test_a_swallowed_nudge_is_given_again(house: House) -> None:
    job = await house.submit("t1")
    async with house.database.transaction() as session:
        await session.execute(text("DELETE FROM engine_pgqueuer"))
    async with house.worker():
        assert (await house.done(job)).state is JobState.SUCCEEDED
