"""A planning that is begun again goes on where its rows end, and hands nothing out twice."""

from app.domain.job import JobState
from app.sync.planner import PlanScope
from app.worker.plan_writer import PlanWriter
from tests.worker.house import CALLER, House, now
from tests.worker.sync_sessions import Steered
from tests.worker.test_claims import take, unit_ids


async def test_a_planning_that_is_begun_again_adds_what_is_new_and_hands_nothing_out_twice(house: House) -> None:
    job = await house.submit("many-20", "t1", "clashes", "unlisted", "t2")
    (unit_id,) = await unit_ids(house)
    first = await take(house, "same", unit_id)
    writer = PlanWriter(first, house.database, house.queue, clock=now)
    plan = Steered(house.journal).plan(job.request, await writer.recall())
    for _ in range(22):
        writer.take(await anext(plan))
    await plan.aclose()
    await writer.write()
    assert (await house.jobs.get(job.id, caller=CALLER)).progress.images.total == 22

    async with house.worker("same"):
        ended = await house.done(job)
    assert (ended.state, ended.progress.images.total) == (JobState.FAILED, 24)
    assert (ended.progress.images.copied, ended.progress.images.failed) == (22, 2)
    destinations = [line.destination for line in house.journal.lines() if line.event == "begin"]
    assert len(destinations) == len(set(destinations)) == 22


async def test_a_scope_of_rows_plans_nothing_twice(house: House) -> None:
    job = await house.submit("many-3")
    (unit_id,) = await unit_ids(house)
    writer = PlanWriter(await take(house, "same", unit_id), house.database, house.queue, clock=now)
    for found in [item async for item in Steered(house.journal).plan(job.request, PlanScope())]:
        writer.take(found)
    await writer.write()
    again = PlanWriter(await take(house, "same", unit_id), house.database, house.queue, clock=now)
    assert [item async for item in Steered(house.journal).plan(job.request, await again.recall())] == []
