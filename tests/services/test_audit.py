"""Who did what with jobs, written down with what was done, on both databases."""

import asyncio

from app.domain.audit import AuditAction, AuditEntry, AuditFilter
from app.domain.job import IdempotencyKey, Job, JobState
from app.domain.page import PageRequest
from app.store.audit import AuditStore
from app.worker.scheduler import Scheduler
from tests.jobs.test_policy_jobs import jobs, keep, policy, policy_jobs, push
from tests.support.clock import SettableClock
from tests.worker.house import CALLER, House, wish


async def entries(house: House, job: Job) -> list[AuditEntry]:
    """Return what is written down of a job, oldest first."""
    async with house.database.reading() as session:
        page = await AuditStore(session).list(AuditFilter(target=job.id), PageRequest())
    return list(reversed(page.items))


async def test_a_running_job_that_is_cancelled_twice_was_cancelled_once(working: House) -> None:
    job = await working.submit("slow-9s")
    await working.until(lambda seen: seen.state is JobState.RUNNING, job)
    await asyncio.gather(*[working.jobs.cancel(job.id, caller=CALLER) for _ in range(2)])
    assert (await working.done(job)).state is JobState.CANCELLED
    found = await entries(working, job)
    assert [entry.action for entry in found] == [AuditAction.JOB_SUBMITTED, AuditAction.JOB_CANCELLED]
    assert {entry.actor for entry in found} == {CALLER.name}


async def test_what_a_worker_does_is_nobodys_change(working: House) -> None:
    job = await working.run("t1", "fails")
    assert [entry.action for entry in await entries(working, job)] == [AuditAction.JOB_SUBMITTED]


async def test_a_job_of_a_schedule_is_written_down_with_its_policy_in_one_transaction(
    house: House, clock: SettableClock
) -> None:
    existing = await keep(house, policy(schedule={"cron": "0 * * * *"}), clock=clock)
    clock.set(existing.next_run_at or clock())
    scheduler = Scheduler(house.database, policy_jobs(house), clock=clock)
    assert [await scheduler.submit_due(), await scheduler.submit_due()] == [1, 0]
    [job] = await jobs(house)
    [entry] = await entries(house, job)
    assert (entry.action, entry.actor) == (AuditAction.JOB_SUBMITTED, "policy/mirror")
    assert (entry.details["trigger"], entry.details["policy"]) == ("schedule", "mirror")


async def test_a_job_of_a_push_is_written_down_once_with_its_policy_and_the_event(house: House) -> None:
    existing = policy("t1", on_push=True)
    await keep(house, existing)
    first, again = [await push(house, existing) for _ in range(2)]
    assert first.job.id == again.job.id
    [entry] = await entries(house, first.job)
    told = {name: entry.details[name] for name in ("trigger", "policy", "event_id")}
    assert told == {"trigger": "push", "policy": "mirror", "event_id": "event"}
    assert entry.details["rules"] == [{"source": "src.example.com/app:t1", "destination": ["dst.example.com/app:t1"]}]


async def test_the_same_submission_again_is_not_written_down_again(house: House) -> None:
    key = IdempotencyKey(CALLER.name, "k", "f")
    first, again = [await house.jobs.submit(wish("t1"), caller=CALLER, idempotency=key) for _ in range(2)]
    assert (first.job.id, again.replayed) == (again.job.id, True)
    assert len(await entries(house, first.job)) == 1
