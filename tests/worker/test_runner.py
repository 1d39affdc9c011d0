"""From a request to its report, on both databases."""

import asyncio

import pytest

from app.domain.job import ImageState, JobState
from app.domain.request import Options
from tests.worker.house import CALLER, House, now
from tests.worker.sync_sessions import DIGEST, SIZE


async def test_a_job_copies_all_its_images_and_says_so(working: House) -> None:
    job = await working.run("t1", "t2", "t3")
    assert job.state is JobState.SUCCEEDED
    assert job.progress.planned
    assert job.progress.images.copied == job.progress.images.total == 3
    assert job.progress.bytes.total == job.progress.bytes.done == job.progress.bytes.transferred == 3 * SIZE
    assert job.progress.blobs.transferred == 3
    assert job.created_at <= job.started_at <= job.finished_at  # type: ignore[operator]  # None fails the test as well
    first, *_ = await working.images(job)
    assert (first.source, first.destination) == ("src.example.com/app:t1", "dst.example.com/app:t1")
    assert (first.state, first.digest, first.attempts) == (ImageState.COPIED, DIGEST, 1)
    assert first.finished_at is not None


async def test_one_failing_image_does_not_stop_the_others(working: House) -> None:
    job = await working.run("t1", "fails", "t2")
    assert job.state is JobState.FAILED
    assert (job.progress.images.copied, job.progress.images.failed) == (2, 1)
    (failed,) = await working.images(job, ImageState.FAILED)
    assert failed.error is not None
    assert (failed.error.code, failed.error.side) == ("denied", "destination")


async def test_an_image_tells_how_often_it_was_tried(working: House) -> None:
    (image,) = await working.images(await working.run("thrice"))
    assert (image.state, image.attempts) == (ImageState.COPIED, 3)


async def test_what_nobody_thought_of_fails_its_image_only(working: House) -> None:
    job = await working.run("breaks", "t1")
    (failed,) = await working.images(job, ImageState.FAILED)
    assert failed.error is not None
    assert failed.error.code == "internal"
    assert "ZeroDivisionError" in failed.error.message
    assert job.progress.images.copied == 1


async def test_failing_fast_cancels_what_has_not_ended(working: House) -> None:
    tags = [f"slow-8s-{number}" for number in range(6)]
    job = await working.run("fails", *tags, options=Options(fail_fast=True))
    assert job.state is JobState.FAILED
    assert not job.cancel_requested
    assert (job.progress.images.failed, job.progress.images.cancelled) == (1, 6)


async def test_a_list_that_cant_be_had_is_a_row_and_the_rest_is_copied(working: House) -> None:
    job = await working.run("t1", "unlisted", "t2")
    assert job.state is JobState.FAILED
    assert (job.progress.images.copied, job.progress.images.failed, job.progress.images.total) == (2, 1, 3)
    (failed,) = await working.images(job, ImageState.FAILED)
    assert (failed.kind, failed.rule, failed.source) == ("listing", 0, "src.example.com/app:unlisted")
    assert failed.error is not None
    assert (failed.error.code, failed.error.registry, failed.error.temporary) == (
        "registry_unreachable",
        "src.example.com",
        False,
    )
    assert failed.finished_at is not None


async def test_a_failed_job_says_what_for_and_how_often(working: House) -> None:
    job = await working.run("fails", "unlisted", "t1", "clashes", "breaks")
    assert job.error is not None
    assert job.error.code == "images_failed"
    assert {(failed.kind, failed.code, failed.side, failed.count) for failed in job.error.failures} == {
        ("image", "denied", "destination", 1),
        ("image", "internal", None, 1),
        ("listing", "registry_unreachable", None, 1),
        ("refused", "destination_conflict", None, 1),
    }
    assert job.error.message.startswith("4 failed, 1 for ")
    first = next(failed for failed in job.error.failures if failed.code == "denied")
    assert (first.source, first.destination, first.message) == (
        "src.example.com/app:fails",
        "dst.example.com/app:fails",
        "no",
    )


async def test_a_list_that_cant_be_had_just_now_is_had_a_little_later_and_the_rest_meanwhile(working: House) -> None:
    job = await working.submit("t1", "unlisted-once")
    await working.until(lambda seen: seen.progress.images.copied == 1 and not seen.progress.planned, job)
    job = await working.done(job)
    assert job.state is JobState.SUCCEEDED
    assert job.progress.images.copied == 2
    assert working.journal.events("t1") == ["plan", "begin", "end"]


