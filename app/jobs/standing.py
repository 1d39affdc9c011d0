"""Jobs of policies: whole runs, and what was pushed. Each goes in a lane, where one runs and at most one waits alike.

A run that comes due, or is asked for, finds the one that waits already, or becomes the one that follows the one at
work: never two at once, never a row of them. A push has a lane for its policy and tag, so it waits for no whole run.
Whoever submits holds the policy, so of many processes one comes first and the others find what it did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from app.domain.access import Caller
from app.domain.job import Job, JobState, Trigger
from app.domain.reference import Reference
from app.domain.request import SyncRequest
from app.domain.trigger import Policy
from app.jobs.accepting import accept
from app.jobs.engine import Engine
from app.store.database import Session
from app.store.jobs import JobStore
from app.store.lanes import LaneStore
from app.store.policies import PolicyStore
from app.store.push_trails import PushTrailStore
from app.sync.narrowing import NarrowedRule


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job that does what was asked for; not a new one where such a job waited already."""

    job: Job
    is_new: bool


class StandingJobs:
    """Submits jobs of policies, in the caller's transaction."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime], new_id: Callable[[], str]) -> None:
        self._engine = engine
        self._clock = clock
        self._new_id = new_id

    async def submit_run(self, session: Session, policy: Policy, *, caller: Caller, trigger: Trigger) -> Accepted:
        """Submit a whole run of a policy that the caller holds."""
        job = self._job(policy, policy.request, caller=caller, trigger=trigger)
        return await self._submit(session, job, lane=run_lane(policy.name))

    async def submit_for_push(
        self,
        session: Session,
        policy: Policy,
        pushed: Reference,
        *,
        rules: tuple[NarrowedRule, ...],
        chain: tuple[str, ...],
        event_id: str,
        caller: Caller,
    ) -> Accepted:
        """Submit what was pushed, for a policy that the caller holds; `chain` is what led to the push itself."""
        request = SyncRequest(rules=tuple(narrowed.rule for narrowed in rules), options=policy.options)
        job = self._job(policy, request, caller=caller, trigger=Trigger("push", event_id))
        accepted = await self._submit(session, job, lane=f"push {policy.name} {pushed}")
        trails = PushTrailStore(session)
        for narrowed in rules:
            longer = (*chain, link(policy, narrowed))
            for destination in narrowed.destinations:
                known = None if accepted.is_new else await trails.find(destination)
                if known is None or known.job_id != accepted.job.id or len(longer) < len(known.chain):
                    await trails.put(destination, job_id=accepted.job.id, chain=longer, now=job.created_at)
        return accepted

    async def _submit(self, session: Session, job: Job, *, lane: str) -> Accepted:
        jobs, lanes = JobStore(session), LaneStore(session)
        for waiting_id in await lanes.list_waiting(lane):
            held = await jobs.hold(waiting_id)
            waiting = await jobs.get(waiting_id)
            has_begun = held.state is not JobState.QUEUED or held.cancel_requested
            if not has_begun and _is_same(waiting, job):
                return Accepted(waiting, is_new=False)
        (number,) = await accept(session, self._engine, [job])
        await lanes.join(lane, number)
        await PolicyStore(session).note_job(str(job.policy), job.id)
        return Accepted(job, is_new=True)

    def _job(self, policy: Policy, request: SyncRequest, *, caller: Caller, trigger: Trigger) -> Job:
        return Job(
            id=self._new_id(),
            state=JobState.QUEUED,
            request=request,
            created_at=self._clock(),
            created_by=caller.name,
            trigger=trigger,
            policy=policy.name,
            labels=dict(policy.labels),
        )


def run_lane(policy: str) -> str:
    """Name the lane of a policy's whole runs."""
    return f"run {policy}"


def link(policy: Policy, narrowed: NarrowedRule) -> str:
    """Name one rule of one policy, as a push may go through it once."""
    return f"{policy.name}#{narrowed.index}"


def _is_same(waiting: Job, wanted: Job) -> bool:
    # What was waiting when its policy changed does what the policy said before; a retry may be of some images only.
    return (waiting.request, waiting.labels) == (wanted.request, wanted.labels) and waiting.retry_of is None
