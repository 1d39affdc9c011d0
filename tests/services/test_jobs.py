"""What callers may do with jobs: submit once, look, cancel, retry, delete."""

import asyncio
from typing import Any

import pytest

from app.domain.errors import ConflictError, InvalidRequestError, NotFoundError, RegistrySyncError
from app.domain.job import IdempotencyKey, ImageFilter, ImageState, JobFilter, JobState, Submission
from app.domain.page import PageRequest
from tests.worker.house import CALLER, House, wish

KEY = IdempotencyKey("tester", "order-66", "fingerprint")
EVERYTHING = JobFilter()


async def test_fifty_submits_at_once_with_one_key_are_one_job(house: House, another_house: House) -> None:
    houses = [house, another_house] * 25
    submissions = await asyncio.gather(*(one.jobs.submit(wish("t1"), caller=CALLER, idempotency=KEY) for one in houses))
    assert len({submission.job.id for submission in submissions}) == 1
    assert sorted(submission.replayed for submission in submissions) == [False] + [True] * 49
    assert len((await house.jobs.list(EVERYTHING, PageRequest(), caller=CALLER)).items) == 1
    async with house.worker():
        job = await house.done(submissions[0].job)
    assert job.state is JobState.SUCCEEDED
    assert house.journal.events("app:t1") == ["begin", "end"]


async def test_a_key_that_named_another_request_is_refused(house: House) -> None:
    await house.jobs.submit(wish("t1"), caller=CALLER, idempotency=KEY)
    other = IdempotencyKey(KEY.principal, KEY.key, "another")
    with pytest.raises(InvalidRequestError) as refused:
        await house.jobs.submit(wish("t2"), caller=CALLER, idempotency=other)
    assert refused.value.code == "idempotency_key_reused"
    assert len((await house.jobs.list(EVERYTHING, PageRequest(), caller=CALLER)).items) == 1


async def test_a_key_belongs_to_whoever_used_it(house: House) -> None:
    one = await house.jobs.submit(wish("t1"), caller=CALLER, idempotency=KEY)
    other = await house.jobs.submit(wish("t1"), caller=CALLER, idempotency=IdempotencyKey("other", KEY.key, "x"))
    assert one.job.id != other.job.id


async def test_what_is_wrong_with_one_request_is_not_the_misfortune_of_those_that_came_with_it(house: House) -> None:
    taken = await house.jobs.submit(wish("t1"), caller=CALLER, idempotency=KEY)
    other = IdempotencyKey(KEY.principal, KEY.key, "another")
    impossible = {"label": "\N{NULL}" if not house.database.is_sqlite else "\udc80"}  # neither takes its own
    requests: list[dict[str, Any]] = [{}, {"idempotency": KEY}, {"idempotency": other}, {"labels": impossible}, {}]
    submits = [house.jobs.submit(wish("t1"), caller=CALLER, **more) for more in requests]
    first, again, reused, unwritten, last = await asyncio.gather(*submits, return_exceptions=True)
    assert isinstance(reused, InvalidRequestError)
    assert isinstance(unwritten, Exception)
    assert not isinstance(unwritten, RegistrySyncError)
    assert isinstance(again, Submission)
    assert again.job.id == taken.job.id
    ids = {one.job.id for one in (first, last) if isinstance(one, Submission)} | {taken.job.id}
    listed = (await house.jobs.list(EVERYTHING, PageRequest(), caller=CALLER)).items
    assert {job.id for job in listed} == ids
    assert len(ids) == len(listed) == 3


async def test_requests_that_come_together_are_all_taken_in(house: House) -> None:
    keys = [None if number % 3 else IdempotencyKey("tester", f"k{number}", "x") for number in range(300)]
    submissions = await asyncio.gather(
        *(
            house.jobs.submit(
                wish("t1", to=(f"dst.example.com/app-{number}",)),
                caller=CALLER,
                idempotency=key,
                labels={"n": str(number)},
            )
            for number, key in enumerate(keys)
        )
    )
    for number in (0, 150, 299):
        (job,) = (await house.jobs.list(JobFilter(labels=(("n", str(number)),)), PageRequest(), caller=CALLER)).items
        assert job.id == submissions[number].job.id
    async with house.worker(concurrency=32):
        jobs = [await house.done(submission.job) for submission in submissions]
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}


