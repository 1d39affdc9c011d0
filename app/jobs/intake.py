"""Where requests become jobs: all that came while the last ones were written go into one transaction.

A transaction for each would spend most of its time on beginning and committing, and on SQLite, where one writes at a
time, each would wait for the disk by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from app.domain.errors import InvalidRequestError, UnavailableError
from app.domain.job import IdempotencyKey, Job, Submission
from app.jobs.accepting import accept
from app.jobs.engine import Engine
from app.store.database import Database, Session
from app.store.idempotency import IdempotencyStore
from app.store.jobs import JobStore

log = structlog.get_logger()

MOST_AT_ONCE = 64
"""How many jobs one transaction takes in: more would gain little, and keep others waiting for the locks it holds."""


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    job: Job
    key: IdempotencyKey | None
    outcome: asyncio.Future[Submission]

    @property
    def lock_order(self) -> tuple[str, str]:
        # Who inserts a key waits for whoever inserted the same; all go in one order, so nobody waits in a circle.
        return (self.key.principal, self.key.key) if self.key else ("", "")

    def settle(self, outcome: Submission | Exception) -> None:
        if self.outcome.done():
            return  # who asked has gone
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Intake:
    """Takes jobs in: each is in the database and known to the engine, or nothing of it is."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine
        self._waiting: list[_Arrival] = []
        self._work: asyncio.Task[None] | None = None

    async def take_in(self, job: Job, key: IdempotencyKey | None) -> Submission:
        """Take in a job, or find the one that its key names; raise `InvalidRequestError` (`idempotency_key_reused`)."""
        arrival = _Arrival(job, key, asyncio.get_running_loop().create_future())
        self._waiting.append(arrival)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._take_in_waiting(), name="intake")
        return await arrival.outcome

    async def _take_in_waiting(self) -> None:
        while self._waiting:
            arrivals, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            await self._take_in_together(sorted(arrivals, key=lambda arrival: arrival.lock_order))

    async def _take_in_together(self, arrivals: list[_Arrival]) -> None:
        try:
            async with self._database.transaction() as session:
                outcomes = await self._write(session, arrivals)
        except UnavailableError as error:
            outcomes = [error] * len(arrivals)
        except Exception as error:
            log.exception("jobs_not_taken_in", jobs=len(arrivals))
            if len(arrivals) > 1:
                for arrival in arrivals:  # what is wrong with one is not to be the others' misfortune
                    await self._take_in_together([arrival])
                return
            outcomes = [error]
        for arrival, outcome in zip(arrivals, outcomes, strict=True):
            arrival.settle(outcome)

    async def _write(self, session: Session, arrivals: list[_Arrival]) -> list[Submission | Exception]:
        new: dict[str, Job] = {}
        outcomes: list[Submission | Exception] = []
        for arrival in arrivals:
            job = arrival.job
            try:
                known = await self._name(session, arrival)
            except InvalidRequestError as error:
                outcomes.append(error)
                continue
            if known == job.id:
                new[job.id] = job
                outcomes.append(Submission(job))
            else:
                outcomes.append(Submission(new.get(known) or await JobStore(session).get(known), replayed=True))
        if new:
            await accept(session, self._engine, list(new.values()))
        return outcomes

    async def _name(self, session: Session, arrival: _Arrival) -> str:
        if arrival.key is None:
            return arrival.job.id
        return await IdempotencyStore(session).claim(arrival.key, job_id=arrival.job.id, now=arrival.job.created_at)
