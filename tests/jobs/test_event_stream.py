"""Watching jobs: a snapshot, then what changes, then the end; for any number of watchers, in any process."""

import asyncio
import itertools

import pytest
from sqlalchemy import QueuePool, event

from app.domain.errors import NotFoundError
from app.domain.job import Image, ImageState, Job, JobEvent, JobState
from app.jobs.event_stream import JobEventStream
from tests.worker.house import CALLER, ON_POSTGRESQL, House


async def collect(house: House, job: Job, *, after: int | None = None) -> list[JobEvent]:
    changes = await house.jobs.watch(job.id, after=after, caller=CALLER)
    return [one async for one in changes]


async def test_a_watcher_sees_the_job_then_each_image_then_the_end(house: House) -> None:
    job = await house.submit("t1", "slow-1s", "fails")
    watching = asyncio.create_task(collect(house, job))
    async with house.worker():
        await house.done(job)
    events = await asyncio.wait_for(watching, 60)
    assert (events[0].name, events[-1].name) == ("job", "end")
    numbers = [event.number for event in events]
    assert numbers == sorted(numbers)
    last = {event.data.source: event.data.state for event in events if isinstance(event.data, Image)}
    assert sorted(last.values()) == [ImageState.COPIED, ImageState.COPIED, ImageState.FAILED]
    ended = events[-1].data
    assert isinstance(ended, Job)
    assert ended.state is JobState.FAILED


