"""Deliveries of notifications and the audit log, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.domain.audit import AuditAction, AuditEntry, AuditFilter
from app.domain.dead_letter import AttemptOutcome
from app.domain.errors import InvalidRequestError, NotFoundError
from app.domain.notification import Delivery, DeliveryFilter, DeliveryState, EventType, StoredSecret, Subscription
from app.domain.page import PageRequest
from app.security import Sealer
from app.store.audit import AuditStore
from app.store.db.database import Database
from app.store.deliveries import ClaimedDelivery, DeliveryStore
from app.store.subscriptions import SubscriptionStore, open_secrets, seal_secret
from tests.support.clock import START

LEASE = timedelta(minutes=1)
TAKEN, REFUSED = AttemptOutcome(status=200), AttemptOutcome(status=500)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Return a database in which `ci` and `ops` want to be told."""
    opened = Database(database_url)
    async with opened.transaction() as session:
        for name in ("ci", "ops"):
            subscription = Subscription(name=name, url=f"https://{name}.example.com/hook")
            await SubscriptionStore(session).put(subscription, [StoredSecret("sealed")], now=START)
    yield opened
    await opened.aclose()


def delivery(name: str, subscription: str = "ci", *, job: str | None = None, url: str | None = None) -> Delivery:
    return Delivery(
        id=name,
        subscription=subscription,
        event=EventType.JOB_FAILED,
        job_id=job,
        body="{}",
        format="standard",
        created_at=START,
        due_at=START,
        url=url,
    )


async def add(database: Database, *deliveries: Delivery) -> None:
    async with database.transaction() as session:
        await DeliveryStore(session).add(deliveries)


async def claim(
    database: Database,
    *,
    after: timedelta = timedelta(),
    limit: int = 10,
    each: int = 10,
    without: tuple[str, ...] = (),
) -> tuple[ClaimedDelivery, ...]:
    async with database.transaction() as session:
        store = DeliveryStore(session)
        now = START + after
        claims = await store.claim_due(now=now, lease=LEASE, limit=limit, each=each, without=without)
        assert bool(claims) <= await store.has_due(now=now + LEASE, without=without)
        return claims


async def record(database: Database, claimed: ClaimedDelivery, outcome: AttemptOutcome, state: DeliveryState) -> bool:
    async with database.transaction() as session:
        return await DeliveryStore(session).record(claimed, outcome, state=state, due_at=START, now=START)


async def read(database: Database, name: str, subscription: str = "ci") -> Delivery:
    async with database.reading() as session:
        return await DeliveryStore(session).get(subscription, name)


async def test_a_message_is_in_the_outbox_once_however_often_it_is_written(database: Database) -> None:
    await add(database, delivery("a"))
    await add(database, replace(delivery("a"), body="other"), delivery("b"))
    assert [claimed.delivery.id for claimed in await claim(database)] == ["a", "b"]
    assert (await read(database, "a")).body == "{}"


async def test_a_claimed_delivery_is_due_again_only_when_its_claim_has_run_out(database: Database) -> None:
    await add(database, delivery("a"))
    (first,) = await claim(database)
    assert await claim(database, after=LEASE - timedelta(seconds=1)) == ()
    (second,) = await claim(database, after=LEASE)
    assert (first.delivery.attempts, second.delivery.attempts) == (1, 2)
    assert second.delivery.id == first.delivery.id


async def test_the_word_of_an_overtaken_claim_does_not_count(database: Database) -> None:
    await add(database, delivery("a"))
    (first,) = await claim(database)
    (second,) = await claim(database, after=LEASE)
    assert not await record(database, first, TAKEN, DeliveryState.DELIVERED)
    assert (await read(database, "a")).state is DeliveryState.PENDING
    assert await record(database, second, REFUSED, DeliveryState.FAILED)
    ended = await read(database, "a")
    assert (ended.state, ended.status, ended.error) == (DeliveryState.FAILED, 500, "refused")
    assert ended.finished_at == START
    assert await claim(database, after=timedelta(days=9)) == ()


async def test_processes_that_claim_at_once_share_and_never_overlap(database: Database, database_url: str) -> None:
    await add(database, *[delivery(f"d{number}") for number in range(60)])
    others = [Database(database_url) for _ in range(3)]

    async def claim_all(each: Database) -> list[str]:
        mine: list[str] = []
        for _ in range(40):
            mine += [claimed.delivery.id for claimed in await claim(each, limit=4)]
            await asyncio.sleep(0)
        return mine

    claimed = [name for names in await asyncio.gather(*map(claim_all, others)) for name in names]
    assert sorted(claimed) == sorted(f"d{number}" for number in range(60))
    for other in others:
        await other.aclose()


async def test_one_subscription_does_not_take_all_the_room(database: Database) -> None:
    await add(database, *[delivery(f"d{number}") for number in range(5)], delivery("o", "ops"))
    claims = await claim(database, limit=4, each=2)
    assert [claimed.delivery.id for claimed in claims] == ["d0", "d1", "o"]
    assert await claim(database, without=("ci",)) == ()


async def test_what_is_sent_again_is_due_at_once_and_forgets_its_attempts(database: Database) -> None:
    await add(database, delivery("a"))
    (claimed,) = await claim(database)
    async with database.transaction() as session:
        await DeliveryStore(session).send_again("a", now=START)
    assert not await record(database, claimed, REFUSED, DeliveryState.FAILED)
    (again,) = await claim(database)
    assert again.delivery.attempts == 1


async def test_giving_up_leaves_jobs_own_addresses_and_other_subscriptions_alone(database: Database) -> None:
    await add(database, delivery("a"), delivery("b", url="https://x.example.com/"), delivery("c", "ops"))
    async with database.transaction() as session:
        await DeliveryStore(session).give_up_pending("ci", error="subscription_disabled", now=START)
    assert [claimed.delivery.id for claimed in await claim(database)] == ["b", "c"]
    assert (await read(database, "a")).error == "subscription_disabled"


