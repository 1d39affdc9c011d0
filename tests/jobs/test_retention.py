"""What is old goes, what is young or at work stays."""

from datetime import datetime, timedelta

from sqlalchemy import text

from app.domain.job import IdempotencyKey, JobFilter
from app.domain.page import PageRequest
from app.domain.reference import Digest, Registry, Repository
from app.jobs.retention import JOB_RETENTION, Retention
from app.store.blob_locations import BlobLocation, BlobLocationStore
from app.store.db.database import Database
from app.store.units import DestinationLockStore
from tests.worker.house import CALLER, House, now, wish

PLACE = Repository(Registry("r.example.com"), "a/one")


async def count(database: Database, table: str) -> int:
    async with database.reading() as session:
        return int((await session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())  # noqa: S608 — the names are this test's


async def tidy(house: House, *, after: timedelta) -> None:
    def later() -> datetime:
        return now() + after

    await Retention(house.database, clock=later).apply()


async def test_done_jobs_go_after_a_while_with_all_that_is_theirs(working: House) -> None:
    key = IdempotencyKey("tester", "k", "f")
    submission = await working.jobs.submit(wish("many-20"), caller=CALLER, idempotency=key, labels={"a": "b"})
    await working.done(submission.job)
    await tidy(working, after=JOB_RETENTION - timedelta(hours=1))
    assert await count(working.database, "jobs") == 1
    await tidy(working, after=JOB_RETENTION + timedelta(hours=1))
    for table in ("jobs", "job_labels", "images", "units", "idempotency_keys", "destination_holds"):
        assert await count(working.database, table) == 0, table


async def test_a_job_at_work_stays_however_old(house: House) -> None:
    job = await house.submit("t1")
    await tidy(house, after=10 * JOB_RETENTION)
    assert [one.id for one in (await house.jobs.list(JobFilter(), PageRequest(), caller=CALLER)).items] == [job.id]


async def test_more_than_one_batch_goes_in_one_go(working: House) -> None:
    await working.run("many-6000")
    await tidy(working, after=JOB_RETENTION + timedelta(hours=1))
    assert await count(working.database, "images") == 0


async def test_keys_go_before_their_jobs(working: House) -> None:
    key = IdempotencyKey("tester", "k", "f")
    await working.done((await working.jobs.submit(wish("t1"), caller=CALLER, idempotency=key)).job)
    await tidy(working, after=timedelta(days=4))
    assert await count(working.database, "idempotency_keys") == 0
    assert await count(working.database, "jobs") == 1


async def test_what_was_seen_long_ago_is_forgotten(house: House) -> None:
    async with house.database.transaction() as session:
        await BlobLocationStore(session).record([BlobLocation(PLACE, Digest(f"sha256:{'1' * 64}"))], now=now())
    await tidy(house, after=timedelta(days=1))
    assert await count(house.database, "blob_locations") == 1
    await tidy(house, after=timedelta(days=31))
    assert await count(house.database, "blob_locations") == 0


async def test_marks_of_destinations_go_with_the_last_job_that_could_need_them(house: House) -> None:
    earlier = await house.submit("slowly-1s", "t1")
    async with house.worker():
        await house.until(lambda seen: seen.started_at is not None, earlier)
        await house.run("t1")
        assert await count(house.database, "destination_holds") == 1
        await house.done(earlier)
    await tidy(house, after=timedelta(0))
    assert await count(house.database, "destination_holds") == 0


async def test_no_destination_stays_held_by_what_is_no_more(house: House) -> None:
    async with house.database.transaction() as session:
        await DestinationLockStore(session).lock(["dst.example.com/app:t1"], unit_id=12_345)
    await tidy(house, after=timedelta(0))
    assert await count(house.database, "destination_holds") == 0
