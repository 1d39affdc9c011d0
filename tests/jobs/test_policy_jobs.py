"""Policies' jobs: every schedule fires once, a policy never runs twice at once, a burst of pushes is one job."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uuid_utils

from app.domain.errors import InvalidRequestError, NotFoundError
from app.domain.job import IdempotencyKey, Job, JobFilter, JobState, Submission, Trigger
from app.domain.page import PageRequest
from app.domain.policy import Policy, StoredPolicy
from app.domain.reference import Reference
from app.jobs.policy_jobs import Accepted, PolicyJobs
from app.services.policies import PolicyService
from app.store.db.database import Database
from app.store.policies import PolicyStore
from app.sync.push_rules import rules_for_push
from app.worker.scheduler import Scheduler
from tests.support.clock import SettableClock
from tests.worker.house import CALLER, House, now

SCHEDULE = {"cron": "*/10 * * * *"}
KEY = IdempotencyKey(CALLER.name, "nightly", "fingerprint")
START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def policy(*tags: str, name: str = "mirror", **more: Any) -> Policy:
    rules = [{"source": f"src.example.com/app:{','.join(tags or ('t1',))}", "destination": "dst.example.com/app"}]
    return Policy.model_validate({"name": name, "rules": rules, **more})


def policy_jobs(house: House) -> PolicyJobs:
    return PolicyJobs(house.queue, clock=now, new_id=lambda: str(uuid_utils.uuid7()))


def desk(house: House, clock: SettableClock | None = None) -> PolicyService:
    return PolicyService(
        house.database,
        policy_jobs(house),
        admission=house.admission,
        now=clock or now,
        new_id=lambda: str(uuid_utils.uuid7()),
    )


async def keep(house: House, existing: Policy, *, clock: SettableClock | None = None) -> StoredPolicy:
    stored, _ = await desk(house, clock).put(existing, expected_version=None, caller=CALLER)
    return stored


async def read(house: House, name: str = "mirror") -> StoredPolicy:
    async with house.database.reading() as session:
        return await PolicyStore(session).get(name)


async def jobs(house: House, name: str = "mirror") -> list[Job]:
    """List a policy's jobs, the oldest first."""
    page = await house.jobs.list(JobFilter(policy=name), PageRequest(), caller=CALLER)
    return list(reversed(page.items))


async def push(house: House, existing: Policy, tag: str = "t1") -> Accepted:
    pushed = Reference.parse(f"src.example.com/app:{tag}")
    async with house.database.transaction() as session:
        [locked] = await PolicyStore(session).lock([existing.name])
        return await policy_jobs(house).submit_for_push(
            session, locked, pushed, rules=rules_for_push(locked, pushed), chain=(), event_id="event", caller=CALLER
        )


async def test_of_many_schedulers_in_many_processes_one_submits_what_is_due(
    house: House, another_house: House, clock: SettableClock
) -> None:
    for number in range(5):
        await keep(house, policy(name=f"p{number}", schedule=SCHEDULE), clock=clock)
    schedulers = [Scheduler(one.database, policy_jobs(one), clock=clock) for one in [house, another_house] * 5]
    for due in (1, 2, 3):
        clock.set((await read(house, "p0")).next_run_at or START)
        made = await asyncio.gather(*(scheduler.submit_due() for scheduler in schedulers))
        assert sum(made) == (5 if due == 1 else 0), "a run that waits takes in the ones that come due"
        for number in range(5):
            [job] = await jobs(house, f"p{number}")
            assert (job.trigger, job.created_by) == (Trigger("schedule"), f"policy/p{number}")
    existing = await read(house, "p0")
    assert existing.next_run_at == datetime(2030, 1, 2, 3, 40, tzinfo=UTC)
    assert existing.last_job is not None
    assert existing.last_job.id == (await jobs(house, "p0"))[0].id


