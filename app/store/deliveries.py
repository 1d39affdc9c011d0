"""Deliveries (the outbox): written in the transaction of the change they report, and sent when they are due.

A claim makes a delivery due again a little later, so that what a killed process had claimed is sent by another one; the
fence keeps the word of a claim that was overtaken from counting.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Row, Select, delete, select, update

from app.domain.dead_letter import AttemptOutcome
from app.domain.errors import NotFoundError
from app.domain.notification import Delivery, DeliveryFilter, DeliveryState, EventType
from app.domain.page import Page, PageRequest, cursor_after
from app.store.db.column_types import is_id
from app.store.db.database import Session, insert_into
from app.store.tables.declarative import table_of
from app.store.tables.notifications import DeliveryRow

LOOKED_AT = 100
"""Due deliveries that one claim looks at, to find some of several subscriptions."""
_deliveries = table_of(DeliveryRow)


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that is ours to send, and the fence it was claimed under."""

    delivery: Delivery
    number: int
    fence: int


class DeliveryStore:
    """Deliveries in the transaction of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, deliveries: Sequence[Delivery]) -> None:
        """Put messages into the outbox; those that are there already stay as they are."""
        if deliveries:
            statement = insert_into(self._session, _deliveries).values([_row(delivery) for delivery in deliveries])
            await self._session.execute(statement.on_conflict_do_nothing(index_elements=["id"]))

    async def known(self, ids: Collection[str]) -> set[str]:
        """Return which of some messages are there, in whatever state."""
        found = await self._session.execute(select(_deliveries.c.id).where(_deliveries.c.id.in_(list(ids))))
        return set(found.scalars())

    async def has_due(self, *, now: datetime, without: Collection[str]) -> bool:
        """Return whether anything is due, of other subscriptions than these."""
        return (await self._session.execute(_due(now, without).limit(1))).first() is not None

    async def claim_due(
        self, *, now: datetime, lease: timedelta, limit: int, each: int, without: Collection[str]
    ) -> tuple[ClaimedDelivery, ...]:
        """Claim what is due, the oldest first: so many in all, so many of each subscription, none of some."""
        rows = (
            await self._session.execute(_due(now, without).limit(LOOKED_AT).with_for_update(skip_locked=True))
        ).all()
        counts: dict[str, int] = {}

        def has_room(row: Row[Any]) -> bool:
            counts[row.subscription] = counts.get(row.subscription, 0) + 1
            return counts[row.subscription] <= each

        chosen = list(islice(filter(has_room, rows), limit))
        claim = {"due_at": now + lease, "attempted_at": now}
        mine = update(_deliveries).where(_deliveries.c.number.in_([row.number for row in chosen]))
        await self._session.execute(
            mine.values(fence=_deliveries.c.fence + 1, attempts=_deliveries.c.attempts + 1, **claim)
        )
        return tuple(
            ClaimedDelivery(
                replace(_delivery(row), attempts=row.attempts + 1, attempted_at=now), row.number, row.fence + 1
            )
            for row in chosen
        )

    async def record(
        self, claim: ClaimedDelivery, outcome: AttemptOutcome, *, state: DeliveryState, due_at: datetime, now: datetime
    ) -> bool:
        """Note how an attempt ended; return False where the claim was overtaken and nothing is noted."""
        locked = (_deliveries.c.number == claim.number) & (_deliveries.c.fence == claim.fence)
        pending = _deliveries.c.state == DeliveryState.PENDING
        statement = update(_deliveries).where(locked, pending).returning(_deliveries.c.number)
        values = {
            "state": state,
            "due_at": due_at,
            "status": outcome.status,
            "error": outcome.reason,
            "finished_at": None if state is DeliveryState.PENDING else now,
        }
        return (await self._session.execute(statement, values)).one_or_none() is not None

    async def get(self, subscription: str, delivery_id: str) -> Delivery:
        """Read a delivery; raise `NotFoundError`."""
        mine = (_deliveries.c.subscription == subscription) & (_deliveries.c.id == delivery_id)
        row = (await self._session.execute(select(_deliveries).where(mine))).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no delivery {delivery_id[:64]!r} of {subscription[:64]!r}")
        return _delivery(row)

    async def list(self, subscription: str, wanted: DeliveryFilter, page: PageRequest) -> Page[Delivery]:
        """Read a page of a subscription's deliveries, newest first."""
        bound_to = repr((subscription, wanted))
        statement = select(_deliveries).where(_deliveries.c.subscription == subscription)
        if wanted.state is not None:
            statement = statement.where(_deliveries.c.state == wanted.state)
        if wanted.event is not None:
            statement = statement.where(_deliveries.c.event == wanted.event)
        if wanted.job_id is not None:
            if not is_id(wanted.job_id):
                return Page(())
            statement = statement.where(_deliveries.c.job_id == wanted.job_id)
        if (after := page.after(bound_to)) is not None:
            statement = statement.where(_deliveries.c.number < int(after[0]))
        statement = statement.order_by(_deliveries.c.number.desc()).limit(page.limit + 1)
        rows = (await self._session.execute(statement)).all()
        items = tuple(_delivery(row) for row in rows[: page.limit])
        is_last = len(rows) <= page.limit
        return Page(items, None if is_last else cursor_after((rows[page.limit - 1].number,), bound_to=bound_to))

    async def send_again(self, delivery_id: str, *, now: datetime) -> None:
        """Make a delivery due at once, with all its attempts before it."""
        mine = update(_deliveries).where(_deliveries.c.id == delivery_id)
        values = {"state": DeliveryState.PENDING, "due_at": now, "attempts": 0, "finished_at": None}
        await self._session.execute(mine.values(fence=_deliveries.c.fence + 1, **values))

    async def give_up_pending(self, subscription: str, *, error: str, now: datetime) -> None:
        """End what still waits for a subscription's own endpoint; what goes to jobs' own addresses goes on."""
        waiting = (_deliveries.c.state == DeliveryState.PENDING) & _deliveries.c.url.is_(None)
        mine = update(_deliveries).where(_deliveries.c.subscription == subscription, waiting)
        await self._session.execute(mine.values(state=DeliveryState.FAILED, error=error, finished_at=now))

    async def delete_finished_before(self, moment: datetime, *, limit: int) -> int:
        """Delete deliveries that ended before a moment; return how many that were."""
        old = select(_deliveries.c.number).where(_deliveries.c.finished_at < moment).limit(limit)
        statement = delete(_deliveries).where(_deliveries.c.number.in_(old)).returning(_deliveries.c.number)
        return len((await self._session.execute(statement)).all())


def _due(now: datetime, without: Collection[str]) -> Select[Any]:
    is_due = (_deliveries.c.state == DeliveryState.PENDING) & (_deliveries.c.due_at <= now)
    statement = select(_deliveries).where(is_due).order_by(_deliveries.c.due_at, _deliveries.c.number)
    return statement.where(_deliveries.c.subscription.not_in(without)) if without else statement


def _row(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "subscription": delivery.subscription,
        "event": delivery.event,
        "job_id": delivery.job_id,
        "url": delivery.url,
        "traceparent": delivery.traceparent,
        "body": delivery.body,
        "format": delivery.format,
        "state": delivery.state,
        "due_at": delivery.due_at,
        "fence": 0,
        "attempts": 0,
        "created_at": delivery.created_at,
    }


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        subscription=row.subscription,
        event=EventType(row.event),
        job_id=row.job_id,
        body=row.body,
        format=row.format,
        created_at=row.created_at,
        due_at=row.due_at,
        url=row.url,
        traceparent=row.traceparent,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        attempted_at=row.attempted_at,
        finished_at=row.finished_at,
        status=row.status,
        error=row.error,
    )
