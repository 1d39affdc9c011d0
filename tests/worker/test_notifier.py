"""From a job's end to a receiver on a real socket, on both databases; killed in between, refused for days, gone."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.audit import AuditAction, AuditFilter
from app.domain.dead_letter import NOTIFICATION_RETRIES
from app.domain.job import JobState
from app.domain.notification import (
    ENDINGS,
    Delivery,
    DeliveryFilter,
    DeliveryState,
    EventFilter,
    EventType,
    StoredSecret,
    StoredSubscription,
    Subscription,
)
from app.domain.notify_url import Notify
from app.domain.page import PageRequest
from app.jobs.outbox import save_transition
from app.jobs.retention import DELIVERY_RETENTION, Retention
from app.jobs.transitions import JobTransition
from app.net.address_guard import AddressRules
from app.security import Sealer
from app.store.audit import AuditStore
from app.store.db.database import Database
from app.store.deliveries import DeliveryStore
from app.store.jobs import JobStore
from app.store.subscriptions import SubscriptionStore, seal_secret
from app.webhooks.mailer import Mailer
from app.webhooks.outbound import Outbound
from app.worker.notifier import LEASE, Notifier
from tests.domain.test_notification import secret
from tests.support.processes import Program
from tests.support.receiver import Answer, Receiver
from tests.worker.house import CALLER, SEALER, House, now, wish

HERE = "127.0.0.1"
PUBLIC_URL = "https://sync.example.com"
SECRET, OLD_SECRET = secret(32), secret(24)
DAYS = timedelta(days=1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


class Post:
    """A postman whose clock a test moves, and what it works with."""

    def __init__(self, database: Database, *, sealer: Sealer = SEALER) -> None:
        self.database = database
        self.ahead = timedelta()
        self.outbound = Outbound(AddressRules(), private_hosts=[HERE], attempt_seconds=5)
        clock: Callable[[], Any] = lambda: now() + self.ahead  # noqa: E731 — what stands for a parameter
        self.notifier = Notifier(
            database, sealer, self.outbound, mailer=Mailer(None), clock=clock, chance=lambda: 0.5, public_url=PUBLIC_URL
        )

    async def round(self) -> int:
        """Send what is due now, and wait for what becomes of it."""
        count = await self.notifier.send_due()
        await self.notifier.settle()
        return count

    async def enter(self, url: str, *, name: str = "ci", sealer: Sealer = SEALER, **values: Any) -> None:
        subscription = Subscription(name=name, url=url, **values)
        sealed = [StoredSecret(seal_secret(sealer, name, text)) for text in (SECRET, OLD_SECRET)]
        async with self.database.transaction() as session:
            await SubscriptionStore(session).put(subscription, sealed, now=now())

    async def subscription(self, name: str = "ci") -> StoredSubscription:
        async with self.database.reading() as session:
            return await SubscriptionStore(session).get(name)

    async def deliveries(self, name: str = "ci") -> list[Delivery]:
        async with self.database.reading() as session:
            page = await DeliveryStore(session).list(name, DeliveryFilter(), PageRequest())
        return list(reversed(page.items))

    async def give(self, number: int = 1, *, url: str | None = None) -> None:
        """Put messages into the outbox."""
        made = [
            Delivery(f"msg_{index}", "ci", EventType.JOB_FAILED, None, "{}", "standard", now(), now(), url)
            for index in range(number)
        ]
        async with self.database.transaction() as session:
            await DeliveryStore(session).add([replace(one, due_at=one.created_at + self.ahead) for one in made])


@pytest.fixture
async def post(database_url: str) -> AsyncIterator[Post]:
    database = Database(database_url)
    made = Post(database)
    yield made
    await made.outbound.aclose()
    await database.aclose()


async def test_a_job_that_ends_is_told_signed_with_all_good_secrets(
    working: House, post: Post, receiver: Receiver
) -> None:
    await post.enter(receiver.url(), events=(EventType.JOB_STARTED, *ENDINGS))
    job = await working.run("t1", "fails")
    await post.round()
    started, ended = receiver.wait_for(2)
    for message in (started, ended):
        assert message.verified(SECRET) == message.verified(OLD_SECRET)
    told = {message.verified(SECRET)["type"]: message.verified(SECRET)["data"] for message in (started, ended)}
    assert set(told) == {"job.started", "job.failed"}
    assert (told["job.started"]["state"], told["job.started"]["finished_at"]) == ("running", None)
    data = told["job.failed"]
    assert (data["id"], data["state"], data["version"]) == (job.id, "failed", job.version)
    assert data["images"] | {"copied": 1, "failed": 1, "total": 2} == data["images"]
    assert {one.state for one in await post.deliveries()} == {DeliveryState.DELIVERED}
    assert await post.round() == 0


async def test_a_channel_of_people_gets_a_message_with_the_error_and_the_way_to_the_job(
    working: House, post: Post, receiver: Receiver
) -> None:
    for name in ("slack", "teams"):
        await post.enter(receiver.url(f"/{name}"), name=name, format=name, events=(EventType.JOB_FAILED,))
    job = await working.run("fails")
    await post.round()
    messages = receiver.wait_for(2)
    assert {message.path for message in messages} == {"/slack", "/teams"}
    for message in messages:
        assert f"{PUBLIC_URL}/console/jobs/{job.id}" in message.body.decode()
        assert "failed" in message.body.decode()
        message.verified(SECRET)


async def test_each_way_to_end_is_told_to_those_who_asked_for_it(
    working: House, post: Post, receiver: Receiver
) -> None:
    for event in (EventType.JOB_SUCCEEDED, EventType.JOB_FAILED, EventType.JOB_CANCELLED):
        await post.enter(receiver.url(f"/{event}"), name=event.replace(".", "-"), events=(event,))
    await working.run("t1")
    await working.run("unlisted")
    waiting = await working.submit("slow-9s")
    await working.jobs.cancel(waiting.id, caller=CALLER)
    await working.done(waiting)
    await post.round()
    told = [(message.path, message.verified(SECRET)["type"]) for message in receiver.wait_for(3)]
    assert sorted(told) == [(f"/{event}", event) for event in ("job.cancelled", "job.failed", "job.succeeded")]


async def test_a_subscription_hears_only_of_the_jobs_it_is_about(
    working: House, post: Post, receiver: Receiver
) -> None:
    await post.enter(receiver.url("/a"), filter=EventFilter(policies=("nightly",), labels={"team": "a"}))
    await post.enter(receiver.url("/off"), name="off", enabled=False)
    wanted = await working.jobs.submit(wish("t1"), caller=CALLER, policy="nightly", labels={"team": "a"})
    other = await working.jobs.submit(wish("t2"), caller=CALLER, policy="nightly", labels={"team": "b"})
    for submission in (wanted, other):
        await working.done(submission.job)
    await post.round()
    assert [one.job_id for one in await post.deliveries()] == [wanted.job.id]
    assert await post.deliveries("off") == []
    assert [message.path for message in receiver.wait_for(1)] == ["/a"]


async def test_a_job_may_bring_its_own_address_and_a_retry_keeps_it(
    working: House, post: Post, receiver: Receiver
) -> None:
    await post.enter(receiver.url("/everyone"), events=(EventType.JOB_CANCELLED,), format="cloudevents")
    notify = Notify(url=receiver.url("/mine"), subscription="ci")
    submission = await working.jobs.submit(wish("fails"), caller=CALLER, notify=notify)
    await working.done(submission.job)
    again = await working.jobs.retry(submission.job.id, only="failed", caller=CALLER)
    await working.done(again)
    await post.round()
    messages = receiver.wait_for(2)
    assert {message.path for message in messages} == {"/mine"}
    assert {message.verified(SECRET)["subject"] for message in messages} == {submission.job.id, again.id}
    assert {message.verified(SECRET)["type"] for message in messages} == {"registry-sync.job.failed"}


async def test_nothing_is_told_of_a_change_that_was_taken_back(house: House, post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url(), events=(EventType.JOB_STARTED,))
    job = await house.submit("t1")

    async def begin_and_break() -> None:
        async with house.database.transaction() as session:
            transition = JobTransition(await JobStore(session).lock(job.id), now=now())
            transition.begin()
            await save_transition(session, transition, house.database.change_feed)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await begin_and_break()
    assert (await house.jobs.get(job.id, caller=CALLER)).state is JobState.QUEUED
    assert await post.deliveries() == []


async def test_a_job_ends_whatever_became_of_the_subscription_it_named(
    working: House, post: Post, receiver: Receiver
) -> None:
    await post.enter(receiver.url(), name="soon-gone")
    notify = Notify(url=receiver.url(), subscription="soon-gone")
    submission = await working.jobs.submit(wish("t1"), caller=CALLER, notify=notify)
    async with post.database.transaction() as session:
        await SubscriptionStore(session).delete("soon-gone")
    assert (await working.done(submission.job)).state is JobState.SUCCEEDED


async def test_many_processes_send_each_delivery_once(post: Post, database_url: str, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give(40)
    databases = [Database(database_url) for _ in range(3)]
    posts = [post, *map(Post, databases)]
    stop = asyncio.Event()
    running = [asyncio.create_task(one.notifier.run(stop)) for one in posts]
    await asyncio.to_thread(receiver.wait_for, 40)
    stop.set()
    await asyncio.gather(*running)
    assert sorted(message.message_id for message in receiver.received) == sorted(f"msg_{n}" for n in range(40))
    assert {one.state for one in await post.deliveries()} == {DeliveryState.DELIVERED}
    for one in posts[1:]:
        await one.outbound.aclose()
    for database in databases:
        await database.aclose()


async def test_one_slow_endpoint_does_not_keep_others_waiting(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give(30)
    with Receiver() as quick:
        receiver.may_answer.clear()
        await post.enter(quick.url(), name="quick")
        other = Delivery("msg_quick", "quick", EventType.JOB_FAILED, None, "{}", "standard", now(), now())
        async with post.database.transaction() as session:
            await DeliveryStore(session).add([other])
        stop = asyncio.Event()
        running = asyncio.create_task(post.notifier.run(stop))
        await asyncio.to_thread(quick.wait_for_one)
        assert len(receiver.received) <= 4
        receiver.may_answer.set()
        stop.set()
        await running


@pytest.mark.kill
async def test_a_process_killed_between_sending_and_noting_is_made_good_by_another(
    post: Post, database_url: str, receiver: Receiver, tmp_path: Path, project: Path
) -> None:
    key = Sealer.make_key()
    await post.enter(receiver.url(), sealer=Sealer([key]))
    await post.give()
    receiver.may_answer.clear()
    command = [sys.executable, "-m", "tests.worker.notifier_process", database_url, key]
    doomed = Program(command, log=tmp_path / "postman.log", folder=project)
    first = await asyncio.to_thread(receiver.wait_for_one)
    doomed.kill()
    receiver.may_answer.set()

    heir = Post(post.database, sealer=Sealer([key]))
    assert await heir.round() == 0
    heir.ahead = LEASE + timedelta(seconds=1)
    assert await heir.round() == 1
    second = receiver.wait_for(2)[1]
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 2)
    assert second.message_id == first.message_id == delivery.id
    assert second.body == first.body
    await heir.outbound.aclose()


async def test_a_refused_message_comes_again_later_with_the_same_id_and_a_fresh_time(
    post: Post, receiver: Receiver
) -> None:
    await post.enter(receiver.url())
    await post.give()
    receiver.answer = Answer(503, body=b"internal secrets of the receiver")
    await post.round()
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.status, delivery.error) == (DeliveryState.PENDING, 503, "refused")
    assert "secrets" not in repr(delivery)
    assert (await post.subscription()).failing_since is not None
    assert await post.round() == 0
    receiver.answer = Answer(200)
    post.ahead = timedelta(seconds=6)
    await post.round()
    one, other = receiver.received
    assert one.message_id == other.message_id
    assert int(other.headers["webhook-timestamp"]) >= int(one.headers["webhook-timestamp"]) + 5
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.status, delivery.error) == (DeliveryState.DELIVERED, 200, None)
    assert (await post.subscription()).failing_since is None


async def test_an_endpoint_that_fails_for_days_is_switched_off_and_says_why(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give()
    receiver.answer = Answer(500)
    while (await post.deliveries())[0].state is DeliveryState.PENDING:
        await post.round()
        post.ahead += timedelta(hours=6)
        assert post.ahead < 30 * DAYS
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, NOTIFICATION_RETRIES.attempts)
    existing = await post.subscription()
    assert not existing.subscription.enabled
    assert existing.disabled_at is not None
    assert "taken nothing since" in str(existing.disabled_reason)
    assert "HTTP 500" in str(existing.disabled_reason)
    async with post.database.reading() as session:
        log = await AuditStore(session).list(AuditFilter(target="ci"), PageRequest())
    assert [(one.action, one.actor) for one in log.items] == [(AuditAction.SUBSCRIPTION_DISABLED, "registry-sync")]


async def test_an_endpoint_that_takes_other_messages_stays_on(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give()
    receiver.answer = Answer(500)
    for _ in range((NOTIFICATION_RETRIES.attempts or 0) - 1):
        await post.round()
        post.ahead += DAYS
    async with post.database.transaction() as session:
        await SubscriptionStore(session).note_taken("ci")
    await post.round()
    assert (await post.deliveries())[0].state is DeliveryState.FAILED
    assert (await post.subscription()).subscription.enabled


async def test_an_endpoint_that_is_gone_is_switched_off_with_what_waited_for_it(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give(6)
    receiver.answer = Answer(410)
    await post.round()
    existing = await post.subscription()
    assert not existing.subscription.enabled
    assert "410" in str(existing.disabled_reason)
    ended = await post.deliveries()
    assert {one.state for one in ended} == {DeliveryState.FAILED}
    assert {one.error for one in ended} <= {"gone", "subscription_disabled"}
    assert len(receiver.received) == 4


async def test_a_jobs_own_address_that_is_gone_leaves_the_subscription_on(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give(url=receiver.url("/mine"))
    receiver.answer = Answer(410)
    await post.round()
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.error) == (DeliveryState.FAILED, "gone")
    existing = await post.subscription()
    assert existing.subscription.enabled
    assert existing.failing_since is None


async def test_an_answer_about_what_it_was_before_does_not_switch_off_what_was_changed(
    post: Post, receiver: Receiver
) -> None:
    await post.enter(receiver.url())
    await post.give()
    receiver.answer = Answer(410)
    receiver.may_answer.clear()
    await post.notifier.send_due()
    await asyncio.to_thread(receiver.wait_for_one)
    await post.enter(receiver.url("/new"))
    receiver.may_answer.set()
    await post.notifier.settle()
    assert (await post.subscription()).subscription.enabled


async def test_a_secret_that_no_key_opens_delays_the_message(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url(), sealer=Sealer([Sealer.make_key()]))
    await post.give()
    await post.round()
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.error) == (DeliveryState.PENDING, "secret_unreadable")
    assert receiver.received == []


async def test_a_test_message_is_sent_once_and_says_nothing_about_the_endpoint(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url(), enabled=False)
    test = Delivery("msg_test", "ci", EventType.TEST, None, "{}", "standard", now(), now())
    async with post.database.transaction() as session:
        await DeliveryStore(session).add([test])
    receiver.answer = Answer(500)
    await post.round()
    (delivery,) = await post.deliveries()
    assert (delivery.state, delivery.attempts) == (DeliveryState.FAILED, 1)
    assert (await post.subscription()).failing_since is None


async def test_ended_deliveries_are_forgotten_after_a_month(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give()
    await post.round()
    for ahead, existing in ((timedelta(), 1), (DELIVERY_RETENTION + DAYS, 0)):
        moment = now() + ahead
        await Retention(post.database, clock=lambda moment=moment: moment).apply()  # type: ignore[misc]  # mypy can't tell the type of a default in a lambda
        assert len(await post.deliveries()) == existing


async def test_what_is_on_its_way_ends_before_the_postman_does(post: Post, receiver: Receiver) -> None:
    await post.enter(receiver.url())
    await post.give()
    receiver.may_answer.clear()
    stop = asyncio.Event()
    running = asyncio.create_task(post.notifier.run(stop))
    await asyncio.to_thread(receiver.wait_for_one)
    stop.set()
    await asyncio.sleep(0.1)
    assert not running.done()
    receiver.may_answer.set()
    await running
    assert (await post.deliveries())[0].state is DeliveryState.DELIVERED
