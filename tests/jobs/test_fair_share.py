"""Workers are shared among callers: what one has waiting delays its own jobs, and not those of another."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy import select, text, update

from app.domain.access import Caller, Scope
from app.domain.job import Priority
from app.jobs.submission import next_rank, unit_priority
from app.store.db.database import Session
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow, UnitRow
from app.store.units import NewUnit, UnitKind, UnitStore
from tests.worker.house import House, now, wish

MANY, ONE = (Caller(name, frozenset(Scope)) for name in ("many", "one"))
_jobs, _units = table_of(JobRow), table_of(UnitRow)


@dataclass
class Serving:
    """One worker that takes the most urgent unit, as both queues do, and is always at one."""

    house: House
    units_of_a_job: int = 1
    served: list[str] = field(default_factory=list)
    """Whose units were taken."""
    _at: int | None = None

    async def submit(self, caller: Caller, *, priority: Priority = Priority.NORMAL) -> str:
        submission = await self.house.jobs.submit(wish("t1"), caller=caller, priority=priority)
        return submission.job.id

    async def serve(self, count: int) -> Sequence[str]:
        """Take so many units; return whose they were."""
        for _ in range(count):
            await self._serve_one()
        return self.served[-count:]

    async def _serve_one(self) -> None:
        async with self.house.database.transaction() as session:
            store = UnitStore(session)
            next_unit = (
                select(_units, _jobs.c.created_by, _jobs.c.id.label("job_id"))
                .join(_jobs, _jobs.c.number == _units.c.job_number)
                .where(_units.c.state == "queued")
                .order_by(_units.c.priority.desc(), _units.c.id)
                .limit(1)
            )
            row = (await session.execute(next_unit)).one()
            await session.execute(update(_units).where(_units.c.id == row.id).values(state="running"))
            if self._at is not None:
                await _end(session, self._at)
            self._at = row.id
            self.served.append(row.created_by)
            if row.kind == "plan" and self.units_of_a_job > 1:
                locked, _ = await store.lock(row.id)
                rank, apart = await next_rank(store, locked, created_by=row.created_by, last=row.priority)
                ranks = [rank + number * apart for number in range(self.units_of_a_job)]
                units = [
                    NewUnit(row.job_number, index, UnitKind.COPY, unit_priority(locked.priority, rank))
                    for index, rank in enumerate(ranks, start=1)
                ]
                await store.add(units, now=now())


async def _end(session: Session, unit_id: int) -> None:
    await session.execute(update(_units).where(_units.c.id == unit_id).values(state="done"))
    done = "SELECT count(*) = 0 FROM units WHERE job_number = :job AND state <> 'done'"
    job = (await session.execute(select(_units.c.job_number).where(_units.c.id == unit_id))).scalar_one()
    if (await session.execute(text(done), {"job": job})).scalar_one():
        await session.execute(update(_jobs).where(_jobs.c.number == job).values(state="succeeded"))


@pytest.fixture
def serving(house: House) -> Serving:
    return Serving(house)


async def test_many_jobs_of_one_caller_are_no_wait_for_another(serving: Serving) -> None:
    for _ in range(40):
        await serving.submit(MANY)
    await serving.serve(5)
    await serving.submit(ONE)
    assert "one" in await serving.serve(2)


async def test_one_that_comes_again_and_again_gets_a_share_and_no_more(serving: Serving) -> None:
    for _ in range(40):
        await serving.submit(MANY)
    await serving.serve(10)
    for _ in range(20):
        await serving.submit(ONE)
    assert 8 <= (await serving.serve(20)).count("many") <= 12


async def test_many_long_jobs_get_the_share_of_one_caller(serving: Serving) -> None:
    serving.units_of_a_job = 60
    for caller in (MANY, MANY, MANY, MANY, ONE):
        await serving.submit(caller)
    await serving.serve(5)
    assert 18 <= (await serving.serve(60)).count("one") <= 42


async def test_a_small_job_overtakes_a_long_one_of_the_same_caller(serving: Serving) -> None:
    serving.units_of_a_job = 60
    await serving.submit(MANY)
    await serving.serve(5)
    job_id = await serving.submit(MANY)
    await serving.serve(4)
    async with serving.house.database.reading() as session:
        begun = select(_units.c.id).join(_jobs).where(_jobs.c.id == job_id, _units.c.state != "queued")
        assert (await session.execute(begun)).all()


async def test_a_high_priority_goes_before_shares(serving: Serving) -> None:
    await serving.submit(ONE)
    for _ in range(5):
        await serving.submit(MANY, priority=Priority.HIGH)
    assert await serving.serve(6) == ["many"] * 5 + ["one"]


async def test_a_worker_does_one_callers_job_among_the_first_of_another(house: House) -> None:
    jobs = [(await house.jobs.submit(wish(f"t{number}"), caller=MANY)).job for number in range(20)]
    jobs.append((await house.jobs.submit(wish("victim", to=("other.example.com/app",)), caller=ONE)).job)
    async with house.worker(concurrency=1):
        for job in jobs:
            await house.done(job)
    begun = [line.destination for line in house.journal.lines() if line.event == "begin"]
    assert "other.example.com/app:victim" in begun[:5]
