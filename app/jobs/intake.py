"""Where requests become jobs, all that came while the last ones were written at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.errors import InvalidRequestError
from app.domain.job import IdempotencyKey, Job, Submission
from app.jobs.accepting import accept
from app.jobs.engine import Engine
from app.store.database import Database, Session
from app.store.idempotency import IdempotencyStore
from app.store.jobs import JobStore
from app.store.together import Together


@dataclass(frozen=True, slots=True)
class _Arrival:
    job: Job
    key: IdempotencyKey | None

    @property
    def lock_order(self) -> tuple[str, str]:
        # Who inserts a key waits for whoever inserted the same; all go in one order, so nobody waits in a circle.
        return (self.key.principal, self.key.key) if self.key else ("", "")


class Intake:
    """Takes jobs in: each is in the database and known to the engine, or nothing of it is."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._engine = engine
        self._arrivals = Together[_Arrival, Submission](database, self._write)

    async def take_in(self, job: Job, key: IdempotencyKey | None) -> Submission:
        """Take in a job, or find the one that its key names; raise `InvalidRequestError` (`idempotency_key_reused`)."""
        return await self._arrivals.add(_Arrival(job, key))

    async def _write(self, session: Session, arrivals: Sequence[_Arrival]) -> list[Submission | Exception]:
        new: dict[str, Job] = {}
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
            await accept(session, self._engine, list(new.values()))
        return [outcomes[arrival.job.id] for arrival in arrivals]

    async def _name(self, session: Session, arrival: _Arrival) -> str:
        if arrival.key is None:
            return arrival.job.id
        return await IdempotencyStore(session).claim(arrival.key, job_id=arrival.job.id, now=arrival.job.created_at)
