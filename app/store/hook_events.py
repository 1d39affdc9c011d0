"""Push events: recorded once each, claimed for their jobs, listed, and deleted after a while."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.hook_event import HookEvent, HookEventFilter, HookEventState
from app.domain.page import Page, PageRequest, cursor_after
from app.domain.push_event import Dialect
from app.domain.reference import Digest, Tag
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.policies import HookEventRow

CLAIMED_AT_ONCE = 500
"""SQLite takes 32,766 parameters in one statement; an event has less than twenty."""

_events = table_of(HookEventRow)


class HookEventStore:
    """Push events in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, event: HookEvent) -> None:
        """Record an event that nothing has to be known by."""
        await self._session.execute(insert(_events), _row(event))

    async def claim(self, events: Sequence[HookEvent], keys: Mapping[str, str]) -> dict[str, str]:
        """Record events unless they came before; return for each the id of what is recorded. `keys` are by event id.

        Of several deliveries that race, one waits here until another has committed.
        """
        rows = sorted((_row(event) | {"dedupe_key": keys[event.id]} for event in events), key=_claim_order)
        recorded: dict[str, str] = {}
        for chunk in (rows[start : start + CLAIMED_AT_ONCE] for start in range(0, len(rows), CLAIMED_AT_ONCE)):
            statement = insert_into(self._session, _events).values(chunk)
            statement = statement.on_conflict_do_nothing(index_elements=["registry_name", "dedupe_key"])
            fresh = set((await self._session.execute(statement.returning(_events.c.id))).scalars())
            recorded |= {event_id: event_id for event_id in fresh}
            if again := [row for row in chunk if row["id"] not in fresh]:
                known = await self._find_claimed(again)
                recorded |= {row["id"]: known[row["registry_name"], row["dedupe_key"]] for row in again}
        return recorded

    async def _find_claimed(self, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
        registries, keys = {row["registry_name"] for row in rows}, {row["dedupe_key"] for row in rows}
        same = _events.c.registry_name.in_(registries) & _events.c.dedupe_key.in_(keys)
        found = await self._session.execute(
            select(_events.c.registry_name, _events.c.dedupe_key, _events.c.id).where(same)
        )
        return {(row.registry_name, row.dedupe_key): row.id for row in found}

    async def has_received(self, *, without: Collection[str]) -> bool:
        """Return whether events wait to be made jobs of, other than some."""
        return (await self._session.execute(_received(without))).first() is not None

    async def claim_received(self, *, without: Collection[str]) -> HookEvent | None:
        """Lock the oldest event that waits for its jobs, other than some and those locked already (`SKIP LOCKED`)."""
        row = (await self._session.execute(_received(without).with_for_update(skip_locked=True))).one_or_none()
        return None if row is None else _event(row)

    async def settle(self, event: HookEvent) -> None:
        """Record what became of an event."""
        mine = update(_events).where(_events.c.id == event.id)
        changed = {"state": event.state, "reason": event.reason, "detail": event.detail, "jobs": list(event.jobs)}
        await self._session.execute(mine, changed)

    async def find_last_push(self, event: HookEvent, *, since: datetime) -> HookEvent | None:
        """Read the latest event about the same tag of the same repository."""
        same = (
            (_events.c.registry_name == event.registry)
            & (_events.c.repository == event.repository)
            & (_events.c.tag == event.tag)
            & (_events.c.received_at >= since)
            & (_events.c.state != HookEventState.DUPLICATE)
        )
        statement = select(_events).where(same).order_by(_events.c.number.desc()).limit(1)
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else _event(row)

    async def list(
        self, wanted: HookEventFilter, page: PageRequest, *, registries: Collection[str] | None = None
    ) -> Page[HookEvent]:
        """Read a page of events, newest first, of some registries or of all."""
        bound_to = repr(wanted)
        after = page.after(bound_to)
        statement = select(_events).order_by(_events.c.number.desc()).limit(page.limit + 1)
        if registries is not None:
            statement = statement.where(_events.c.registry_name.in_(registries))
        if wanted.registry is not None:
            statement = statement.where(_events.c.registry_name == wanted.registry)
        if wanted.state is not None:
            statement = statement.where(_events.c.state == wanted.state)
        if after is not None:
            statement = statement.where(_events.c.number < int(after[0]))
        rows = (await self._session.execute(statement)).all()
        items = tuple(_event(row) for row in rows[: page.limit])
        if len(rows) <= page.limit:
            return Page(items)
        return Page(items, cursor_after((rows[page.limit - 1].number,), bound_to=bound_to))

    async def delete_before(self, moment: datetime, *, limit: int) -> int:
        """Delete a few events that arrived before a moment; return how many."""
        old = select(_events.c.number).where(_events.c.received_at < moment).limit(limit)
        statement = delete(_events).where(_events.c.number.in_(old.scalar_subquery())).returning(_events.c.number)
        return len((await self._session.execute(statement)).all())


def _claim_order(row: Mapping[str, Any]) -> tuple[str, str]:
    # The same in all processes: two that record the same events never wait for each other.
    return row["registry_name"], row["dedupe_key"]


def _received(without: Collection[str]) -> Select[Any]:
    # The state is written out: only so is it seen that the index of those that wait is about this.
    waiting = (_events.c.state == literal_column("'received'")) & _events.c.id.not_in(without)
    return select(_events).where(waiting).order_by(_events.c.number).limit(1)


def _row(event: HookEvent) -> dict[str, Any]:
    columns = asdict(event) | {"jobs": list(event.jobs), "registry_name": event.registry}
    del columns["registry"]
    return columns


def _event(row: Row[Any]) -> HookEvent:
    return HookEvent(
        id=row.id,
        registry=row.registry_name,
        format=Dialect(row.format),
        received_at=row.received_at,
        state=HookEventState(row.state),
        reason=row.reason,
        detail=row.detail,
        action=row.action,
        repository=row.repository,
        tag=Tag(row.tag) if row.tag else None,
        digest=Digest(row.digest) if row.digest else None,
        user_agent=row.user_agent,
        event_id=row.event_id,
        occurred_at=row.occurred_at,
        jobs=tuple(row.jobs),
    )
