"""How jobs come into being: their rows, the units that plan them, the engine's nudges, who wanted them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.domain.audit import AuditAction, AuditEntry
from app.domain.job import Job
from app.jobs.engine import Engine
from app.jobs.planning import unit_priority
from app.store.audit import AuditStore
from app.store.database import Session
from app.store.jobs import JobStore
from app.store.units import NewUnit, UnitKind, UnitStore

AUDITED_RULES = 10
AUDITED_CHARACTERS = 200
"""The audit log keeps what was asked for in short; the job has it in full."""


async def accept(session: Session, engine: Engine, jobs: Sequence[Job]) -> list[int]:
    """Add jobs that are to be planned; return their numbers."""
    numbers = await JobStore(session).add_all(jobs)
    await AuditStore(session).add(*map(entry_of, jobs))
    await begin(session, engine, dict(zip(numbers, jobs, strict=True)))
    return numbers


async def begin(session: Session, engine: Engine, jobs: Mapping[int, Job]) -> None:
    """Have jobs planned, given by their numbers."""
    units = [NewUnit(number, 0, UnitKind.PLAN, unit_priority(job.priority, 0)) for number, job in jobs.items()]
    now = max(job.created_at for job in jobs.values())
    await engine.nudge(session, await UnitStore(session).add(units, now=now))


def entry_of(job: Job) -> AuditEntry:
    """Tell of a new job what is still worth knowing when the job itself has been forgotten."""
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
        "rules": rules,
    }
    action = AuditAction.JOB_RETRIED if job.retry_of else AuditAction.JOB_SUBMITTED
    return AuditEntry(job.created_at, job.created_by, action, job.id, details)
