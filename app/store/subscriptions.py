"""Subscriptions; their secrets and addresses are stored sealed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from app.domain.errors import NotFoundError
from app.domain.notification import StoredSecret, StoredSubscription, Subscription
from app.domain.notify_url import sealed_token, with_sealed
from app.security import Sealer
from app.store.db.database import Session
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobRow
from app.store.tables.notifications import DeliveryRow, SubscriptionRow

_subscriptions = table_of(SubscriptionRow)
_deliveries, _jobs = table_of(DeliveryRow), table_of(JobRow)


class SubscriptionStore:
    """Subscriptions in the transaction of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, subscription: Subscription, secrets: Sequence[StoredSecret], *, now: datetime) -> bool:
        """Create or replace a subscription, as one that neither fails nor was disabled; return whether it is new."""
        values = {
            "document": _document(subscription),
            "secrets": [_secret_document(secret) for secret in secrets],
            "failing_since": None,
            "disabled_at": None,
            "disabled_reason": None,
            "updated_at": now,
        }
        mine = update(_subscriptions).where(_subscriptions.c.name == subscription.name)
        changed = mine.values(version=_subscriptions.c.version + 1).returning(_subscriptions.c.name)
        if (await self._session.execute(changed, values)).one_or_none() is not None:
            return False
        await self._session.execute(insert(_subscriptions), {"name": subscription.name, "created_at": now, **values})
        return True

    async def find(self, name: str, *, for_update: bool = False) -> StoredSubscription | None:
        """Return a subscription or None; with `for_update` it is locked against changes until the commit."""
        wanted = select(_subscriptions).where(_subscriptions.c.name == name)
        locked = wanted.with_for_update(key_share=True)  # so that jobs can end meanwhile, see list_for_writing
        row = (await self._session.execute(locked if for_update else wanted)).one_or_none()
        return None if row is None else _stored(row)

    async def get(self, name: str, *, for_update: bool = False) -> StoredSubscription:
        """Read a subscription; raise `NotFoundError`."""
        existing = await self.find(name, for_update=for_update)
        if existing is None:
            raise NotFoundError(f"there is no subscription {name[:64]!r}")
        return existing

    async def list(self) -> tuple[StoredSubscription, ...]:
        """Read all subscriptions, by name."""
        rows = await self._session.execute(select(_subscriptions).order_by(_subscriptions.c.name))
        return tuple(_stored(row) for row in rows)

    async def list_for_writing(self) -> tuple[StoredSubscription, ...]:
        """Read all, in no order, and see to it that none is removed before the transaction ends; changes may happen."""
        statement = select(_subscriptions).with_for_update(read=True, key_share=True)
        return tuple(_stored(row) for row in await self._session.execute(statement))

    async def note_taken(self, name: str) -> None:
        """Note that the endpoint took something."""
        failing = (_subscriptions.c.name == name) & _subscriptions.c.failing_since.is_not(None)
        await self._session.execute(update(_subscriptions).where(failing).values(failing_since=None))

    async def note_failure(self, name: str, *, now: datetime) -> None:
        """Note that the endpoint did not take something; the first time counts."""
        well = (_subscriptions.c.name == name) & _subscriptions.c.failing_since.is_(None)
        await self._session.execute(update(_subscriptions).where(well).values(failing_since=now))

    async def disable(self, existing: StoredSubscription, *, reason: str, now: datetime) -> None:
        """Switch a held subscription off, and say why."""
        document = _document(existing.subscription.model_copy(update={"enabled": False}))
        mine = update(_subscriptions).where(_subscriptions.c.name == existing.subscription.name)
        values = {"document": document, "disabled_at": now, "disabled_reason": reason, "updated_at": now}
        await self._session.execute(mine.values(version=_subscriptions.c.version + 1, **values))

    async def rotate(self, sealer: Sealer) -> int:
        """Seal all secrets anew, with the newest key; return how many subscriptions that were."""
        rows = (await self._session.execute(select(_subscriptions).with_for_update(key_share=True))).all()
        for row in rows:
            secrets = [document | {"token": sealer.rotate(document["token"])} for document in row.secrets]
            document, url = row.document, row.document["url"]
            if url is not None:
                document = document | {"url": seal_url(sealer, row.name, open_url(sealer, row.name, url))}
            mine = update(_subscriptions).where(_subscriptions.c.name == row.name)
            await self._session.execute(mine, {"secrets": secrets, "document": document})
        await self._rotate_notify_urls(sealer)
        return len(rows)

    async def _rotate_notify_urls(self, sealer: Sealer) -> None:
        """Seal anew what jobs that are not done bring along, and what is still to be delivered."""
        jobs = select(_jobs.c.number, _jobs.c.notify).where(_jobs.c.notify.is_not(None), _jobs.c.finished_at.is_(None))
        for row in (await self._session.execute(jobs.with_for_update(key_share=True))).all():
            if row.notify is not None:
                name = row.notify["subscription"]
                url = seal_url(sealer, name, open_url(sealer, name, row.notify["url"]))
                mine = update(_jobs).where(_jobs.c.number == row.number)
                await self._session.execute(mine, {"notify": row.notify | {"url": url}})
        waiting = select(_deliveries.c.number, _deliveries.c.subscription, _deliveries.c.url).where(
            _deliveries.c.url.is_not(None), _deliveries.c.finished_at.is_(None)
        )
        for number, name, stored in (await self._session.execute(waiting.with_for_update(key_share=True))).all():
            url = seal_url(sealer, name, open_url(sealer, name, stored))
            await self._session.execute(update(_deliveries).where(_deliveries.c.number == number), {"url": url})

    async def delete(self, name: str) -> None:
        """Remove a subscription and its deliveries; raise `NotFoundError`."""
        statement = delete(_subscriptions).where(_subscriptions.c.name == name).returning(_subscriptions.c.name)
        if (await self._session.execute(statement)).one_or_none() is None:
            raise NotFoundError(f"there is no subscription {name[:64]!r}")


