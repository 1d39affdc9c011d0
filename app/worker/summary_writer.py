"""Writes a message for each policy once a day, into the outbox: the notifier sends it like any other.

Every worker looks. A message's id is made of policy, subscription and date, so of many workers, before and after a
restart, one writes it. A worker that was away at the time of day writes it when it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from app.domain.notification import Delivery, EventType, StoredSubscription, Subscription, delivery_id
from app.domain.page import PageRequest
from app.domain.policy import StoredPolicy
from app.domain.policy_summary import PolicySummary, SummaryDay, last_summary_day
from app.observability import get_logger
from app.store.db.database import Database
from app.store.deliveries import DeliveryStore
from app.store.policies import PolicyStore
from app.store.policy_summaries import count_runs
from app.store.subscriptions import SubscriptionStore
from app.webhooks.messages import summary_data, write_message

POLICIES_AT_ONCE = 100

log = get_logger(__name__)


class SummaryWriter:
    """Writes what is due of the day that ended last.

    - `at`, `zone`: when a day ends
    - `clock`: the time, in UTC
    """

    def __init__(self, database: Database, *, at: time, zone: ZoneInfo, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._at = at
        self._zone = zone
        self._clock = clock
        self._written: date | None = None

    async def write_due(self) -> None:
        """Write the messages of the last day that are not there; raise `UnavailableError`.

        A subscription or policy that is newer than the day's end waits for the next.
        """
        day = last_summary_day(self._clock(), at=self._at, zone=self._zone)
        if day.date == self._written:
            return
        async with self._database.reading() as session:
            existing = await SubscriptionStore(session).list()
        wanting = [one.subscription for one in existing if _is_wanting(one, day)]
        cursor: str | None = None
        while wanting:
            async with self._database.reading() as session:
                page = await PolicyStore(session).list(PageRequest(limit=POLICIES_AT_ONCE, cursor=cursor))
            for stored in page.items:
                if stored.created_at <= day.until:
                    await self._write(stored, day, wanting)
            cursor = page.next_cursor
            if cursor is None:
                break
        self._written = day.date

    async def _write(self, stored: StoredPolicy, day: SummaryDay, wanting: Sequence[Subscription]) -> None:
        policy = stored.policy
        ids = {one.name: _id(policy.name, one, day) for one in wanting if one.wants_summary(policy.name, policy.labels)}
        async with self._database.reading() as session:
            known = await DeliveryStore(session).known(ids.values())
            if not ids or known == set(ids.values()):
                return
            runs = await count_runs(session, policy.name, since=day.since, until=day.until)
        if not runs.total and not policy.enabled:
            return  # it rests, and nobody ran it
        summary = PolicySummary(stored, day, runs)
        async with self._database.transaction() as session:
            subscriptions = [one.subscription for one in await SubscriptionStore(session).list_for_writing()]
            deliveries = [_delivery(summary, one, now=self._clock()) for one in subscriptions if one.name in ids]
            await DeliveryStore(session).add(deliveries)
        log.info("policy_summarized", policy=policy.name, day=str(day.date), subscriptions=sorted(ids))


def _is_wanting(existing: StoredSubscription, day: SummaryDay) -> bool:
    subscription = existing.subscription
    is_asked = subscription.enabled and EventType.POLICY_SUMMARY in subscription.events
    return is_asked and existing.updated_at <= day.until


def _id(policy: str, subscription: Subscription, day: SummaryDay) -> str:
    return delivery_id(EventType.POLICY_SUMMARY, policy, subscription.name, day.date.isoformat())


def _delivery(summary: PolicySummary, subscription: Subscription, *, now: datetime) -> Delivery:
    policy = summary.stored.policy.name
    message_id = _id(policy, subscription, summary.day)
    body = write_message(
        subscription.format,
        message_id=message_id,
        event=EventType.POLICY_SUMMARY,
        occurred_at=summary.day.until,
        subject=policy,
        data=summary_data(summary),
    )
    return Delivery(
        id=message_id,
        subscription=subscription.name,
        event=EventType.POLICY_SUMMARY,
        job_id=None,
        body=body,
        format=subscription.format,
        created_at=now,
        due_at=now,
    )
