"""How a job comes into being: its row, the unit that plans it, and the engine's nudge, all in one transaction."""

from __future__ import annotations

from app.domain.job import Job
from app.jobs.engine import Engine
from app.jobs.planning import unit_priority
from app.store.database import Session
from app.store.jobs import JobStore
from app.store.units import NewUnit, UnitKind, UnitStore


async def accept(session: Session, engine: Engine, job: Job) -> int:
    """Add a job that is to be planned; return its number."""
    number = await JobStore(session).add(job)
    units = [NewUnit(0, UnitKind.PLAN, unit_priority(job.priority, 0))]
    await engine.nudge(session, await UnitStore(session).add(number, units, now=job.created_at))
    return number
