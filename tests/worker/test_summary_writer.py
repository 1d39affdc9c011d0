"""A policy's day as one message: once, whoever writes it, with what its runs came to; on both databases."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update

from app.domain.job import ImageCounts, Job, JobKind, JobState, Trigger
from app.domain.notification import Delivery, DeliveryFilter, EventFilter, EventType, StoredSecret, Subscription
from app.domain.page import PageRequest
from app.domain.policy import Policy
from app.domain.policy_summary import last_summary_day
from app.domain.report import FailureCount
from app.domain.request import Rule
from app.store.db.database import Database
from app.store.deliveries import DeliveryStore
from app.store.jobs import JobStore, failure_documents
from app.store.policies import PolicyStore
from app.store.subscriptions import SubscriptionStore
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow
from app.webhooks.messages import sent_body
from app.worker.summary_writer import SummaryWriter

NOW = datetime(2030, 3, 2, 7, 0, 10, tzinfo=UTC)
UNTIL = NOW.replace(second=0)
HOUR = timedelta(hours=1)
RULE = Rule(source="src.example.com/app", destination=("dst.example.com/app",))
FAILURES = (
    FailureCount("image", "denied", "destination", 3, "src.example.com/app:9", "dst.example.com/app:9", "no right"),
)


class Days:
    """Writers on one database, at a time that a test sets, and what they wrote."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = NOW
        self.zone = ZoneInfo("UTC")

    def writer(self, at: time = time(7)) -> SummaryWriter:
        return SummaryWriter(self.database, at=at, zone=self.zone, clock=lambda: self.now)

    async def enter(self, name: str = "ops", *, at: datetime = UNTIL - 30 * HOUR, **values: Any) -> None:
        given = {"url": "https://ci.example.com/x", "events": (EventType.POLICY_SUMMARY,), **values}
        async with self.database.transaction() as session:
            await SubscriptionStore(session).put(Subscription(name=name, **given), [StoredSecret("x")], now=at)

    async def add_policy(self, name: str, *, at: datetime = UNTIL - 30 * HOUR, **values: Any) -> None:
        async with self.database.transaction() as session:
            await PolicyStore(session).put(Policy(name=name, rules=(RULE,), **values), next_run_at=None, now=at)

    async def add_run(self, number: int, state: JobState, finished_at: datetime, **values: Any) -> None:
        """Put a job in that has ended."""
        policy = Policy(name=values.pop("policy", "hub"), rules=(RULE,))
        images = values.pop("images", ImageCounts(copied=2, up_to_date=5, failed=3 if state is JobState.FAILED else 0))
        job = Job(
            id=f"00000000-0000-0000-0000-{number:012}",
            state=state,
            request=policy.request,
            created_at=finished_at - HOUR,
            created_by="ann",
            trigger=Trigger("schedule"),
            policy=policy.name,
            **values,
        )
        columns = {
            "state": state,
            "finished_at": finished_at,
            "images_copied": images.copied,
            "images_up_to_date": images.up_to_date,
            "images_failed": images.failed,
            "bytes_transferred": 1_000,
            "units_left": 0,
            "failures": failure_documents(FAILURES) if state is JobState.FAILED else None,
        }
        jobs = table_of(JobRow)
        async with self.database.transaction() as session:
            await JobStore(session).add(job)
            await session.execute(update(jobs).where(jobs.c.id == job.id).values(**columns))
            await PolicyStore(session).note_job(policy.name, job.id)

    async def written(self, name: str = "ops") -> list[Delivery]:
        async with self.database.reading() as session:
            return list((await DeliveryStore(session).list(name, DeliveryFilter(), PageRequest())).items)


@pytest.fixture
async def days(database_url: str) -> AsyncIterator[Days]:
    database = Database(database_url)
    yield Days(database)
    await database.aclose()