async def test_a_run_that_is_due_is_had_by_one_of_those_who_reach_for_it(
    house: House, another_house: House, clock: SettableClock
) -> None:
    due = await keep(house, policy(schedule=SCHEDULE), clock=clock)

    async def reach(database: Database) -> bool:
        async with database.transaction() as session:
            return await PolicyStore(session).claim_run(due, next_run_at=clock() + timedelta(days=1))

    had = await asyncio.gather(*(reach(one.database) for one in [house, another_house] * 5))
    assert sum(had) == 1


async def test_a_schedule_is_looked_after_until_told_to_stop(house: House, clock: SettableClock) -> None:
    existing = await keep(house, policy(schedule=SCHEDULE), clock=clock)
    stop = asyncio.Event()
    running = asyncio.create_task(Scheduler(house.database, policy_jobs(house), clock=clock).run(stop))
    clock.set(existing.next_run_at or START)
    async with asyncio.timeout(60):
        while not await jobs(house):  # noqa: ASYNC110 — it is the rows that are looked at
            await asyncio.sleep(0.02)
    stop.set()
    await running
    assert len(await jobs(house)) == 1


@pytest.mark.parametrize(("catch_up", "made"), [("once", 1), ("skip", 0)])
async def test_runs_missed_while_nobody_was_there_are_one_run_or_none(
    house: House, clock: SettableClock, catch_up: str, made: int
) -> None:
    await keep(house, policy(schedule={**SCHEDULE, "catch_up": catch_up}), clock=clock)
    scheduler = Scheduler(house.database, policy_jobs(house), clock=clock)
    clock.advance(timedelta(hours=5).total_seconds())

    assert [await scheduler.submit_due(), await scheduler.submit_due()] == [made, 0]
    assert (await read(house)).next_run_at == datetime(2030, 1, 2, 8, 10, tzinfo=UTC)

    clock.set(datetime(2030, 1, 2, 8, 10, 1, tzinfo=UTC))
    async with house.worker():
        await asyncio.gather(*(house.done(job) for job in await jobs(house)))
    assert await scheduler.submit_due() == 1, "one that is on time is no missed one"


async def test_a_paused_policy_is_never_due_and_is_due_as_scheduled_when_it_goes_on(
    house: House, clock: SettableClock
) -> None:
    await keep(house, policy(schedule=SCHEDULE, enabled=False), clock=clock)
    scheduler = Scheduler(house.database, policy_jobs(house), clock=clock)
    clock.advance(3_600)
    assert (await read(house)).next_run_at is None
    assert await scheduler.submit_due() == 0
    await keep(house, policy(schedule=SCHEDULE), clock=clock)
    assert (await read(house)).next_run_at == datetime(2030, 1, 2, 4, 10, tzinfo=UTC)


async def test_a_change_that_is_not_about_the_schedule_lets_no_run_go_by(house: House, clock: SettableClock) -> None:
    await keep(house, policy(schedule=SCHEDULE), clock=clock)
    clock.advance(3_600)
    await keep(house, policy("t2", schedule=SCHEDULE), clock=clock)
    assert await Scheduler(house.database, policy_jobs(house), clock=clock).submit_due() == 1


async def test_a_run_that_was_due_when_its_policy_changed_is_not_taken_as_it_was(
    house: House, clock: SettableClock
) -> None:
    before = await keep(house, policy("t1", schedule=SCHEDULE), clock=clock)
    clock.advance(3_600)
    await keep(house, policy("t2", schedule=SCHEDULE), clock=clock)
    async with house.database.transaction() as session:
        assert not await PolicyStore(session).claim_run(before, next_run_at=None)


async def test_runs_that_come_due_while_one_is_at_work_are_one_that_follows_it(
    house: House, another_house: House, clock: SettableClock
) -> None:
    existing = await keep(house, policy("slow-1s", schedule=SCHEDULE), clock=clock)
    async with house.worker("one"), another_house.worker("two"):
        first = (await desk(house).run("mirror", caller=CALLER)).job
        await house.until(lambda job: job.state is JobState.RUNNING, first)

        clock.set(existing.next_run_at or START)
        scheduler = Scheduler(house.database, policy_jobs(house), clock=clock)
        asked = await asyncio.gather(
            *(desk(one).run("mirror", caller=CALLER) for one in [house, another_house] * 4), scheduler.submit_due()
        )

        following = {submission.job.id for submission in asked if isinstance(submission, Submission)}
        assert len(following) == 1
        assert first.id not in following
        assert [job.id for job in await jobs(house)] == [first.id, *following]
        for job in await jobs(house):
            await house.done(job)
    assert house.journal.events("app:slow-1s") == ["begin", "end", "begin", "end"]


