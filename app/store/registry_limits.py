"""Limits of registries that workers share: windows and pauses that one has found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.registries import RegistryLimitRow

_limits = table_of(RegistryLimitRow)


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """The window and the pause of one registry."""

    window: float
    changed_at: datetime
    paused_until: datetime | None


class RegistryLimitStore:
    """Shared limits by the name of the registry's entry, in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def share(self, limits: Mapping[str, SharedLimit], *, now: datetime) -> None:
        """Share limits: of two windows the later one stands, of two pauses the longer one."""
        for name, limit in sorted(limits.items()):
            statement = insert_into(self._session, _limits).values(
                name=name,
                window=limit.window,
                changed_at=limit.changed_at,
                paused_until=limit.paused_until,
                updated_at=now,
            )
            new = statement.excluded
            is_later = new.changed_at > _limits.c.changed_at
            is_longer = or_(_limits.c.paused_until.is_(None), new.paused_until > _limits.c.paused_until)
            changed = {
                "window": case((is_later, new.window), else_=_limits.c.window),
                "changed_at": case((is_later, new.changed_at), else_=_limits.c.changed_at),
                "paused_until": case((is_longer, new.paused_until), else_=_limits.c.paused_until),
                "updated_at": new.updated_at,
            }
            await self._session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))

    async def list_changed_since(self, moment: datetime) -> dict[str, SharedLimit]:
        """Return what was shared since a moment."""
        rows = await self._session.execute(select(_limits).where(_limits.c.updated_at > moment))
        return {row.name: SharedLimit(row.window, row.changed_at, row.paused_until) for row in rows}

    async def delete_before(self, moment: datetime) -> None:
        """Delete limits that were not shared since a moment."""
        await self._session.execute(delete(_limits).where(_limits.c.updated_at < moment))
