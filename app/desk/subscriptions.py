"""Subscriptions: enter, change, remove, test; look at what was sent, and send it again.

A new secret does not end the one before at once: both sign for a while, so that receivers can be changed over without
missing anything (Standard Webhooks, "Signature Scheme").
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import SecretStr

from app.domain.access import Caller
from app.domain.address import Notify
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError, FieldError, InvalidRequestError, UnavailableError
from app.domain.notification import (
    MAX_SECRETS,
    SECRET_PREFIX,
    Delivery,
    DeliveryFilter,
    EventType,
    KeptSecret,
    KeptSubscription,
    Subscription,
    delivery_id,
)
from app.hooks.messages import write_message
from app.hooks.outbound import Outbound
from app.observability import get_logger
from app.security import Sealer
from app.store.audit import AuditStore
from app.store.database import Database, Session
from app.store.deliveries import DeliveryStore
from app.store.paging import Page, PageRequest
from app.store.subscriptions import SubscriptionStore, open_secrets, seal_secret

SECRET_BYTES = 32
DEFAULT_OVERLAP = timedelta(hours=24)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PutSubscription:
    """A subscription as it was entered; the secret is there when it was made here, the only time it is seen."""

    kept: KeptSubscription
    is_new: bool
    made_secret: str | None = field(default=None, repr=False)


class SubscriptionService:
    """Subscriptions and their deliveries, for every door."""

    def __init__(
        self,
        database: Database,
        *,
        sealer: Sealer,
        outbound: Outbound,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._outbound = outbound
        self._now = now
        self._new_id = new_id
        self._random_bytes = random_bytes

    async def list(self) -> tuple[KeptSubscription, ...]:
        """List all subscriptions by name."""
        async with self._database.reading() as session:
            return await SubscriptionStore(session).list()

    async def get(self, name: str) -> KeptSubscription:
        """Read a subscription; raise `NotFoundError`."""
        async with self._database.reading() as session:
            return await SubscriptionStore(session).get(name)

    async def put(
        self,
        subscription: Subscription,
        *,
        secret: SecretStr | None,
        overlap: timedelta = DEFAULT_OVERLAP,
        expected_version: int | None,
        caller: Caller,
    ) -> PutSubscription:
        """Enter or replace a subscription; without a secret the one kept stays, or one is made.

        What had been switched off begins anew. Raise `InvalidRequestError` (`host_not_allowed`), `ConflictError`
        (`precondition_failed`).
        """
        if refusal := self._outbound.refusal(subscription.url):
            raise _refused("/url", refusal)
        now, name = self._now(), subscription.name
        async with self._database.transaction() as session:
            store = SubscriptionStore(session)
            before = await store.find(name, is_held=True)
            _check_version(before, expected_version)
            made = self._make_secret() if before is None and secret is None else None
            text = secret.get_secret_value() if secret else made
            secrets = self._secrets(before, name, text, ends_at=now + overlap)
            is_new = await store.put(subscription, secrets, now=now)
            if not subscription.enabled:
                await DeliveryStore(session).give_up_pending(name, error="subscription_disabled", now=now)
            details = changes(before.subscription if before else None, subscription)
            if text is not None:
                details["secrets_set"] = ["secret"]
            action = AuditAction.SUBSCRIPTION_CREATED if is_new else AuditAction.SUBSCRIPTION_CHANGED
            await AuditStore(session).add(AuditEntry(now, caller.name, action, name, details))
            kept = await store.get(name)
        log.info("subscription_entered", subscription=name, is_new=is_new, by=caller.name)
        return PutSubscription(kept, is_new, made)

    async def delete(self, name: str, *, expected_version: int | None, caller: Caller) -> None:
        """Remove a subscription and its deliveries; raise `NotFoundError`, `ConflictError` (`precondition_failed`)."""
        async with self._database.transaction() as session:
            store = SubscriptionStore(session)
            before = await store.get(name, is_held=True)
            _check_version(before, expected_version)
            await store.delete(name)
            entry = AuditEntry(
                self._now(), caller.name, AuditAction.SUBSCRIPTION_DELETED, name, changes(before.subscription, None)
            )
            await AuditStore(session).add(entry)
        log.info("subscription_removed", subscription=name, by=caller.name)

    async def check_notify(self, notify: Notify) -> None:
        """Refuse a job's own address that can be known to be wrong; raise `InvalidRequestError`."""
        if refusal := self._outbound.refusal(notify.url):
            raise _refused("/notify/url", refusal)
        async with self._database.reading() as session:
            if await SubscriptionStore(session).find(notify.subscription) is None:
                detail = f"there is no subscription {notify.subscription!r} to sign with"
                raise InvalidRequestError(
                    detail, errors=(FieldError("/notify/subscription", "unknown_subscription", detail),)
                )

    async def list_deliveries(self, name: str, wanted: DeliveryFilter, page: PageRequest) -> Page[Delivery]:
        """Read a page of a subscription's deliveries, newest first; raise `NotFoundError`."""
        async with self._database.reading() as session:
            await SubscriptionStore(session).get(name)
            return await DeliveryStore(session).list(name, wanted, page)

    async def get_delivery(self, name: str, delivery: str) -> Delivery:
        """Read a delivery; raise `NotFoundError`."""
        async with self._database.reading() as session:
            return await DeliveryStore(session).get(name, delivery)

    async def redeliver(self, name: str, delivery: str) -> Delivery:
        """Send a delivery again, now and with all its attempts before it.

        Raise `NotFoundError`, `ConflictError` (`subscription_disabled`).
        """
        async with self._database.transaction() as session:
            kept = await SubscriptionStore(session).get(name)
            known = await DeliveryStore(session).get(name, delivery)
            if known.is_of_subscription and not kept.subscription.enabled:
                raise ConflictError(f"{name!r} is switched off; enable it first", code="subscription_disabled")
            await DeliveryStore(session).send_again(delivery, now=self._now())
            return await DeliveryStore(session).get(name, delivery)

    async def test(self, name: str) -> Delivery:
        """Have a test message sent, once, even where the subscription is switched off; raise `NotFoundError`."""
        async with self._database.transaction() as session:
            kept = await SubscriptionStore(session).get(name)
            return await self._add_test(session, kept.subscription)

    async def _add_test(self, session: Session, subscription: Subscription) -> Delivery:
        now, name = self._now(), subscription.name
        message_id = delivery_id(name, self._new_id())
        body = write_message(
            subscription.format,
            message_id=message_id,
            event=EventType.TEST,
            occurred_at=now,
            subject=name,
            data={"subscription": name},
        )
        delivery = Delivery(
            id=message_id,
            subscription=name,
            event=EventType.TEST,
            job_id=None,
            body=body,
            format=subscription.format,
            created_at=now,
            due_at=now,
        )
        await DeliveryStore(session).add([delivery])
        return delivery

    def _secrets(
        self, before: KeptSubscription | None, name: str, text: str | None, *, ends_at: datetime
    ) -> tuple[KeptSecret, ...]:
        known = before.secrets if before else ()
        if text is None or (before and self._signs_first(before, text)):
            return known
        return with_new_secret(known, seal_secret(self._sealer, name, text), now=self._now(), ends_at=ends_at)

    def _signs_first(self, kept: KeptSubscription, text: str) -> bool:
        try:
            opened = open_secrets(self._sealer, kept, now=self._now())
        except UnavailableError:
            return False  # then this one takes its place
        return hmac.compare_digest(opened[0], text)

    def _make_secret(self) -> str:
        return SECRET_PREFIX + base64.b64encode(self._random_bytes(SECRET_BYTES)).decode()


def with_new_secret(
    known: tuple[KeptSecret, ...], token: str, *, now: datetime, ends_at: datetime
) -> tuple[KeptSecret, ...]:
    """Put a new secret before those known; they sign beside it until then at most, and only so many of them."""
    older = (KeptSecret(one.token, min(one.ends_at or ends_at, ends_at)) for one in known)
    return (KeptSecret(token), *[one for one in older if one.is_good(now)][: MAX_SECRETS - 1])


def _check_version(kept: KeptSubscription | None, expected: int | None) -> None:
    if expected is not None and (kept is None or kept.version != expected):
        state = f"it is at version {kept.version} now" if kept else "there is none now"
        raise ConflictError(f"{state}; read it again", code="precondition_failed")


def _refused(pointer: str, refusal: str) -> InvalidRequestError:
    return InvalidRequestError(
        refusal, code="host_not_allowed", errors=(FieldError(pointer, "host_not_allowed", refusal),)
    )
