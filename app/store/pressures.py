"""How hard registries may be asked: what one worker has found out, for the others to go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.tables import RegistryPressureRow, table_of
from app.store.upsert import insert_into

_pressures = table_of(RegistryPressureRow)


@dataclass(frozen=True, slots=True)
class SharedPressure:
    """The window and the pause of one registry."""

    window: float
    changed_at: datetime
    paused_until: datetime | None


class PressureStore:
    """Pressures by the name of the registry's entry, in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def share(self, pressures: Mapping[str, SharedPressure], *, now: datetime) -> None:
        """Tell what was found out: of two windows the later one stands, of two pauses the longer one."""
        for name, pressure in sorted(pressures.items()):
            statement = insert_into(self._session, _pressures).values(
                name=name,
                window=pressure.window,
                changed_at=pressure.changed_at,
                paused_until=pressure.paused_until,
                updated_at=now,
            )
            new = statement.excluded
            is_later = new.changed_at > _pressures.c.changed_at
            is_longer = or_(_pressures.c.paused_until.is_(None), new.paused_until > _pressures.c.paused_until)
            changed = {
                "window": case((is_later, new.window), else_=_pressures.c.window),
                "changed_at": case((is_later, new.changed_at), else_=_pressures.c.changed_at),
                "paused_until": case((is_longer, new.paused_until), else_=_pressures.c.paused_until),
                "updated_at": new.updated_at,
            }
            await self._session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))

    async def list_changed_since(self, moment: datetime) -> dict[str, SharedPressure]:
        """Read what has been told since a moment."""
        rows = await self._session.execute(select(_pressures).where(_pressures.c.updated_at > moment))
        return {row.name: SharedPressure(row.window, row.changed_at, row.paused_until) for row in rows}

    async def delete_before(self, moment: datetime) -> None:
        """Forget registries that nobody has said anything of since a moment."""
        await self._session.execute(delete(_pressures).where(_pressures.c.updated_at < moment))