async def test_a_watcher_who_comes_back_misses_nothing_and_gets_nothing_twice(working: House) -> None:
    job = await working.submit("many-300", "slow-1s")
    whole = await asyncio.wait_for(collect(working, job, after=0), 60)
    for cut in (0, 1, len(whole) // 2, len(whole) - 2):
        rest = await asyncio.wait_for(collect(working, job, after=whole[cut].number), 60)
        images = {event.data.id for event in rest if isinstance(event.data, Image)}
        assert all(event.number > whole[cut].number for event in rest)
        assert images >= {event.data.id for event in whole[cut + 1 :] if isinstance(event.data, Image)} - {
            event.data.id for event in whole[: cut + 1] if isinstance(event.data, Image)
        }
        assert rest[-1].name == "end"


async def test_pages_of_events_are_those_of_the_stream(working: House) -> None:
    job = await working.run("many-30", "fails")
    stream = await collect(working, job, after=0)
    pages: list[JobEvent] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = await working.jobs.list_events(job.id, after=int(cursor), limit=7, caller=CALLER)
        assert len(page.items) <= 7
        pages += page.items
        cursor = page.next_cursor
    assert [(event.number, event.name) for event in pages] == [(event.number, event.name) for event in stream]


async def test_who_watches_a_done_job_gets_it_and_the_end(working: House) -> None:
    job = await working.run("t1")
    assert [event.name for event in await collect(working, job)] == ["job", "end"]
    end = (await collect(working, job))[-1]
    assert [event.name for event in await collect(working, job, after=end.number)] == ["end"]


async def test_changes_reach_watchers_in_another_process(house: House, another_house: House) -> None:
    job = await house.submit("slow-2s")
    watching = asyncio.create_task(collect(another_house, job))
    async with house.worker():
        events = await asyncio.wait_for(watching, 60)
    assert any(event.name == "image" for event in events)
    assert (await another_house.jobs.get(job.id, caller=CALLER)).done


async def test_five_hundred_watchers_hold_no_connection_each(working: House) -> None:
    job = await working.submit("slow-3s", "many-100")
    watching = [asyncio.create_task(collect(working, job)) for _ in range(250)]
    waiting = [asyncio.create_task(working.jobs.wait(job.id, timeout_seconds=120, caller=CALLER)) for _ in range(250)]
    await working.until(lambda seen: seen.progress.images.copied == 100, job)
    pool = working.database._engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() <= 3
    ended = await asyncio.wait_for(asyncio.gather(*watching), 60)
    assert {events[-1].name for events in ended} == {"end"}
    assert {done.state for done in await asyncio.gather(*waiting)} == {JobState.SUCCEEDED}


async def test_watching_ends_when_the_job_is_deleted(house: House) -> None:
    job = await house.jobs.cancel((await house.submit("t1")).id, caller=CALLER)
    await house.jobs.delete(job.id, caller=CALLER)
    with pytest.raises(NotFoundError):
        await collect(house, job)


async def test_counts_never_go_backwards(working: House) -> None:
    job = await working.submit("fails", "slow-1s", "many-200")
    seen = [event.data for event in await collect(working, job)]
    progresses = [data.progress if isinstance(data, Job) else data for data in seen if not isinstance(data, Image)]
    for before, after in itertools.pairwise(progresses):
        assert after.images.total >= before.images.total
        done_before, done_after = (one.images.copied + one.images.failed for one in (before, after))
        assert done_after >= done_before
        assert after.bytes.done >= before.bytes.done
        assert after.bytes.total >= before.bytes.total


async def test_who_only_waits_costs_no_reading_of_images_and_still_sees_the_job_as_it_is_then(working: House) -> None:
    read: list[str] = []

    @event.listens_for(working.database._engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        read.append(statement)

    job = await working.submit("slow-4s", "many-30")
    waiting = [
        asyncio.create_task(working.jobs.wait(job.id, timeout_seconds=seconds, caller=CALLER)) for seconds in (2, 30)
    ]
    early = await waiting[0]
    assert early.progress.images.copied == 30
    assert not any("images.revision >" in statement for statement in read)
    watched = await collect(working, job)  # who comes later misses nothing that is still to come
    assert (watched[0].name, watched[-1].name) == ("job", "end")
    assert (await waiting[1]).state is JobState.SUCCEEDED


async def test_the_end_of_a_job_that_is_only_waited_for_is_read_without_its_images(working: House) -> None:
    read: list[str] = []

    @event.listens_for(working.database._engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        read.append(statement)

    job = await working.submit("slow-1s", "many-30")
    done = await working.jobs.wait(job.id, timeout_seconds=30, caller=CALLER)
    assert (done.state, done.progress.images.copied) == (JobState.SUCCEEDED, 31)
    assert not any("images.revision >" in statement for statement in read)


async def test_who_waits_for_the_end_costs_no_look_before_it(house: House) -> None:
    looks: list[str] = []

    @event.listens_for(house.database._engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT jobs.id, jobs.version, jobs.state"):
            looks.append(statement)

    rarely = JobEventStream(house.database, poll_seconds=600)
    job = await house.submit("slow-1s", "many-30")
    waiting = asyncio.create_task(rarely.wait(job.id, timeout_seconds=120))
    async with house.worker():
        assert (await waiting).done
    assert len(looks) == 2  # whether it is done already, and when it is


async def test_a_waiter_is_told_whether_or_not_somebody_watches_too(working: House) -> None:
    done = await working.run("t1")
    waiting = asyncio.create_task(working.watch.wait(done.id, timeout_seconds=120))
    await asyncio.wait_for(collect(working, done), 60)
    assert (await asyncio.wait_for(waiting, 60)).done
    with pytest.raises(NotFoundError):
        await working.watch.wait("019b0000-0000-7000-8000-000000000000", timeout_seconds=120)


async def test_changes_are_announced_and_not_only_found_by_looking(house: House) -> None:
    rarely = JobEventStream(house.database, poll_seconds=60)
    job = await house.submit("slow-1s")
    async with house.worker():
        done = await rarely.wait(job.id, timeout_seconds=120)
    assert done.done


@ON_POSTGRESQL
async def test_announcements_reach_other_processes_too(house: House, another_house: House) -> None:
    rarely = JobEventStream(another_house.database, poll_seconds=60)
    job = await house.submit("slow-1s")
    async with house.worker():
        done = await rarely.wait(job.id, timeout_seconds=120)
    assert done.done
