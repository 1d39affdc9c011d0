"""The scheduler: due policies become jobs. Each schedule fires once, however many processes look after it.

The process that moves a policy's `next_run_at` on from what it was has the run, and submits it in the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from app.concurrency import log_unavailable, wait_for_event
from app.domain.access import Caller, ScopePreset
from app.domain.errors import UnavailableError
from app.domain.job import Trigger
from app.domain.policy import StoredPolicy, next_run
from app.jobs.policy_jobs import PolicyJobs
from app.observability import get_logger
from app.store.db.database import Database
from app.store.policies import PolicyStore

TICK_SECONDS = 1.0
MISSED_AFTER = timedelta(minutes=1)
"""A run this late was missed: no process was there, or the database was away."""
POLICIES_AT_ONCE = 100

log = get_logger(__name__)


class Scheduler:
    """Submits scheduled runs, beside any number of other schedulers; looks every `TICK_SECONDS` (1 s).

    - `policy_jobs`: submits a run in the transaction that moves the policy on
    - `clock`: the time, in UTC
    """

    def __init__(self, database: Database, policy_jobs: PolicyJobs, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._policy_jobs = policy_jobs
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Submit what comes due until `stop` is set."""
        while not stop.is_set():
            try:
                await self.submit_due()
            except UnavailableError as error:
                log_unavailable("schedules", error)
            except Exception:  # one tick failing doesn't stop the schedules
                log.exception("scheduler_failed")
            await wait_for_event(stop, TICK_SECONDS)

    async def submit_due(self) -> int:
        """Submit the runs that are due and that no other process has taken; return how many jobs were made."""
        async with self._database.reading(is_short=True) as session:
            due = await PolicyStore(session).list_due(self._clock(), limit=POLICIES_AT_ONCE)
        made = 0
        for existing in due:
            made += await self._submit(existing)
        return made

    async def _submit(self, due: StoredPolicy) -> bool:
        policy, now = due.policy, self._clock()
        due_at = due.next_run_at or now
        async with self._database.transaction() as session:
            if not await PolicyStore(session).claim_run(due, next_run_at=next_run(policy, max(now, due_at))):
                return False
            if now - due_at > MISSED_AFTER and policy.schedule and policy.schedule.catch_up == "skip":
                log.info("policy_run_skipped", policy=policy.name, due_at=str(due_at))
                return False
            accepted = await self._policy_jobs.submit_run(
                session, policy, caller=_caller(policy.name), trigger=Trigger("schedule")
            )
        log.info("policy_run_due", policy=policy.name, job=accepted.job.id, is_new=accepted.is_new)
        return accepted.is_new


def _caller(policy: str) -> Caller:
    return Caller(f"policy/{policy}", ScopePreset.SUBMIT.scopes)