async def test_a_run_follows_the_one_at_work_even_where_another_worker_is_free(house: House) -> None:
    await keep(house, policy("slow-1s"))
    async with house.worker(concurrency=8):
        first = (await desk(house).run("mirror", caller=CALLER)).job
        await house.until(lambda job: job.state is JobState.RUNNING, first)
        second = (await desk(house).run("mirror", caller=CALLER)).job
        ended = await house.done(second)
        assert (await house.jobs.get(first.id, caller=CALLER)).finished_at is not None
        first_ended, began = (await house.jobs.get(first.id, caller=CALLER)).finished_at, ended.started_at
        assert first_ended is not None
        assert began is not None
        assert first_ended <= began


async def test_runs_asked_for_at_once_with_one_key_are_one_run_and_stay_it_when_it_is_over(
    house: House, another_house: House
) -> None:
    await keep(house, policy())
    houses = [house, another_house] * 15
    asked = await asyncio.gather(*(desk(one).run("mirror", caller=CALLER, idempotency=KEY) for one in houses))
    [job_id] = {submission.job.id for submission in asked}
    assert sorted(submission.replayed for submission in asked) == [False] + [True] * 29
    async with house.worker():
        await house.done(asked[0].job)
    again = await desk(house).run("mirror", caller=CALLER, idempotency=KEY)
    assert (again.job.id, again.replayed) == (job_id, True)
    await desk(house).delete("mirror", expected_version=None, caller=CALLER)
    assert (await desk(house).run("mirror", caller=CALLER, idempotency=KEY)).job.id == job_id
    assert [job.id for job in await jobs(house)] == [job_id]


async def test_a_key_names_the_run_that_waits_already(house: House) -> None:
    await keep(house, policy())
    waiting = await desk(house).run("mirror", caller=CALLER)
    named = await desk(house).run("mirror", caller=CALLER, idempotency=KEY)
    again = await desk(house).run("mirror", caller=CALLER, idempotency=KEY)
    assert {named.job.id, again.job.id} == {waiting.job.id}
    assert (named.replayed, again.replayed) == (False, True)


async def test_a_key_of_a_run_that_came_to_nothing_is_free(house: House) -> None:
    with pytest.raises(NotFoundError):
        await desk(house).run("mirror", caller=CALLER, idempotency=KEY)
    await keep(house, policy())
    assert not (await desk(house).run("mirror", caller=CALLER, idempotency=KEY)).replayed
    await keep(house, policy(name="other"))
    another = IdempotencyKey(KEY.principal, KEY.key, "another")
    with pytest.raises(InvalidRequestError, match="another request"):
        await desk(house).run("other", caller=CALLER, idempotency=another)
    assert await jobs(house, "other") == []


async def test_runs_of_two_policies_do_not_wait_for_each_other(house: House) -> None:
    await keep(house, policy("slow-60s", name="slow"))
    await keep(house, policy("t1", name="quick"))
    async with house.worker():
        slow = (await desk(house).run("slow", caller=CALLER)).job
        await house.until(lambda job: job.state is JobState.RUNNING, slow)
        await house.done((await desk(house).run("quick", caller=CALLER)).job)
        assert not (await house.jobs.get(slow.id, caller=CALLER)).done
        await house.cancel(slow)


async def test_a_paused_policy_runs_when_asked_and_not_when_due(house: House, clock: SettableClock) -> None:
    existing = await keep(house, policy("t1", schedule=SCHEDULE, enabled=False), clock=clock)
    assert existing.next_run_at is None
    async with house.worker():
        job = await house.done((await desk(house).run("mirror", caller=CALLER)).job)
    assert (job.state, job.trigger.type) == (JobState.SUCCEEDED, "api")


