"""Jobs of policies: whole runs, and what was pushed. Each is in a concurrency group: one runs and at most one waits.

A run that comes due, or is asked for, is folded into the one that waits already, or becomes the one that follows the
running one: never two at once, never a line of them. A push has a concurrency group for its policy and tag, so it waits
for no whole run. Submitting locks the policy, so of many processes one comes first and the others find what it did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from app.domain.access import Caller
from app.domain.job import Job, JobState, Trigger
from app.domain.policy import Policy
from app.domain.reference import Reference
from app.domain.request import SyncRequest
from app.jobs.outbox import submission_span
from app.jobs.queue import JobQueue
from app.jobs.submission import accept
from app.observability import current_traceparent
from app.store.concurrency_groups import ConcurrencyGroupStore
from app.store.db.database import Session
from app.store.jobs import JobStore
from app.store.policies import PolicyStore
from app.store.push_origins import PushOriginStore
from app.sync.push_rules import PushRule


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job that does what was asked for; not a new one where such a job waited already."""

    job: Job
    is_new: bool


class PolicyJobs:
    """Submits jobs of policies, in the caller's transaction.

    - `queue`: carries their units to workers
    - `clock`: the time, in UTC; `new_id`: creates a job's id
    """

    def __init__(self, queue: JobQueue, *, clock: Callable[[], datetime], new_id: Callable[[], str]) -> None:
        self._queue = queue
        self._clock = clock
        self._new_id = new_id

    async def submit_run(self, session: Session, policy: Policy, *, caller: Caller, trigger: Trigger) -> Accepted:
        """Submit a whole run of a policy that the caller holds."""
        job = self._job(policy, policy.request, caller=caller, trigger=trigger)
        return await self._submit(session, job, concurrency_group=run_group(policy.name))

    async def submit_for_push(
        self,
        session: Session,
        policy: Policy,
        pushed: Reference,
        *,
        rules: tuple[PushRule, ...],
        chain: tuple[str, ...],
        event_id: str,
        caller: Caller,
    ) -> Accepted:
        """Submit what was pushed, for a policy that the caller holds; `chain` is what led to the push itself."""
        request = SyncRequest(rules=tuple(push_rule.rule for push_rule in rules), options=policy.options)
        job = self._job(policy, request, caller=caller, trigger=Trigger("push", event_id))
        accepted = await self._submit(session, job, concurrency_group=f"push {policy.name} {pushed}")
        origins = PushOriginStore(session)
        for push_rule in rules:
            longer = (*chain, link(policy, push_rule))
            for destination in push_rule.destinations:
                known = None if accepted.is_new else await origins.find(destination)
                if known is None or known.job_id != accepted.job.id or len(longer) < len(known.chain):
                    await origins.put(destination, job_id=accepted.job.id, chain=longer, now=job.created_at)
        return accepted

    async def _submit(self, session: Session, job: Job, *, concurrency_group: str) -> Accepted:
        jobs, concurrency_groups = JobStore(session), ConcurrencyGroupStore(session)
        for waiting_id in await concurrency_groups.list_waiting(concurrency_group):
            locked = await jobs.lock(waiting_id)
            waiting = await jobs.get(waiting_id)
            has_begun = locked.state is not JobState.QUEUED or locked.cancel_requested
            if not has_begun and _is_same(waiting, job):
                return Accepted(waiting, is_new=False)
        (number,) = await accept(session, self._queue, [job])
        await concurrency_groups.join(concurrency_group, number)
        await PolicyStore(session).note_job(str(job.policy), job.id)
        return Accepted(job, is_new=True)

    def _job(self, policy: Policy, request: SyncRequest, *, caller: Caller, trigger: Trigger) -> Job:
        job_id = self._new_id()
        with submission_span(job_id, policy=policy.name):
            return Job(
                id=job_id,
                state=JobState.QUEUED,
                request=request,
                created_at=self._clock(),
                created_by=caller.name,
                trigger=trigger,
                policy=policy.name,
                labels=dict(policy.labels),
                traceparent=current_traceparent(),
            )


def run_group(policy: str) -> str:
    """Return the concurrency group of a policy's whole runs."""
    return f"run {policy}"


def link(policy: Policy, push_rule: PushRule) -> str:
    """Return the name of one rule of one policy, for loop detection: a push may go through it once."""
    return f"{policy.name}#{push_rule.index}"


def _is_same(waiting: Job, wanted: Job) -> bool:
    # What was waiting when its policy changed does what the policy said before; a retry, or a job of a plan, may be of
    # some images only.
    is_whole = waiting.retry_of is None and waiting.plan is None
    return (waiting.request, waiting.labels) == (wanted.request, wanted.labels) and is_whole
