"""Submission of jobs, with group commit: requests that arrive during one write share the next.

A job, its audit entry and the unit that plans it are in the database, and the unit is enqueued, or nothing of it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import uuid_utils

from app.domain.access import AUDIT_CONTEXT, AuditContext
from app.domain.audit import AuditAction, AuditEntry
from app.domain.errors import InvalidRequestError
from app.domain.job import IdempotencyKey, Job, Priority, Submission
from app.jobs.outbox import report_submitted
from app.jobs.queue import JobQueue
from app.store.audit import AuditStore
from app.store.db.database import Database, GroupCommit, Session, after_commit
from app.store.idempotency import IdempotencyStore
from app.store.jobs import JobStore, LockedJob
from app.store.units import NewUnit, UnitKind, UnitStore

PRIORITY_STEP = 500_000_000
"""Distance between priorities; three of them fit the queue's 32 bits. A unit's rank is taken from its job's."""
MOST_COUNTED = 10_000
"""Jobs of one caller that are counted; what has more waiting than that is behind everything anyway."""
AUDITED_RULES = 10
AUDITED_CHARACTERS = 200
"""The audit log keeps what was asked for in short; the job has it in full."""


def new_id() -> str:
    """Make an id that sorts by time (UUIDv7): a job's, and that of whatever else has one."""
    return str(uuid_utils.uuid7())


@dataclass(frozen=True, slots=True)
class _Arrival:
    job: Job
    key: IdempotencyKey | None
    context: AuditContext = field(default_factory=AUDIT_CONTEXT.get)
    """Of the request it came with: it is written by whichever task has its turn."""

    @property
    def lock_order(self) -> tuple[str, str]:
        # Who inserts a key waits for whoever inserted the same; all go in one order, so nobody waits in a circle.
        return (self.key.principal, self.key.key) if self.key else ("", "")


class JobSubmission:
    """Submits jobs: each is in the database and in the queue, or nothing of it is."""

    def __init__(self, database: Database, queue: JobQueue) -> None:
        self._queue = queue
        self._arrivals = GroupCommit[_Arrival, Submission](database, self._write)

    async def submit(self, job: Job, key: IdempotencyKey | None) -> Submission:
        """Submit a job, or return its key's earlier one; raise `InvalidRequestError` (`idempotency_key_reused`)."""
        return await self._arrivals.add(_Arrival(job, key))

    async def _write(self, session: Session, arrivals: Sequence[_Arrival]) -> list[Submission | Exception]:
        new: dict[str, Job] = {}
        contexts = {arrival.job.id: arrival.context for arrival in arrivals}
        outcomes: dict[str, Submission | Exception] = {}
        for arrival in sorted(arrivals, key=lambda arrival: arrival.lock_order):
            job = arrival.job
            try:
                known = await self._name(session, arrival)
            except InvalidRequestError as error:
                outcomes[job.id] = error
                continue
            if known == job.id:
                new[job.id] = job
                outcomes[job.id] = Submission(job)
            else:
                outcomes[job.id] = Submission(new.get(known) or await JobStore(session).get(known), replayed=True)
        if new:
            await accept(session, self._queue, list(new.values()), contexts=contexts)
        return [outcomes[arrival.job.id] for arrival in arrivals]

    async def _name(self, session: Session, arrival: _Arrival) -> str:
        if arrival.key is None:
            return arrival.job.id
        return await IdempotencyStore(session).claim(arrival.key, job_id=arrival.job.id, now=arrival.job.created_at)


async def accept(
    session: Session, queue: JobQueue, jobs: Sequence[Job], *, contexts: Mapping[str, AuditContext] | None = None
) -> list[int]:
    """Add jobs that are to be planned; return their numbers.

    - `contexts`: the requests they came with, by their ids; by default the one that this task works for
    """
    numbers = await JobStore(session).add_all(jobs)
    contexts = contexts or {}
    entries = (replace(entry_of(job), context=contexts.get(job.id, AUDIT_CONTEXT.get())) for job in jobs)
    await AuditStore(session).add(*entries)
    await begin(session, queue, dict(zip(numbers, jobs, strict=True)))
    return numbers


async def begin(session: Session, queue: JobQueue, jobs: Mapping[int, Job]) -> None:
    """Have jobs planned, given by their numbers: each behind what its caller has waiting, not behind that of others."""
    store, counts, new = UnitStore(session), dict[str, dict[Priority, int]](), Counter(map(_line, jobs.values()))
    in_service = {priority: await read_rank(store, priority) for priority in {job.priority for job in jobs.values()}}
    units: list[NewUnit] = []
    for number, job in jobs.items():
        if job.created_by not in counts:
            counts[job.created_by] = await store.count_jobs(job.created_by, most=MOST_COUNTED)
        # The jobs that are begun here are among those counted.
        before = max(0, counts[job.created_by].get(job.priority, 0) - new[_line(job)])
        new[_line(job)] -= 1
        rank = in_service[job.priority] + before
        units.append(NewUnit(number, 0, UnitKind.PLAN, unit_priority(job.priority, rank)))
    now = max(job.created_at for job in jobs.values())
    after_commit(session, partial(report_submitted, list(jobs.values())))
    await queue.enqueue(session, await store.add(units, now=now))


def _line(job: Job) -> tuple[str, Priority]:
    return job.created_by, job.priority


def entry_of(job: Job) -> AuditEntry:
    """Return the audit entry of a new job: what is worth knowing after the job itself has been deleted."""
    rules = [
        {
            "source": rule.source[:AUDITED_CHARACTERS],
            "destination": [text[:AUDITED_CHARACTERS] for text in rule.destination],
        }
        for rule in job.request.rules[:AUDITED_RULES]
    ]
    details = {
        "trigger": job.trigger.type,
        "event_id": job.trigger.event_id,
        "policy": job.policy,
        "retry_of": job.retry_of,
        "kind": job.kind,
        "plan": job.plan,
        "rules": rules,
    }
    action = AuditAction.JOB_RETRIED if job.retry_of else AuditAction.JOB_SUBMITTED
    return AuditEntry(job.created_at, job.created_by, action, job.id, details)


def unit_priority(priority: Priority, rank: int) -> int:
    """Return how urgent a unit is, as the queue counts: larger goes first, and a larger rank later."""
    return _urgent(priority) - min(rank, PRIORITY_STEP - 1)


async def read_rank(store: UnitStore, priority: Priority) -> int:
    """Read the rank that workers are at, of units with a priority: what is new has it, and nothing goes before it.

    This is start-time fair queuing: the rank is its virtual time, and 0 where nothing of that priority is at work.
    """
    most = _urgent(priority)
    found = await store.read_in_service(least=most - PRIORITY_STEP + 1, most=most)
    return 0 if found is None else most - found


async def next_rank(store: UnitStore, job: Job | LockedJob, *, created_by: str, last: int) -> tuple[int, int]:
    """Return the rank of a job's next unit, given the priority of its last one, and how far apart those after it are.

    The more jobs its caller has, the further apart: all of them get the share of one.
    """
    counts = await store.count_jobs(created_by, most=MOST_COUNTED)
    apart = max(1, counts.get(job.priority, 0))
    rank = _urgent(job.priority) - last + apart
    return max(rank, await read_rank(store, job.priority)), apart


def _urgent(priority: Priority) -> int:
    return (list(Priority).index(priority) + 1) * PRIORITY_STEP