def seal_secret(sealer: Sealer, name: str, secret: str) -> str:
    """Seal a subscription's secret."""
    return sealer.seal(secret, context=_context(name))


def open_secrets(sealer: Sealer, existing: StoredSubscription, *, now: datetime) -> tuple[str, ...]:
    """Open the secrets that sign now, newest first; raise `UnavailableError` where no key fits."""
    context = _context(existing.subscription.name)
    return tuple(sealer.unseal(secret.token, context=context) for secret in existing.secrets if secret.is_good(now))


def seal_url(sealer: Sealer, name: str, url: str) -> str:
    """Seal an address that is sent to for a subscription: its own, or one that a job brings along."""
    return with_sealed(url, sealer.seal(url, context=_url_context(name)))


def open_url(sealer: Sealer, name: str, url: str) -> str:
    """Return the address to send to; raise `UnavailableError` where no key fits."""
    token = sealed_token(url)
    return url if token is None else sealer.unseal(token, context=_url_context(name))


def _url_context(name: str) -> str:
    return f"subscription/{name}/url"


def _context(name: str) -> str:
    return f"subscription/{name}/secret"


def _document(subscription: Subscription) -> dict[str, Any]:
    """Write a subscription; what is for e-mail only is left out of others, which the release before can then read."""
    left_out = {"name"} if subscription.is_email else {"name", "to"}
    return subscription.model_dump(mode="json", exclude=left_out)


def _stored(row: Row[Any]) -> StoredSubscription:
    return StoredSubscription(
        subscription=Subscription.model_validate({"name": row.name, **row.document}),
        secrets=tuple(_read_secret(document) for document in row.secrets),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        failing_since=row.failing_since,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
    )


def _secret_document(secret: StoredSecret) -> dict[str, Any]:
    return {"token": secret.token, "ends_at": secret.ends_at.isoformat() if secret.ends_at else None}


def _read_secret(document: dict[str, Any]) -> StoredSecret:
    ends_at = document["ends_at"]
    return StoredSecret(document["token"], datetime.fromisoformat(ends_at) if ends_at else None)
