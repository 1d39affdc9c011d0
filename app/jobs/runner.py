"""The walk's spine: request → job → plan → copy → report, a unit at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from structlog.contextvars import bound_contextvars

from app.domain.errors import JobInterrupted, RegistrySyncError
from app.jobs.claims import Claim, Claims, NotNow
from app.jobs.copying import MAX_CLAIMS, Copying
from app.jobs.engine import Engine
from app.jobs.halting import Halt, Reason
from app.jobs.ledger import UnitLedger
from app.jobs.patience import patiently
from app.jobs.planning import Planning
from app.jobs.workshop import OpenWorkshop
from app.store.database import Database
from app.store.units import UnitKind

log = structlog.get_logger()


class JobRunner:
    """Runs units, each from its claim to what is written of it."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        claims: Claims,
        *,
        open_workshop: OpenWorkshop,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._engine = engine
        self._claims = claims
        self._open_workshop = open_workshop
        self._clock = clock

    async def run_unit(self, unit_id: int, halt: Halt) -> float | None:
        """Do what one unit asks for; return None when that is done, or after how many seconds to come again."""
        claim = await patiently(lambda: self._claims.claim(unit_id))
        if claim is None:
            return None
        if isinstance(claim, NotNow):
            return claim.seconds
        halt.fence = claim.unit.fence
        with bound_contextvars(job=claim.job.id, unit=unit_id):
            try:
                return await (self._plan(claim, halt) if claim.unit.kind is UnitKind.PLAN else self._copy(claim, halt))
            except JobInterrupted:
                return None  # another worker has it now

    async def _plan(self, claim: Claim, halt: Halt) -> float | None:
        planning = Planning(claim, self._database, self._engine, clock=self._clock)
        if claim.unit.claims > MAX_CLAIMS:
            return await planning.fail(RegistrySyncError(f"the planning was begun {MAX_CLAIMS} times and never ended"))
        try:
            if not claim.job.progress.planned:
                await halt.run(planning.list_copies(self._open_workshop(claim.job, claim.registries, halt.hands_on)))
        except JobInterrupted:
            if halt.reason is None or halt.reason is Reason.LOST:
                raise
            return await planning.stop(halt.reason)
        except RegistrySyncError as error:
            return await planning.fail(error)
        except Exception as error:
            log.exception("planning_failed_unexpectedly")
            return await planning.fail(RegistrySyncError(f"{type(error).__name__} in this service; see its log"))
        copying = await planning.divide()
        return None if copying is None else await self._copy(copying, halt)

    async def _copy(self, claim: Claim, halt: Halt) -> float | None:
        ledger = UnitLedger(claim, self._database, clock=self._clock)
        keeping = asyncio.create_task(ledger.keep(halt))
        try:
            await halt.run(
                Copying(claim, ledger).copy_all(self._open_workshop(claim.job, claim.registries, halt.hands_on))
            )
        except JobInterrupted:
            if halt.reason is None or halt.reason is Reason.LOST:
                raise
        finally:
            ledger.stop_keeping()
            await keeping
        return await patiently(lambda: ledger.close(halt.reason))
