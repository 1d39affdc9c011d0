"""Destination locks: a single writer for each destination tag, and the job that wrote it last.

Two jobs that want the same tag do not fight. While one writes it the other waits; and what a later job has written, an
earlier one that comes to it afterwards leaves alone (`superseded`): the outcome is the later request's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from sqlalchemy import bindparam, case, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.jobs import DestinationLockRow, JobRow, UnitRow

_holds = table_of(DestinationLockRow)
_jobs = table_of(JobRow)
_units = table_of(UnitRow)
# Made once: they are wide, and executed for every unit.
_MINE = _holds.c.key.in_(bindparam("keys", expanding=True)) & (_holds.c.unit_id == bindparam("of_unit"))
_EARLIER = _jobs.c.state.in_(["queued", "running"]) & (_jobs.c.number < bindparam("writer"))
_UNWANTED = (_holds.c.written_by == 0) & ~select(_jobs.c.number).where(_EARLIER).exists()
_DROP = delete(_holds).where(_MINE, _UNWANTED).returning(_holds.c.key)
_LATEST = case((_holds.c.written_by < bindparam("writer"), bindparam("writer")), else_=_holds.c.written_by)
_FREE = update(_holds).where(_MINE).values(unit_id=None, written_by=_LATEST)


class DestinationLockStore:
    """Locks of destination tags in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self, destinations: Collection[str], *, unit_id: int) -> dict[str, int]:
        """Lock what is free of these; return what is locked, with the number of the job that wrote it last, or 0."""
        if not destinations:
            return {}
        keys = {_key(text): text for text in destinations}
        rows = [{"key": key, "unit_id": unit_id} for key in sorted(keys)]
        statement = insert_into(self._session, _holds)
        statement = statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"unit_id": statement.excluded.unit_id},
            where=or_(_holds.c.unit_id.is_(None), _holds.c.unit_id == statement.excluded.unit_id),
        )
        locked = await self._session.execute(statement.returning(_holds.c.key, _holds.c.written_by), rows)
        return {keys[row.key]: row.written_by for row in locked}

    async def release(self, destinations: Collection[str], *, unit_id: int, written_by: int = 0) -> None:
        """Release what a unit has locked of these; `written_by` is the job that has written them, 0 for none.

        Who has written is remembered as long as an earlier job may come to the same destination.
        """
        if not destinations:
            return
        keys = sorted(_key(text) for text in destinations)
        mine = {"keys": keys, "of_unit": unit_id, "writer": written_by}
        gone = await self._session.execute(_DROP, mine)
        if len(gone.all()) < len(destinations):
            await self._session.execute(_FREE, mine)

    async def delete_unused(self) -> None:
        """Drop marks that no unfinished job is early enough to need, and what ended units may have left held."""
        at_work = select(_units.c.id).where(_units.c.state != "done")
        left = _holds.c.unit_id.is_not(None) & _holds.c.unit_id.not_in(at_work)
        await self._session.execute(update(_holds).where(left).values(unit_id=None))
        unfinished = _jobs.c.state.in_(["queued", "running"]) & (_jobs.c.number < _holds.c.written_by)
        unwanted = _holds.c.unit_id.is_(None) & ~select(_jobs.c.number).where(unfinished).exists()
        await self._session.execute(delete(_holds).where(unwanted))


def _key(destination: str) -> bytes:
    return hashlib.blake2b(destination.encode(), digest_size=16).digest()
