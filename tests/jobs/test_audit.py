"""Who did what with jobs, written down with what was done, on both databases."""

import asyncio

from app.domain.audit import AuditAction, AuditEntry, AuditFilter
from app.domain.job import IdempotencyKey, Job, JobState
from app.store.audit import AuditStore
from app.store.paging import PageRequest
from tests.jobs.house import CALLER, House, wish


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


async def test_the_same_submission_again_is_not_written_down_again(house: House) -> None:
    key = IdempotencyKey(CALLER.name, "k", "f")
    first, again = [await house.jobs.submit(wish("t1"), caller=CALLER, idempotency=key) for _ in range(2)]
    assert (first.job.id, again.replayed) == (again.job.id, True)
    assert len(await entries(house, first.job)) == 1
