"""Two jobs that want one destination tag do not fight, and the outcome is the later request's."""

from app.domain.job import ImageState, JobState
from tests.worker.house import CALLER, House


async def test_a_job_waits_while_another_writes_its_destination(working: House) -> None:
    earlier = await working.submit("slow-2s")
    await working.until(lambda seen: seen.progress.images.running == 1, earlier)
    later = await working.submit("slow-2s", "t1")
    await working.done(later)
    assert working.journal.events("app:slow-2s") == ["begin", "end", "begin", "end"]
    assert (await working.jobs.get(earlier.id, caller=CALLER)).state is JobState.SUCCEEDED


async def test_only_the_image_in_question_waits(working: House) -> None:
    earlier = await working.submit("slow-30s")
    await working.until(lambda seen: seen.progress.images.running == 1, earlier)
    later = await working.submit("t1", "slow-30s")
    seen = await working.until(lambda seen: seen.progress.images.copied == 1, later)
    assert seen.progress.images.queued == 1
    await working.cancel(earlier)
    await working.until(lambda seen: seen.progress.images.running == 1, later)
    await working.cancel(later)


async def test_an_earlier_job_leaves_alone_what_a_later_one_has_written(house: House) -> None:
    earlier = await house.submit("slowly-2s", "t1")  # its planning takes longer than all of the later job
    async with house.worker():
        await house.until(lambda seen: seen.state is JobState.RUNNING, earlier)
        later = await house.run("t1")
        earlier = await house.done(earlier)
    assert later.progress.images.copied == 1
    superseded = next(image for image in await house.images(earlier) if image.destination.endswith(":t1"))
    assert (superseded.state, superseded.reason) == (ImageState.UP_TO_DATE, "superseded")
    assert earlier.state is JobState.SUCCEEDED
    assert house.journal.events("app:t1") == ["begin", "end"]


async def test_what_a_later_job_failed_to_write_is_written_by_the_earlier_one(house: House) -> None:
    earlier = await house.submit("slowly-2s", "fails")
    async with house.worker():
        await house.until(lambda seen: seen.state is JobState.RUNNING, earlier)
        await house.run("fails")
        await house.done(earlier)
    assert house.journal.events("app:fails") == ["begin", "end"] * 2


async def test_destinations_are_free_again_after_a_cancelled_job(working: House) -> None:
    earlier = await working.submit("slow-30s")
    await working.until(lambda seen: seen.progress.images.running == 1, earlier)
    await working.cancel(earlier)
    later = await working.submit("slow-30s")
    await working.until(lambda seen: seen.progress.images.running == 1, later)
    await working.cancel(later)