async def test_a_policys_day_is_summed_up(days: Days) -> None:
    await days.enter()
    await days.add_policy("hub")
    await days.add_run(1, JobState.SUCCEEDED, UNTIL - 25 * HOUR)  # the day before
    await days.add_run(2, JobState.SUCCEEDED, UNTIL - 24 * HOUR)
    await days.add_run(3, JobState.SUCCEEDED, UNTIL - HOUR, kind=JobKind.PLAN)
    await days.add_run(4, JobState.FAILED, UNTIL - timedelta(seconds=1))
    await days.add_run(5, JobState.SUCCEEDED, UNTIL)  # the day after
    await days.writer().write_due()
    [delivery] = await days.written()
    message = json.loads(delivery.body)
    data = message["data"]
    assert (message["type"], delivery.job_id, data["href"]) == ("policy.summary", None, "/v1/policies/hub")
    assert data["runs"] == {"total": 2, "succeeded": 1, "failed": 1, "cancelled": 0}
    assert data["images"] == {"copied": 4, "up_to_date": 10, "failed": 3}
    assert data["bytes"] == {"transferred": 2_000}
    assert [(one["code"], one["side"], one["count"]) for one in data["failures"]] == [("denied", "destination", 3)]
    assert (data["last_state"], data["until"]) == ("succeeded", "2030-03-02T07:00:00Z")
    for message_format in ("slack", "teams"):
        body = sent_body(delivery.body, message_format, public_url="https://sync.example.com")
        for text in (
            "policy hub: 1 of 2 runs failed",
            "3 x denied at the destination: no right",
            "/console/policies/hub",
        ):
            assert text in body


async def test_of_many_writers_before_and_after_a_restart_one_writes(days: Days) -> None:
    await days.enter()
    await days.enter("chat", format="slack")
    for name in ("a", "b", "c"):
        await days.add_policy(name)
    writers = [days.writer() for _ in range(4)]
    await asyncio.gather(*(writer.write_due() for writer in writers))
    for later in (timedelta(), 3 * HOUR, 23 * HOUR):
        days.now = NOW + later
        await asyncio.gather(*(writer.write_due() for writer in [*writers, days.writer()]))
    assert [len(await days.written(name)) for name in ("ops", "chat")] == [3, 3]
    days.now = NOW + 24 * HOUR
    await asyncio.gather(*(writer.write_due() for writer in writers))
    assert len(await days.written()) == 6


async def test_another_time_of_day_makes_no_second_one_of_that_date(days: Days) -> None:
    await days.enter()
    await days.add_policy("hub")
    await days.writer().write_due()
    days.now = NOW + 8 * HOUR
    await days.writer(time(14)).write_due()
    assert len(await days.written()) == 1


async def test_only_what_is_asked_for_and_was_there_is_summed_up(days: Days) -> None:
    await days.enter("others", events=(EventType.JOB_FAILED,))
    await days.enter("off", enabled=False)
    await days.enter("new", at=NOW)
    await days.enter("some", filter=EventFilter(policies=("hub",)))
    await days.enter("labels", filter=EventFilter(labels={"team": "a"}))
    await days.add_policy("hub")
    await days.add_policy("team", labels={"team": "a", "x": "y"})
    await days.add_policy("new-policy", at=NOW, labels={"team": "a"})
    await days.add_policy("resting", enabled=False, labels={"team": "a"})
    await days.writer().write_due()
    found = {name: [json.loads(one.body)["data"]["policy"] for one in await days.written(name)] for name in NAMES}
    assert found == {"others": [], "off": [], "new": [], "some": ["hub"], "labels": ["team"]}


NAMES = ("others", "off", "new", "some", "labels")


@pytest.mark.parametrize(
    ("now", "at", "zone", "ended"),
    [
        ("2030-03-02T06:59:59Z", time(7), "UTC", (date(2030, 3, 1), "2030-03-01T07:00:00Z")),
        ("2030-03-02T07:00:00Z", time(7), "UTC", (date(2030, 3, 2), "2030-03-02T07:00:00Z")),
        ("2030-03-02T06:30:00Z", time(7), "Europe/Berlin", (date(2030, 3, 2), "2030-03-02T06:00:00Z")),
        ("2030-03-01T23:30:00Z", time(0), "Asia/Tokyo", (date(2030, 3, 2), "2030-03-01T15:00:00Z")),
        ("2030-07-02T06:30:00Z", time(7), "Europe/Berlin", (date(2030, 7, 2), "2030-07-02T05:00:00Z")),
    ],
)
def test_a_day_ends_by_the_clock_of_its_zone(now: str, at: time, zone: str, ended: tuple[date, str]) -> None:
    day = last_summary_day(datetime.fromisoformat(now), at=at, zone=ZoneInfo(zone))
    assert (day.date, day.until) == (ended[0], datetime.fromisoformat(ended[1]))
    assert day.until - day.since == timedelta(days=1)
