"""How a job comes into being: its row, the unit that plans it, the engine's nudge, who wanted it; one transaction."""

from __future__ import annotations

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


async def accept(session: Session, engine: Engine, job: Job) -> int:
    """Add a job that is to be planned; return its number."""
    number = await JobStore(session).add(job)
    await AuditStore(session).add(entry_of(job))
    units = [NewUnit(0, UnitKind.PLAN, unit_priority(job.priority, 0))]
    await engine.nudge(session, await UnitStore(session).add(number, units, now=job.created_at))
    return number


def entry_of(job: Job) -> AuditEntry:
    """Tell of a new job what is still worth knowing when the job itself has been forgotten."""
    rules = [
        {
            "source": rule.source[:AUDITED_CHARACTERS],
            "destination": [text[:AUDITED_CHARACTERS] for text in rule.destination],
        }
        for rule in job.request.rules[:AUDITED_RULES]
    ]
    details = {"trigger": job.trigger.type, "policy": job.policy, "retry_of": job.retry_of, "rules": rules}
    action = AuditAction.JOB_RETRIED if job.retry_of else AuditAction.JOB_SUBMITTED
    return AuditEntry(job.created_at, job.created_by, action, job.id, details)
