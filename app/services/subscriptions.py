"""Subscriptions: create, change, delete, test; list deliveries, redeliver one.

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
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError, FieldError, InvalidRequestError, UnavailableError
from app.domain.notification import (
    MAX_SECRETS,
    SECRET_PREFIX,
    Delivery,
    DeliveryFilter,
    EventType,
    StoredSecret,
    StoredSubscription,
    Subscription,
    delivery_id,
)
from app.domain.notify_url import is_masked, sealed_token, shown_url
from app.domain.page import Page, PageRequest
from app.observability import get_logger
from app.security import Sealer
from app.services.admission import Admission
from app.services.versions import check_version
from app.store.audit import AuditStore
from app.store.db.database import Database, Session
from app.store.deliveries import DeliveryStore
from app.store.subscriptions import SubscriptionStore, open_secrets, seal_secret, seal_url
from app.webhooks.messages import write_message

SECRET_BYTES = 32
DEFAULT_OVERLAP = timedelta(hours=24)
_NO_MAIL_SERVER = "this service sends no e-mail: it needs REGISTRY_SYNC_SMTP_HOST and REGISTRY_SYNC_SMTP_FROM"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PutSubscription:
    """A subscription as it was entered; the secret is there when it was made here, the only time it is seen."""

    existing: StoredSubscription
    is_new: bool
    made_secret: str | None = field(default=None, repr=False)


class SubscriptionService:
    """Create, change, test and delete subscriptions; list and redeliver deliveries.

    - `sealer`: encrypts and opens signing secrets
    - `admission`: refuses addresses that may not be sent to
    - `has_mail_server`: whether e-mail can be sent
    - `now`: the clock, in UTC; `new_id`: creates an id; `random_bytes`: makes secrets
    """

    def __init__(
        self,
        database: Database,
        *,
        sealer: Sealer,
        admission: Admission,
        has_mail_server: bool = False,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._admission = admission
        self._has_mail_server = has_mail_server
        self._now = now
        self._new_id = new_id
        self._random_bytes = random_bytes

    async def list(self) -> tuple[StoredSubscription, ...]:
        """List all subscriptions by name."""
        async with self._database.reading() as session:
            return await SubscriptionStore(session).list()

    async def get(self, name: str) -> StoredSubscription:
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
        """Create or replace a subscription; without a secret the stored one stays, or one is created.

        An address as it was shown, with parts of it hidden, stands for the stored one. What had been switched off
        begins anew. An e-mail is signed with nothing. Raise `InvalidRequestError` (`host_not_allowed`,
        `secret_required`), `ConflictError` (`precondition_failed`).
        """
        self._check_receiver(subscription, secret)
        now, name = self._now(), subscription.name
        async with self._database.transaction() as session:
            store = SubscriptionStore(session)
            before = await store.find(name, for_update=True)
            check_version(before, expected_version)
            subscription, has_new_url = self._with_url(subscription, before)
            needs_none = subscription.is_email or secret is not None or (before is not None and before.secrets)
            made = None if needs_none else self._make_secret()
            text = secret.get_secret_value() if secret else made
            secrets = self._secrets(before, name, text, ends_at=now + overlap)
            is_new = await store.put(subscription, secrets, now=now)
            if not subscription.enabled:
                await DeliveryStore(session).give_up_pending(name, error="subscription_disabled", now=now)
            elif before is not None and before.subscription.is_email != subscription.is_email:
                await DeliveryStore(session).give_up_pending(name, error="subscription_changed", now=now)
            details = changes(before.subscription.as_shown if before else None, subscription.as_shown)
            if secrets_set := [*(["secret"] if text is not None else []), *(["url"] if has_new_url else [])]:
                details["secrets_set"] = secrets_set
            action = AuditAction.SUBSCRIPTION_CREATED if is_new else AuditAction.SUBSCRIPTION_CHANGED
            await AuditStore(session).add(AuditEntry(now, caller.name, action, name, details))
            existing = await store.get(name)
        log.info("subscription_entered", subscription=name, is_new=is_new, by=caller.name)
        return PutSubscription(existing, is_new, made)

    async def delete(self, name: str, *, expected_version: int | None, caller: Caller) -> None:
        """Delete a subscription and its deliveries; raise `NotFoundError`, `ConflictError` (`precondition_failed`)."""
        async with self._database.transaction() as session:
            store = SubscriptionStore(session)
            before = await store.get(name, for_update=True)
            check_version(before, expected_version)
            await store.delete(name)
            entry = AuditEntry(
                self._now(),
                caller.name,
                AuditAction.SUBSCRIPTION_DELETED,
                name,
                changes(before.subscription.as_shown, None),
            )
            await AuditStore(session).add(entry)
        log.info("subscription_removed", subscription=name, by=caller.name)

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
        """Redeliver a message, now and with all attempts anew.

        Raise `NotFoundError`, `ConflictError` (`subscription_disabled`).
        """
        async with self._database.transaction() as session:
            existing = await SubscriptionStore(session).get(name)
            known = await DeliveryStore(session).get(name, delivery)
            if known.is_of_subscription and not existing.subscription.enabled:
                raise ConflictError(f"{name!r} is switched off; enable it first", code="subscription_disabled")
            await DeliveryStore(session).send_again(delivery, now=self._now())
            return await DeliveryStore(session).get(name, delivery)

    async def test(self, name: str) -> Delivery:
        """Send a test message, once, even where the subscription is disabled; raise `NotFoundError`."""
        async with self._database.transaction() as session:
            existing = await SubscriptionStore(session).get(name)
            return await self._add_test(session, existing.subscription)

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

    def _with_url(self, new: Subscription, before: StoredSubscription | None) -> tuple[Subscription, bool]:
        """Return a subscription with its address sealed, and whether that is a new one."""
        if new.url is None:
            return new, False
        name, known = new.name, before.subscription.url if before is not None else None
        if known is not None and new.url == shown_url(known):
            url = known if sealed_token(known) is not None else seal_url(self._sealer, name, known)
            return new.model_copy(update={"url": url}), False
        if is_masked(new.url):
            detail = "this is an address as it was shown, with parts of it hidden: send it whole"
            raise InvalidRequestError(
                detail, errors=(FieldError("/url", "secret_required", detail),), code="secret_required"
            )
        return new.model_copy(update={"url": seal_url(self._sealer, name, new.url)}), True

    def _check_receiver(self, subscription: Subscription, secret: SecretStr | None) -> None:
        errors = list(subscription.receiver_errors())
        if subscription.is_email and not self._has_mail_server:
            errors.append(FieldError("/format", "email_not_set_up", _NO_MAIL_SERVER))
        if subscription.is_email and secret is not None:
            errors.append(FieldError("/secret", "invalid_value", "an e-mail is not signed; leave the secret out"))
        if errors:
            raise InvalidRequestError(errors[0].detail, errors=tuple(errors))
        if subscription.url is not None:
            self._admission.check_notify_url("/url", subscription.url)

    def _secrets(
        self, before: StoredSubscription | None, name: str, text: str | None, *, ends_at: datetime
    ) -> tuple[StoredSecret, ...]:
        known = before.secrets if before else ()
        if text is None or (before and self._signs_first(before, text)):
            return known
        return with_new_secret(known, seal_secret(self._sealer, name, text), now=self._now(), ends_at=ends_at)

    def _signs_first(self, existing: StoredSubscription, text: str) -> bool:
        try:
            opened = open_secrets(self._sealer, existing, now=self._now())
        except UnavailableError:
            return False  # then this one takes its place
        return bool(opened) and hmac.compare_digest(opened[0], text)

    def _make_secret(self) -> str:
        return SECRET_PREFIX + base64.b64encode(self._random_bytes(SECRET_BYTES)).decode()


def with_new_secret(
    known: tuple[StoredSecret, ...], token: str, *, now: datetime, ends_at: datetime
) -> tuple[StoredSecret, ...]:
    """Return the secrets with a new one first; older ones end at `ends_at`, and at most `MAX_SECRETS` stay."""
    older = (StoredSecret(one.token, min(one.ends_at or ends_at, ends_at)) for one in known)
    return (StoredSecret(token), *[one for one in older if one.is_good(now)][: MAX_SECRETS - 1])
