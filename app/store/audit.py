"""The audit log: entries are added in the transaction of the change they describe, and read; nothing else."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, Select, insert, select

from app.domain.audit import AuditAction, AuditEntry, AuditFilter
from app.store.db.database import Session
from app.store.db.paging import Page, PageRequest, cursor_after
from app.store.tables.access import AuditRow
from app.store.tables.declarative import table_of

_log = table_of(AuditRow)


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


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(row.at, row.actor, AuditAction(row.action), row.target, row.details, row.number)