async def test_who_asked_may_go_and_the_job_is_taken_in_all_the_same(house: House) -> None:
    asking = asyncio.create_task(house.jobs.submit(wish("t1"), caller=CALLER))
    await asyncio.sleep(0)
    asking.cancel()
    other = await house.jobs.submit(wish("t2"), caller=CALLER)
    listed = (await house.jobs.list(EVERYTHING, PageRequest(), caller=CALLER)).items
    assert len(listed) == 2
    assert other.job.id in {job.id for job in listed}


async def test_a_job_that_nobody_has_is_not_found(house: House) -> None:
    for unknown in ("01890000-0000-7000-8000-000000000000", "no-id-at-all", ""):
        with pytest.raises(NotFoundError):
            await house.jobs.get(unknown, caller=CALLER)
        with pytest.raises(NotFoundError):
            await house.jobs.list_images(unknown, ImageFilter(), PageRequest(), caller=CALLER)
        with pytest.raises(NotFoundError):
            await house.jobs.cancel(unknown, caller=CALLER)
        with pytest.raises(NotFoundError):
            await house.jobs.wait(unknown, timeout_seconds=1, caller=CALLER)


async def test_cancelling_a_job_that_has_not_begun_ends_it_at_once(house: House) -> None:
    job = await house.jobs.cancel((await house.submit("t1")).id, caller=CALLER)
    assert (job.state, job.cancel_requested, job.done) == (JobState.CANCELLED, True, True)
    async with house.worker():
        await house.run("t2")
    assert house.journal.events("app:t1") == []


async def test_cancelling_stops_what_runs_and_leaves_what_is_done(working: House) -> None:
    slow = [f"slow-30s-{number}" for number in range(20)]
    job = await working.submit("t1", "fails", *slow)
    await working.until(lambda seen: seen.progress.images.running > 1 and seen.progress.images.failed == 1, job)
    asked = await working.jobs.cancel(job.id, caller=CALLER)
    assert asked.cancel_requested
    job = await working.done(job)
    images = job.progress.images
    assert job.state is JobState.CANCELLED
    assert (images.copied, images.failed, images.cancelled) == (1, 1, 20)
    assert working.journal.events(":slow-30s-0") == ["begin", "stop"]


async def test_cancelling_twice_is_answered_twice(working: House) -> None:
    job = await working.submit("slow-30s")
    await working.until(lambda seen: seen.progress.images.running == 1, job)
    first = await working.jobs.cancel(job.id, caller=CALLER)
    second = await working.jobs.cancel(job.id, caller=CALLER)
    assert first.cancel_requested
    assert second.cancel_requested
    await working.done(job)
    third = await working.jobs.cancel(job.id, caller=CALLER)
    assert third.state is JobState.CANCELLED


async def test_cancelling_while_it_is_planned_ends_it_without_a_copy(working: House) -> None:
    job = await working.submit("t1", "slowly-30s")
    await working.until(lambda seen: seen.state is JobState.RUNNING, job)
    await working.jobs.cancel(job.id, caller=CALLER)
    job = await working.done(job)
    assert (job.state, job.progress.planned) == (JobState.CANCELLED, False)
    assert working.journal.events("app:t1") == []


async def test_a_job_that_is_done_can_not_be_cancelled(working: House) -> None:
    job = await working.run("t1")
    with pytest.raises(ConflictError) as refused:
        await working.jobs.cancel(job.id, caller=CALLER)
    assert refused.value.code == "job_already_finished"


async def test_retrying_failed_images_is_a_new_job_of_those_alone(working: House) -> None:
    old = await working.run("t1", "fails", "t2")
    new = await working.jobs.retry(old.id, only="failed", caller=CALLER)
    assert (new.retry_of, new.trigger.type, new.progress.images.queued) == (old.id, "retry", 1)
    new = await working.done(new)
    (image,) = await working.images(new)
    assert (image.source, image.state) == ("src.example.com/app:fails", ImageState.FAILED)
    assert (await working.jobs.get(old.id, caller=CALLER)).progress.images.failed == 1


async def test_retrying_all_copies_everything_again(working: House) -> None:
    old = await working.run("t1", "fails")
    new = await working.done(await working.jobs.retry(old.id, only="all", caller=CALLER))
    assert new.progress.images.total == 2
    assert working.journal.events("app:t1") == ["begin", "end"] * 2


async def test_a_cancelled_job_is_retried_where_it_stopped(working: House) -> None:
    job = await working.submit("t1", "slow-30s")
    await working.until(lambda seen: seen.progress.images.copied == 1 and seen.progress.images.running == 1, job)
    await working.jobs.cancel(job.id, caller=CALLER)
    await working.done(job)
    new = await working.jobs.retry(job.id, only="failed", caller=CALLER)
    assert [image.source for image in await working.images(new)] == ["src.example.com/app:slow-30s"]
    await working.jobs.cancel(new.id, caller=CALLER)


