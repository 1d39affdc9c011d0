"""Destination tags in use: held by the unit that writes one, and marked by who wrote it last.

Two jobs that want the same tag do not fight. While one writes it the other waits; and what a later job has written, an
earlier one that comes to it afterwards leaves alone: the outcome is the later request's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from sqlalchemy import case, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.tables import DestinationHoldRow, JobRow, UnitRow, table_of
from app.store.upsert import insert_into

_holds = table_of(DestinationHoldRow)
_jobs = table_of(JobRow)
_units = table_of(UnitRow)


class DestinationStore:
    """Holds of destination tags in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def hold(self, destinations: Collection[str], *, unit_id: int) -> dict[str, int]:
        """Hold what is free of these; return what is held, each with the number of the job that wrote it last, or 0."""
        if not destinations:
            return {}
        keys = {_key(text): text for text in destinations}
        rows = [{"key": key, "unit_id": unit_id} for key in sorted(keys)]
        statement = insert_into(self._session, _holds).values(rows)
        statement = statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"unit_id": statement.excluded.unit_id},
            where=or_(_holds.c.unit_id.is_(None), _holds.c.unit_id == statement.excluded.unit_id),
        )
        held = await self._session.execute(statement.returning(_holds.c.key, _holds.c.written_by))
        return {keys[row.key]: row.written_by for row in held}

    async def release(self, destinations: Collection[str], *, unit_id: int, written_by: int = 0) -> None:
        """Let go of what a unit holds of these; `written_by` is the job that has written them, 0 for none.

        Who has written is remembered as long as an earlier job may come to the same destination.
        """
        if not destinations:
            return
        mine = _holds.c.key.in_(sorted(_key(text) for text in destinations)) & (_holds.c.unit_id == unit_id)
        earlier = _jobs.c.state.in_(["queued", "running"]) & (_jobs.c.number < written_by)
        unwanted = (_holds.c.written_by == 0) & ~select(_jobs.c.number).where(earlier).exists()
        gone = await self._session.execute(delete(_holds).where(mine, unwanted).returning(_holds.c.key))
        if len(gone.all()) < len(destinations):
            latest = case((_holds.c.written_by < written_by, written_by), else_=_holds.c.written_by)
            free = {"unit_id": None, "written_by": latest}
            await self._session.execute(update(_holds).where(mine).values(**free))

    async def tidy(self) -> None:
        """Drop marks that no unfinished job is early enough to need, and what ended units may have left held."""
        at_work = select(_units.c.id).where(_units.c.state != "done")
        left = _holds.c.unit_id.is_not(None) & _holds.c.unit_id.not_in(at_work)
        await self._session.execute(update(_holds).where(left).values(unit_id=None))
        unfinished = _jobs.c.state.in_(["queued", "running"]) & (_jobs.c.number < _holds.c.written_by)
        unwanted = _holds.c.unit_id.is_(None) & ~select(_jobs.c.number).where(unfinished).exists()
        await self._session.execute(delete(_holds).where(unwanted))


def _key(destination: str) -> bytes:
    return hashlib.blake2b(destination.encode(), digest_size=16).digest()