async def test_a_list_that_cant_be_had_a_second_time_either_has_failed(working: House) -> None:
    job = await working.run("t1", "unlisted-twice")
    assert (job.state, job.progress.images.copied, job.progress.images.failed) == (JobState.FAILED, 1, 1)
    assert job.progress.planned


async def test_what_wants_anothers_destination_is_refused_and_the_first_is_copied(working: House) -> None:
    job = await working.run("t1", "clashes", "t2")
    assert job.state is JobState.FAILED
    assert (job.progress.images.copied, job.progress.images.failed) == (2, 1)
    (refused,) = await working.images(job, ImageState.FAILED)
    assert (refused.kind, refused.destination) == ("refused", "dst.example.com/app:t1")
    assert refused.error is not None
    assert refused.error.code == "destination_conflict"
    assert working.journal.events("dst.example.com/app:t1") == ["begin", "end"]


@pytest.mark.parametrize(("tag", "code"), [("unlisted", "registry_unreachable"), ("clashes", "destination_conflict")])
async def test_failing_fast_copies_nothing_of_what_cant_be_planned_whole(working: House, tag: str, code: str) -> None:
    job = await working.run("t1", tag, options=Options(fail_fast=True))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == code
    assert working.journal.events("dst.example.com/app:t1") == []
    assert job.progress.images.queued == job.progress.images.running == 0


async def test_failing_fast_plans_again_what_passes_and_copies_all(working: House) -> None:
    job = await working.run("many-600", "unlisted-once", options=Options(fail_fast=True))
    assert (job.state, job.progress.images.copied) == (JobState.SUCCEEDED, 601)


async def test_copying_begins_while_lists_are_still_read(working: House) -> None:
    job = await working.submit("t1", "slowly-5s", "t2")
    seen = await working.until(lambda seen: seen.progress.images.copied > 0, job)
    assert not seen.progress.planned
    job = await working.done(job)
    assert (job.state, job.progress.images.copied) == (JobState.SUCCEEDED, 3)


async def test_what_nobody_thought_of_while_planning_ends_the_job(working: House) -> None:
    job = await working.run("slow-60s", "slowly-2s", "unplannable")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "internal"
    assert (job.progress.images.cancelled, job.progress.images.total) == (1, 1)


async def test_a_job_of_nothing_succeeds_with_its_warnings(working: House) -> None:
    job = await working.run("many-0", "warns")
    assert job.state is JobState.SUCCEEDED
    assert [(warning.code, warning.count, warning.rule) for warning in job.warnings] == [("no_match", 1, 0)]
    assert job.progress.images.total == 1


async def test_many_images_are_divided_and_all_arrive_once(working: House) -> None:
    job = await working.run("many-700")
    assert job.progress.images.copied == 700
    ended = [line.destination for line in working.journal.lines() if line.event == "end"]
    assert len(ended) == len(set(ended)) == 700
    assert [image.id for image in await working.images(job)] == [f"{job.id}-{number}" for number in range(700)]


async def test_one_source_for_many_destinations_is_copied_in_one_go(working: House) -> None:
    job = await working.run("t1", "t2", to=("dst.example.com/app", "other.example.com/app"))
    assert job.progress.images.copied == 4
    assert [image.destination for image in await working.images(job)] == [
        "dst.example.com/app:t1",
        "other.example.com/app:t1",
        "dst.example.com/app:t2",
        "other.example.com/app:t2",
    ]


@pytest.mark.parametrize("tag", ["paused", "unlisted-paused"])
async def test_a_pause_gives_the_place_back_is_told_and_then_the_job_goes_on(house: House, tag: str) -> None:
    async with house.worker(concurrency=1) as worker:
        job = await house.submit("t1", tag)
        waiting = await house.until(lambda seen: seen.waiting_for is not None, job)
        assert waiting.waiting_for is not None
        assert (waiting.waiting_for.registry, waiting.waiting_for.reason) == ("src.example.com", "leave me alone")
        assert waiting.waiting_for.until > now()
        assert (await house.run("t2")).state is JobState.SUCCEEDED  # there is one place, and the other job has it
        assert not (await house.jobs.get(job.id, caller=CALLER)).done
        ended = await house.done(job)
        async with asyncio.timeout(60):
            while worker.running:  # noqa: ASYNC110 — the job's end is told before its unit's
                await asyncio.sleep(0.01)
    assert (ended.state, ended.progress.images.copied, ended.waiting_for) == (JobState.SUCCEEDED, 2, None)
    assert ended.finished_at is not None
    assert ended.finished_at >= waiting.waiting_for.until
    assert {image.attempts for image in await house.images(ended)} == {1}
