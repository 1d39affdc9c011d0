"""The notifier: sends what is due in the outbox, in every worker process; each delivery is claimed by one of them.

Sent at least once: a process that dies between the sending and the noting leaves a delivery that comes due again when
its claim has run out, with the same id. What an endpoint's answers mean for its subscription is decided here too.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from app.concurrency import log_unavailable, retry_while_unavailable, wait_for_event
from app.domain.audit import AuditAction, AuditEntry
from app.domain.dead_letter import FAILING_FOR, AttemptOutcome, delay_after
from app.domain.errors import UnavailableError
from app.domain.notification import Delivery, DeliveryState, EventType, StoredSubscription
from app.net.http_headers import PRODUCT
from app.observability import NOTIFICATIONS, current_traceparent, get_logger, span
from app.security import Sealer
from app.store.audit import AuditStore
from app.store.db.database import Database, Session
from app.store.deliveries import ClaimedDelivery, DeliveryStore
from app.store.subscriptions import SubscriptionStore, open_secrets, open_url
from app.webhooks.mailer import Mailer
from app.webhooks.messages import email_of, sent_body
from app.webhooks.outbound import Outbound, message_headers

POLL_SECONDS = 1.0
AT_ONCE = 16
"""Deliveries that one process sends at the same time."""
AT_ONCE_EACH = 4
"""Of one subscription: an endpoint that is slow does not keep the others waiting."""
LEASE = timedelta(seconds=60)
"""How long a claim holds: an attempt takes a quarter of it; the rest is for clocks that differ and slow databases."""

log = get_logger(__name__)


class Notifier:
    """Sends deliveries until `stop` is set: 16 at once, 4 to one address.

    - `sealer`: opens signing secrets
    - `outbound`: sends one message
    - `mailer`: sends one e-mail
    - `clock`: the time, in UTC
    - `chance`: 0 to 1, for the jitter of retries
    - `public_url`: where people and programs reach the service, for links; None leaves them relative
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        outbound: Outbound,
        *,
        mailer: Mailer,
        clock: Callable[[], datetime],
        chance: Callable[[], float] = random.random,  # noqa: S311 — it spreads load, keeps no secret
        public_url: str | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._outbound = outbound
        self._mailer = mailer
        self._clock = clock
        self._chance = chance
        self._public_url = public_url
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: Counter[str] = Counter()
        """How many deliveries of each subscription are on their way."""

    async def run(self, stop: asyncio.Event) -> None:
        """Send what comes due until `stop` is set, then let those on their way end: their attempts are short."""
        try:
            while not stop.is_set():
                try:
                    claimed = await self.send_due()
                except UnavailableError as error:
                    log_unavailable("deliveries", error)
                    claimed = 0
                except Exception:  # nothing stops the postman; what is due stays due
                    log.exception("deliveries_failed_unexpectedly")
                    claimed = 0
                if not claimed:
                    await wait_for_event(stop, POLL_SECONDS)
            await self.settle()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send_due(self) -> int:
        """Claim what is due and begin to send it; return how many that were. Raise `UnavailableError`."""
        room = AT_ONCE - len(self._tasks)
        if room <= 0:
            return 0
        now, busy = self._clock(), list(self._busy)
        async with self._database.reading(is_short=True) as session:
            if not await DeliveryStore(session).has_due(now=now, without=busy):
                return 0
        async with self._database.transaction() as session:
            claims = await DeliveryStore(session).claim_due(
                now=now, lease=LEASE, limit=room, each=AT_ONCE_EACH, without=busy
            )
        for claim in claims:
            self._busy[claim.delivery.subscription] += 1
            task = asyncio.create_task(self._deliver(claim))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claims)

    async def settle(self) -> None:
        """Wait until everything on its way has ended."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LEASE.total_seconds())

    async def _deliver(self, claim: ClaimedDelivery) -> None:
        name = claim.delivery.subscription
        try:
            existing = await retry_while_unavailable(lambda: self._subscription(name))
            if existing is not None:
                outcome = await self._attempt(claim, existing)
                await retry_while_unavailable(lambda: self._record(claim, outcome, existing.version))
        except Exception:  # one delivery failing doesn't stop the others; it comes due again
            log.exception("delivery_failed_unexpectedly", subscription=name, delivery=claim.delivery.id)
        finally:
            self._busy[name] -= 1
            self._busy += Counter()  # forgets those at zero

    async def _subscription(self, name: str) -> StoredSubscription | None:
        async with self._database.reading() as session:
            return await SubscriptionStore(session).find(name)

    async def _attempt(self, claim: ClaimedDelivery, existing: StoredSubscription) -> AttemptOutcome:
        delivery = claim.delivery
        described = {"registry_sync.subscription": delivery.subscription, "registry_sync.event": delivery.event}
        with span("notify", kind="client", parent=delivery.traceparent, attributes=described) as attempt_span:
            send = self._mail if delivery.format == "email" else self._post
            outcome = await send(delivery, existing)
            attempt_span.set({"http.response.status_code": outcome.status})
            if outcome.reason is not None:
                attempt_span.fail(outcome.reason)
        return outcome

    async def _post(self, delivery: Delivery, existing: StoredSubscription) -> AttemptOutcome:
        now, url = self._clock(), delivery.url or existing.subscription.url
        if url is None:
            return AttemptOutcome(error="subscription_changed")  # while it was on its way: it is an e-mail's now
        try:
            secrets = open_secrets(self._sealer, existing, now=now)
            url = open_url(self._sealer, delivery.subscription, url)
        except UnavailableError as error:
            return AttemptOutcome(error=error.code)
        body = sent_body(delivery.body, delivery.format, public_url=self._public_url)
        headers = message_headers(body, delivery.format, message_id=delivery.id, secrets=secrets, now=now)
        if traceparent := current_traceparent() or delivery.traceparent:
            headers["traceparent"] = traceparent
        return await self._outbound.send(url, body, headers, now=now)

    async def _mail(self, delivery: Delivery, existing: StoredSubscription) -> AttemptOutcome:
        server, to = self._mailer.server, existing.subscription.to
        if server is None:
            return AttemptOutcome(error="email_not_set_up")
        if not to:
            return AttemptOutcome(error="subscription_changed")
        email = email_of(
            delivery.body, sender=server.sender, to=to, message_id=delivery.id, public_url=self._public_url
        )
        return await self._mailer.send(email, to)

    async def _record(self, claim: ClaimedDelivery, outcome: AttemptOutcome, version: int) -> None:
        delivery, now = claim.delivery, self._clock()
        is_test = delivery.event is EventType.TEST
        delay = None if is_test else delay_after(delivery.attempts, outcome, chance=self._chance())
        if outcome.is_taken:
            state, result = DeliveryState.DELIVERED, "delivered"
        else:
            state, result = (DeliveryState.FAILED, "failed") if delay is None else (DeliveryState.PENDING, "delayed")
        async with self._database.transaction() as session:
            due_at = now + (delay or timedelta())
            is_ours = await DeliveryStore(session).record(claim, outcome, state=state, due_at=due_at, now=now)
            if is_ours and delivery.is_of_subscription:
                await self._draw_conclusions(session, claim, outcome, state=state, version=version)
        NOTIFICATIONS.labels(result).inc()
        log.info(
            "notification_attempted",
            result=result,
            subscription=delivery.subscription,
            delivery=delivery.id,
            event_type=delivery.event,
            attempt=delivery.attempts,
            status=outcome.status,
            reason=outcome.reason,
        )

    async def _draw_conclusions(
        self, session: Session, claim: ClaimedDelivery, outcome: AttemptOutcome, *, state: DeliveryState, version: int
    ) -> None:
        """Keep in mind how the endpoint does; switch off one that is gone, or has taken nothing for long."""
        subscriptions, name, now = SubscriptionStore(session), claim.delivery.subscription, self._clock()
        if outcome.is_taken:
            await subscriptions.note_taken(name)
            return
        await subscriptions.note_failure(name, now=now)
        if state is not DeliveryState.FAILED:
            return
        existing = await subscriptions.find(name, for_update=True)
        if existing is None or existing.version != version or not existing.subscription.enabled:
            return  # somebody has changed it meanwhile: the answer was about what it was before
        reason = _reason_to_disable(existing, outcome, now=now)
        if reason is not None:
            await _disable(session, existing, reason=reason, now=now)


def _reason_to_disable(existing: StoredSubscription, outcome: AttemptOutcome, *, now: datetime) -> str | None:
    if outcome.is_gone:
        return "the endpoint answered 410 Gone: it wants no more"
    if existing.failing_since is None or now - existing.failing_since < FAILING_FOR:
        return None
    last = f"{outcome.reason} (HTTP {outcome.status})" if outcome.status else outcome.reason
    return f"the endpoint has taken nothing since {existing.failing_since:%Y-%m-%dT%H:%M:%SZ}; the last attempt: {last}"


async def _disable(session: Session, existing: StoredSubscription, *, reason: str, now: datetime) -> None:
    """Switch a held subscription off, with what still waits for its endpoint, and say why."""
    name = existing.subscription.name
    await SubscriptionStore(session).disable(existing, reason=reason, now=now)
    await DeliveryStore(session).give_up_pending(name, error="subscription_disabled", now=now)
    entry = AuditEntry(now, PRODUCT, AuditAction.SUBSCRIPTION_DISABLED, name, {"reason": reason})
    await AuditStore(session).add(entry)
    log.warning("subscription_disabled", subscription=name, reason=reason)