async def test_deliveries_go_with_their_subscription(database: Database) -> None:
    await add(database, delivery("a"), delivery("b", "ops"))
    async with database.transaction() as session:
        await SubscriptionStore(session).delete("ci")
    with pytest.raises(NotFoundError):
        await read(database, "a")
    assert (await read(database, "b", "ops")).id == "b"


async def test_deliveries_are_listed_in_pages_newest_first_by_what_is_asked_for(database: Database) -> None:
    job = "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708"
    await add(database, *[delivery(f"d{number}", job=job if number % 2 else None) for number in range(5)])
    async with database.reading() as session:
        store = DeliveryStore(session)
        first = await store.list("ci", DeliveryFilter(), PageRequest(limit=2))
        second = await store.list("ci", DeliveryFilter(), PageRequest(limit=3, cursor=first.next_cursor))
        of_job = await store.list("ci", DeliveryFilter(job_id=job), PageRequest())
        none = await store.list("ci", DeliveryFilter(job_id="nonsense"), PageRequest())
        with pytest.raises(InvalidRequestError):
            await store.list("ops", DeliveryFilter(), PageRequest(cursor=first.next_cursor))
    assert [one.id for one in (*first.items, *second.items)] == ["d4", "d3", "d2", "d1", "d0"]
    assert second.next_cursor is None
    assert [one.id for one in of_job.items] == ["d3", "d1"]
    assert none.items == ()


async def test_ended_deliveries_are_forgotten_after_a_while_and_pending_ones_never(database: Database) -> None:
    await add(database, delivery("a"), delivery("b"))
    first, _ = await claim(database)
    await record(database, first, TAKEN, DeliveryState.DELIVERED)
    async with database.transaction() as session:
        assert await DeliveryStore(session).delete_finished_before(START, limit=10) == 0
        assert await DeliveryStore(session).delete_finished_before(START + LEASE, limit=10) == 1
    assert (await read(database, "b")).id == "b"


async def test_a_subscription_is_not_removed_while_a_job_writes_to_it(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("one writer at a time anyway")

    async def remove() -> None:
        async with database.transaction() as session:
            await SubscriptionStore(session).delete("ci")

    async with database.transaction() as session:
        assert len(await SubscriptionStore(session).list_for_writing()) == 2
        removing = asyncio.create_task(remove())
        await asyncio.sleep(0.3)
        assert not removing.done()
        await DeliveryStore(session).add([delivery("a")])
    await removing


async def test_two_jobs_end_and_a_subscription_changes_without_waiting_for_each_other(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("one writer at a time anyway")
    async with asyncio.timeout(5), database.transaction() as one, database.transaction() as other:
        await SubscriptionStore(one).list_for_writing()
        await SubscriptionStore(other).list_for_writing()
        async with database.transaction() as third:
            await SubscriptionStore(third).get("ci", for_update=True)
            await SubscriptionStore(third).note_failure("ci", now=START)


async def test_secrets_lie_sealed_and_end_when_they_should(database: Database) -> None:
    sealer = Sealer([Sealer.make_key()])
    subscription = Subscription(name="ci", url="https://ci.example.com/hook")
    new = StoredSecret(seal_secret(sealer, "ci", "whsec_new"))
    old = StoredSecret(seal_secret(sealer, "ci", "whsec_old"), START + LEASE)
    async with database.transaction() as session:
        await SubscriptionStore(session).put(subscription, [new, old], now=START)
    async with database.reading() as session:
        existing = await SubscriptionStore(session).get("ci")
        stored = (await session.execute(text("SELECT * FROM subscriptions"))).all()
    assert existing.version == 2
    assert open_secrets(sealer, existing, now=START) == ("whsec_new", "whsec_old")
    assert open_secrets(sealer, existing, now=START + LEASE) == ("whsec_new",)
    assert "whsec_" not in str(stored)


def entry(target: str, *, actor: str = "ann", action: AuditAction = AuditAction.KEY_CREATED) -> AuditEntry:
    return AuditEntry(START, actor, action, target, {"changes": {}})


async def test_the_audit_log_is_read_newest_first_by_what_is_asked_for(database: Database) -> None:
    async with database.transaction() as session:
        for number in range(4):
            await AuditStore(session).add(entry(f"k{number}", actor="ann" if number % 2 else "bob"))
        await AuditStore(session).add(entry("k1", action=AuditAction.KEY_REVOKED))
    async with database.reading() as session:
        log = AuditStore(session)
        page = await log.list(AuditFilter(), PageRequest(limit=3))
        rest = await log.list(AuditFilter(), PageRequest(limit=3, cursor=page.next_cursor))
        by_ann = await log.list(AuditFilter(actor="ann", target="k1"), PageRequest())
        revoked = await log.list(AuditFilter(action=AuditAction.KEY_REVOKED), PageRequest())
        later = await log.list(AuditFilter(since=START + LEASE), PageRequest())
    assert [one.target for one in (*page.items, *rest.items)] == ["k1", "k3", "k2", "k1", "k0"]
    assert [one.action for one in by_ann.items] == [AuditAction.KEY_REVOKED, AuditAction.KEY_CREATED]
    assert len(revoked.items) == 1
    assert later.items == ()


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
async def test_the_database_itself_refuses_to_change_the_audit_log(database: Database, statement: str) -> None:
    async with database.transaction() as session:
        await AuditStore(session).add(entry("k"))
    with pytest.raises(DBAPIError, match="only added to"):
        async with database.transaction() as session:
            await session.execute(text(statement))