async def test_a_job_keeps_what_its_policy_said_and_the_next_one_says_what_it_says_now(house: House) -> None:
    await keep(house, policy("slow-3s"))
    async with house.worker():
        first = (await desk(house).run("mirror", caller=CALLER)).job
        await house.until(lambda job: job.state is JobState.RUNNING, first)
        await keep(house, policy("t2"))
        second = (await desk(house).run("mirror", caller=CALLER)).job
        assert (await house.done(first)).request == policy("slow-3s").request
        assert (await house.done(second)).request == policy("t2").request
    assert house.journal.events("app:slow-3s") == ["begin", "end"]


async def test_a_policy_may_go_while_its_job_runs(house: House) -> None:
    await keep(house, policy("slow-1s"))
    async with house.worker():
        job = (await desk(house).run("mirror", caller=CALLER)).job
        await house.until(lambda job: job.state is JobState.RUNNING, job)
        await desk(house).delete("mirror", expected_version=None, caller=CALLER)
        assert (await house.done(job)).state is JobState.SUCCEEDED


async def test_a_run_that_waits_and_is_cancelled_is_not_the_one_that_follows(house: House) -> None:
    await keep(house, policy())
    waiting = (await desk(house).run("mirror", caller=CALLER)).job
    await house.jobs.cancel(waiting.id, caller=CALLER)
    again = (await desk(house).run("mirror", caller=CALLER)).job
    assert again.id != waiting.id
    async with house.worker():
        assert (await house.done(again)).state is JobState.SUCCEEDED


async def test_a_retry_is_no_run_and_goes_in_turn(house: House) -> None:
    await keep(house, policy("fails", "slow-1s"))
    async with house.worker():
        first = await house.done((await desk(house).run("mirror", caller=CALLER)).job)
        retried = await house.jobs.retry(first.id, only="failed", caller=CALLER)
        run = await desk(house).run("mirror", caller=CALLER)
        assert run.job.id not in {first.id, retried.id}
        done, after = await house.done(retried), await house.done(run.job)
        assert done.finished_at is not None
        assert after.started_at is not None
        assert done.finished_at <= after.started_at


async def test_a_burst_of_pushes_of_one_tag_is_one_job_and_one_more_while_that_runs(
    house: House, another_house: House
) -> None:
    existing = policy("slow-3s", on_push=True)
    await keep(house, existing)
    burst = await asyncio.gather(*(push(one, existing, "slow-3s") for one in [house, another_house] * 10))
    [job_id] = {accepted.job.id for accepted in burst}
    async with house.worker():
        first = await house.until(lambda job: job.state is JobState.RUNNING, burst[0].job)
        more = await asyncio.gather(*(push(one, existing, "slow-3s") for one in [house, another_house] * 5))
        [following] = {accepted.job.id for accepted in more}
        assert following != job_id
        await house.done(first)
        await house.done(more[0].job)
    assert [job.id for job in await jobs(house)] == [job_id, following]
    assert house.journal.events("app:slow-3s") == ["begin", "end", "begin", "end"]


async def test_pushes_of_different_tags_wait_neither_for_each_other_nor_for_a_whole_run(house: House) -> None:
    existing = policy("slow-60s", "t1", "t2", on_push=True)
    await keep(house, existing)
    async with house.worker():
        run = (await desk(house).run("mirror", caller=CALLER)).job
        await house.until(lambda job: job.state is JobState.RUNNING, run)
        first, second = await push(house, existing, "t1"), await push(house, existing, "t2")
        await house.done(first.job)
        await house.done(second.job)
        assert not (await house.jobs.get(run.id, caller=CALLER)).done
        await house.cancel(run)


async def test_pushes_set_off_no_policy_that_was_paused_in_between(house: House) -> None:
    await keep(house, policy(on_push=True, enabled=False))
    async with house.database.transaction() as session:
        assert await PolicyStore(session).lock(["mirror"]) == ()
