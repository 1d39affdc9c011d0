"""From a request to its report, on both databases."""

from app.domain.job import ImageState, JobState
from app.domain.request import Options
from tests.jobs.house import House
from tests.jobs.workshops import DIGEST, SIZE


async def test_a_job_copies_all_its_images_and_says_so(working: House) -> None:
    job = await working.run("t1", "t2", "t3")
    assert job.state is JobState.SUCCEEDED
    assert job.progress.planned
    assert job.progress.images.copied == job.progress.images.total == 3
    assert job.progress.bytes.total == job.progress.bytes.done == job.progress.bytes.transferred == 3 * SIZE
    assert job.progress.blobs.transferred == 3
    assert job.created_at <= job.started_at <= job.finished_at  # type: ignore[operator]
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


async def test_a_plan_that_fails_for_good_fails_the_job(working: House) -> None:
    job = await working.run("t1", "unlisted")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.registry) == ("registry_unreachable", "src.example.com")
    assert working.journal.events("dst.example.com/app:t1") == []  # refused before anything is copied
    assert job.progress.images.queued == job.progress.images.running == 0


async def test_a_plan_that_fails_for_a_reason_that_passes_is_tried_again(working: House) -> None:
    job = await working.run("t1", "unlisted-once")
    assert job.state is JobState.SUCCEEDED
    assert job.progress.images.copied == 2


async def test_two_sources_for_one_destination_are_refused_before_anything_is_copied(working: House) -> None:
    job = await working.run("t1", "clashes")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "destination_conflict"
    assert working.journal.events("dst.example.com/app:t1") == []


async def test_a_job_of_nothing_succeeds_with_its_warnings(working: House) -> None:
    job = await working.run("many-0", "warns")
    assert job.state is JobState.SUCCEEDED
    assert [warning.code for warning in job.warnings] == ["no_match"]
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
