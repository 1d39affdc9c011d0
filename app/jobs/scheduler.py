"""Due policies → jobs: every scheduled run becomes one job, however many processes look after the schedules.

Who moves a policy's `next_run_at` on from what it was has the run, and submits it in the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from app.domain.access import Caller, Scope
from app.domain.errors import UnavailableError
from app.domain.job import Trigger
from app.domain.policy import KeptPolicy, next_run
from app.jobs.patience import wait_for
from app.jobs.standing import StandingJobs
from app.observability import get_logger
from app.store.database import Database
from app.store.hook_events import HookEventStore
from app.store.policies import PolicyStore
from app.store.push_trails import PushTrailStore

TICK_SECONDS = 1.0
MISSED_AFTER = timedelta(minutes=1)
"""A run this late was missed: no process was there, or the database was away."""
POLICIES_AT_ONCE = 100
EVENT_RETENTION = timedelta(days=30)
TRAIL_RETENTION = timedelta(days=1)
"""A registry that tells of a push later than this has told of it too late."""
TIDY_SECONDS = 60.0
EVENTS_AT_ONCE = 1_000

log = get_logger(__name__)


class Scheduler:
    """Looks after the schedules, beside as many others as one likes."""

    def __init__(self, database: Database, standing: StandingJobs, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._standing = standing
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Submit what comes due until told to stop."""
        next_tidy = 0.0
        while not stop.is_set():
            try:
                await self.submit_due()
                if asyncio.get_running_loop().time() >= next_tidy:
                    await self._tidy()
                    next_tidy = asyncio.get_running_loop().time() + TIDY_SECONDS
            except UnavailableError as error:
                log.warning("schedules_not_read", error=error.message)
            except Exception:  # one tick failing doesn't stop the schedules
                log.exception("scheduler_failed")
            await wait_for(stop, TICK_SECONDS)

    async def submit_due(self) -> int:
        """Submit the runs that are due and that nobody else has taken; return how many jobs were made."""
        async with self._database.reading() as session:
            due = await PolicyStore(session).list_due(self._clock(), limit=POLICIES_AT_ONCE)
        made = 0
        for kept in due:
            made += await self._submit(kept)
        return made

    async def _submit(self, due: KeptPolicy) -> bool:
        policy, now = due.policy, self._clock()
        due_at = due.next_run_at or now
        async with self._database.transaction() as session:
            if not await PolicyStore(session).claim_run(due, next_run_at=next_run(policy, max(now, due_at))):
                return False
            if now - due_at > MISSED_AFTER and policy.schedule and policy.schedule.catch_up == "skip":
                log.info("policy_run_skipped", policy=policy.name, due_at=str(due_at))
                return False
            accepted = await self._standing.submit_run(
                session, policy, caller=_caller(policy.name), trigger=Trigger("schedule")
            )
        log.info("policy_run_due", policy=policy.name, job=accepted.job.id, is_new=accepted.is_new)
        return accepted.is_new

    async def _tidy(self) -> None:
        now = self._clock()
        async with self._database.transaction() as session:
            await HookEventStore(session).delete_before(now - EVENT_RETENTION, limit=EVENTS_AT_ONCE)
            await PushTrailStore(session).delete_before(now - TRAIL_RETENTION)


def _caller(policy: str) -> Caller:
    return Caller(f"policy/{policy}", Scope.SUBMIT.implied)
