"""Push origins, for loop detection: which rules a push went through before a destination was written to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.job import ImageState
from app.domain.reference import Digest
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.jobs import ImageRow, JobRow
from app.store.tables.policies import PushOriginRow
from app.store.units import destination_key

_origins = table_of(PushOriginRow)
_images = table_of(ImageRow)
_jobs = table_of(JobRow)


@dataclass(frozen=True, slots=True)
class PushOrigin:
    """What led to a destination, and what is known of the job that was to write there."""

    job_id: str
    chain: tuple[str, ...]
    image_state: ImageState | None = None
    """None while the job is not planned."""
    written: Digest | None = None
    """What the job wrote there."""


class PushOriginStore:
    """Push origins in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(self, destination: str, *, job_id: str, chain: tuple[str, ...], now: datetime) -> None:
        """Note what leads to a destination, in the place of what did before."""
        statement = insert_into(self._session, _origins)
        statement = statement.values(key=destination_key(destination), job_id=job_id, chain=list(chain), written_at=now)
        changed = {name: statement.excluded[name] for name in ("job_id", "chain", "written_at")}
        await self._session.execute(statement.on_conflict_do_update(index_elements=["key"], set_=changed))

    async def find(self, destination: str) -> PushOrigin | None:
        """Read what led to a destination last."""
        last = select(_origins).where(_origins.c.key == destination_key(destination))
        row = (await self._session.execute(last)).one_or_none()
        if row is None:
            return None
        image = (
            select(_images.c.state, _images.c.destination_digest)
            .join(_jobs, _jobs.c.number == _images.c.job_number)
            .where(_jobs.c.id == row.job_id, _images.c.destination == destination)
        )
        found = (await self._session.execute(image)).first()
        if found is None:
            return PushOrigin(row.job_id, tuple(row.chain))
        written = Digest(found.destination_digest) if found.destination_digest else None
        return PushOrigin(row.job_id, tuple(row.chain), ImageState(found.state), written)

    async def delete_before(self, moment: datetime) -> None:
        """Delete origins older than a moment."""
        await self._session.execute(delete(_origins).where(_origins.c.written_at < moment))