async def test_there_is_nothing_to_retry_where_all_has_arrived(working: House) -> None:
    old = await working.run("t1")
    with pytest.raises(ConflictError) as refused:
        await working.jobs.retry(old.id, only="failed", caller=CALLER)
    assert refused.value.code == "nothing_to_retry"
    assert len((await working.jobs.list(EVERYTHING, PageRequest(), caller=CALLER)).items) == 1


async def test_lists_that_failed_are_had_again_by_a_retry_beside_the_images_that_did(working: House) -> None:
    old = await working.run("t1", "unlisted-twice", "fails", "clashes", "t2")
    assert (old.progress.images.failed, old.progress.images.copied) == (3, 2)
    new = await working.jobs.retry(old.id, only="failed", caller=CALLER)
    assert (new.progress.images.total, new.progress.planned) == (1, False)
    new = await working.done(new)
    assert sorted((image.source, image.state) for image in await working.images(new)) == [
        ("src.example.com/app:fails", ImageState.FAILED),
        ("src.example.com/app:unlisted-twice", ImageState.COPIED),
    ]
    assert working.journal.events("app:t1") == ["begin", "end"]
    third = await working.done(await working.jobs.retry(new.id, only="failed", caller=CALLER))
    assert [image.source for image in await working.images(third)] == ["src.example.com/app:fails"]


async def test_a_retry_gives_nobody_a_destination_that_was_anothers(working: House) -> None:
    away = wish("lands").rules[0].model_copy(update={"source": "src.example.com/app:t1,unlisted-twice"})
    first = wish("t1", "unlisted-twice").rules[0].model_copy(update={"source": "src.example.com/other:unlisted-once"})
    request = wish("t1").model_copy(update={"rules": (away, first)})
    old = await working.done((await working.jobs.submit(request, caller=CALLER)).job)
    assert old.progress.images.failed == 1
    new = await working.done(await working.jobs.retry(old.id, only="failed", caller=CALLER))
    assert new.state is JobState.SUCCEEDED


async def test_what_planning_refused_is_not_tried_again_by_a_retry(working: House) -> None:
    old = await working.run("t1", "clashes")
    with pytest.raises(ConflictError, match="change the rules") as refused:
        await working.jobs.retry(old.id, only="failed", caller=CALLER)
    assert refused.value.code == "nothing_to_retry"


async def test_a_job_that_was_cut_off_while_it_was_planned_is_planned_again_by_a_retry(working: House) -> None:
    old = await working.submit("t1", "slowly-30s")
    await working.until(lambda seen: seen.progress.images.copied == 1, old)
    assert not (await working.cancel(old)).progress.planned
    new = await working.jobs.retry(old.id, only="failed", caller=CALLER)
    await working.until(lambda seen: seen.progress.images.copied == 1, new)
    assert working.journal.events("slowly-30s") == ["plan", "plan"]
    await working.cancel(new)


async def test_only_a_done_job_can_be_retried_or_deleted(working: House) -> None:
    job = await working.submit("slow-30s")
    with pytest.raises(ConflictError) as refused:
        await working.jobs.retry(job.id, only="all", caller=CALLER)
    assert refused.value.code == "job_not_finished"
    with pytest.raises(ConflictError) as refused:
        await working.jobs.delete(job.id, caller=CALLER)
    assert refused.value.code == "job_not_finished"
    await working.jobs.cancel(job.id, caller=CALLER)


async def test_a_deleted_job_is_gone_and_its_key_is_free_again(working: House) -> None:
    submission = await working.jobs.submit(wish("t1"), caller=CALLER, idempotency=KEY)
    await working.done(submission.job)
    await working.jobs.delete(submission.job.id, caller=CALLER)
    with pytest.raises(NotFoundError):
        await working.jobs.get(submission.job.id, caller=CALLER)
    again = await working.jobs.submit(wish("t1"), caller=CALLER, idempotency=KEY)
    assert not again.replayed


async def test_waiting_ends_with_the_job_or_with_the_time(working: House) -> None:
    job = await working.submit("slow-1s")
    early = await working.jobs.wait(job.id, timeout_seconds=0.05, caller=CALLER)
    assert not early.done
    assert (await working.jobs.wait(job.id, timeout_seconds=120, caller=CALLER)).state is JobState.SUCCEEDED
