"""Heartbeats of worker processes: each raises its own counter, all watch the others'."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.jobs import WorkerRow

_workers = table_of(WorkerRow)


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """A worker's heartbeat as it is stored: a count that rises while the process lives."""

    id: str
    name: str
    count: int
    seen_at: datetime


class HeartbeatStore:
    """Workers in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def record(self, worker_id: str, *, name: str, concurrency: int, now: datetime) -> None:
        """Show that a worker lives."""
        row = {
            "id": worker_id,
            "name": name,
            "concurrency": concurrency,
            "started_at": now,
            "seen_at": now,
            "heartbeats": 1,
        }
        statement = insert_into(self._session, _workers).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["id"], set_={"heartbeats": _workers.c.heartbeats + 1, "seen_at": statement.excluded.seen_at}
        )
        await self._session.execute(statement)

    async def list(self) -> tuple[WorkerSign, ...]:
        """Read all workers, the dead among them too."""
        rows = await self._session.execute(select(_workers).order_by(_workers.c.id))
        return tuple(WorkerSign(row.id, row.name, row.heartbeats, row.seen_at) for row in rows)

    async def delete(self, worker_id: str) -> None:
        """Take a worker off the list."""
        await self._session.execute(delete(_workers).where(_workers.c.id == worker_id))

    async def delete_unseen_since(self, moment: datetime) -> None:
        """Take off those who have not been seen for long."""
        await self._session.execute(delete(_workers).where(_workers.c.seen_at < moment))
