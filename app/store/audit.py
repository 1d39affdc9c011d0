"""The audit log: entries are added in the transaction of the change they describe, links of its chain after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, Select, func, insert, select, text

from app.domain.audit import AuditAction, AuditContext, AuditEntry, AuditFilter, AuditLink
from app.store.db.database import Session
from app.store.db.paging import Page, PageRequest, cursor_after
from app.store.tables.access import AuditLinkRow, AuditRow
from app.store.tables.declarative import table_of

_log, _links = table_of(AuditRow), table_of(AuditLinkRow)
_LOCK = 7_202_153_040_918
"""An advisory lock's number: one process at a time adds links."""


class AuditStore:
    """The log in the transaction of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, *entries: AuditEntry) -> None:
        """Write down that something was changed."""
        rows = [
            {
                "at": entry.at,
                "actor": entry.actor,
                "action": entry.action,
                "target": entry.target,
                "details": dict(entry.details),
                "peer": entry.context.peer,
                "key_id": entry.context.key_id,
                "request_id": entry.context.request_id,
            }
            for entry in entries
        ]
        await self._session.execute(insert(_log), rows)

    async def list(self, wanted: AuditFilter, page: PageRequest) -> Page[AuditEntry]:
        """Read a page of the log, newest first."""
        bound_to = repr(wanted)
        statement = _matching(wanted).order_by(_log.c.number.desc()).limit(page.limit + 1)
        if (after := page.after(bound_to)) is not None:
            statement = statement.where(_log.c.number < int(after[0]))
        rows = (await self._session.execute(statement)).all()
        items = tuple(_entry(row) for row in rows[: page.limit])
        is_last = len(rows) <= page.limit
        return Page(items, None if is_last else cursor_after((items[-1].number,), bound_to=bound_to))

    async def lock_chain(self) -> bool:
        """Keep others from adding links until the transaction ends; return False where another process does."""
        if self._session.get_bind().dialect.name == "sqlite":
            return True  # there is one writer at a time
        locked = await self._session.execute(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": _LOCK})
        return bool(locked.scalar_one())

    async def find_last_link(self) -> AuditLink | None:
        """Read the end of the chain; None for an empty one."""
        row = (await self._session.execute(select(_links).order_by(_links.c.position.desc()).limit(1))).one_or_none()
        return None if row is None else _link(row)

    async def list_unlinked(self, *, after: int, limit: int) -> tuple[AuditEntry, ...]:
        """List entries with numbers above one that no link is for, by number."""
        is_linked = select(_links.c.number).where(_links.c.number == _log.c.number).exists()
        statement = select(_log).where(_log.c.number > after, ~is_linked).order_by(_log.c.number).limit(limit)
        return tuple(_entry(row) for row in await self._session.execute(statement))

    async def count_unlinked(self) -> int:
        """Count the entries that no link is for."""
        is_linked = select(_links.c.number).where(_links.c.number == _log.c.number).exists()
        return int((await self._session.execute(select(func.count()).select_from(_log).where(~is_linked))).scalar_one())

    async def add_links(self, links: Sequence[AuditLink]) -> None:
        """Add links to the end of the chain."""
        await self._session.execute(insert(_links), [asdict(link) for link in links])

    async def list_linked(self, *, after: int, limit: int) -> tuple[tuple[AuditLink, AuditEntry | None], ...]:
        """List links above a position, each with its entry; None for one that is gone."""
        statement = (
            select(_links, *[column.label(f"log_{column.name}") for column in _log.c])
            .outerjoin(_log, _log.c.number == _links.c.number)
            .where(_links.c.position > after)
            .order_by(_links.c.position)
            .limit(limit)
        )
        rows = await self._session.execute(statement)
        return tuple((_link(row), None if row.log_number is None else _entry(row, "log_")) for row in rows)


def _link(row: Row[Any]) -> AuditLink:
    return AuditLink(row.position, row.number, row.hash, row.key)


def _matching(wanted: AuditFilter) -> Select[Any]:
    statement = select(_log)
    if wanted.actor is not None:
        statement = statement.where(_log.c.actor == wanted.actor)
    if wanted.action is not None:
        statement = statement.where(_log.c.action == wanted.action)
    if wanted.target is not None:
        statement = statement.where(_log.c.target == wanted.target)
    if wanted.since is not None:
        statement = statement.where(_log.c.at >= wanted.since)
    return statement


def _entry(row: Row[Any], prefix: str = "") -> AuditEntry:
    def value(name: str) -> Any:
        return getattr(row, f"{prefix}{name}")

    return AuditEntry(
        value("at"),
        value("actor"),
        AuditAction(value("action")),
        value("target"),
        value("details"),
        value("number"),
        AuditContext(value("peer"), value("key_id"), value("request_id")),
    )
