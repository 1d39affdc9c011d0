"""Which image of a plan a blob is counted for, where several would send it: the first that claims it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.destinations import PlannedBlobRow

_blobs = table_of(PlannedBlobRow)
_KEYS_AT_ONCE = 5_000
"""Statements have at most 32,767 parameters."""


class PlannedBlobStore:
    """Claims of blobs in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def claim(self, wanted: Sequence[Mapping[bytes, bytes]], *, now: datetime) -> list[frozenset[bytes]]:
        """Claim blobs, each for an owner; return for each that wants some what is its own now, or was before."""
        first: dict[bytes, bytes] = {}
        for each in wanted:
            first = {**each, **first}
        # In one order everywhere: who waits for another's row holds none that the other waits for.
        rows = [{"key": key, "owner": owner, "claimed_at": now} for key, owner in sorted(first.items())]
        await self._session.execute(insert_into(self._session, _blobs).on_conflict_do_nothing(), rows)
        owners: dict[bytes, bytes] = {}
        for start in range(0, len(rows), _KEYS_AT_ONCE):
            keys = [row["key"] for row in rows[start : start + _KEYS_AT_ONCE]]
            found = await self._session.execute(select(_blobs.c.key, _blobs.c.owner).where(_blobs.c.key.in_(keys)))
            owners |= {row.key: row.owner for row in found}
        return [frozenset(key for key, owner in each.items() if owners.get(key) == owner) for each in wanted]

    async def delete_before(self, moment: datetime, *, limit: int) -> int:
        """Delete a few claims from before a moment; return how many."""
        old = await self._session.execute(select(_blobs.c.key).where(_blobs.c.claimed_at < moment).limit(limit))
        keys = list(old.scalars())
        await self._session.execute(delete(_blobs).where(_blobs.c.key.in_(keys)))
        return len(keys)
