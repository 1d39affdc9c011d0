"""Worker processes as they show themselves: each raises its own beat, all watch the others'."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.store.tables import WorkerRow, table_of
from app.store.upsert import insert_into

_workers = table_of(WorkerRow)


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """What is seen of a worker: a beat that rises while it lives."""

    id: str
    name: str
    beat: int
    seen_at: datetime


class WorkerStore:
    """Workers in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def beat(self, worker_id: str, *, name: str, concurrency: int, now: datetime) -> None:
        """Show that a worker lives."""
        row = {"id": worker_id, "name": name, "concurrency": concurrency, "started_at": now, "seen_at": now, "beat": 1}
        statement = insert_into(self._session, _workers).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["id"], set_={"beat": _workers.c.beat + 1, "seen_at": statement.excluded.seen_at}
        )
        await self._session.execute(statement)

    async def list(self) -> tuple[WorkerSign, ...]:
        """Read all workers, the dead among them too."""
        rows = await self._session.execute(select(_workers).order_by(_workers.c.id))
        return tuple(WorkerSign(row.id, row.name, row.beat, row.seen_at) for row in rows)

    async def delete(self, worker_id: str) -> None:
        """Take a worker off the list."""
        await self._session.execute(delete(_workers).where(_workers.c.id == worker_id))

    async def delete_unseen_since(self, moment: datetime) -> None:
        """Take off those who have not been seen for long."""
        await self._session.execute(delete(_workers).where(_workers.c.seen_at < moment))
