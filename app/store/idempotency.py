"""Idempotency keys: callers' names for their requests, so that a repeated request is the same job."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import InvalidRequestError
from app.domain.job import IdempotencyKey
from app.store.db.database import insert_into
from app.store.tables.declarative import table_of
from app.store.tables.jobs import IdempotencyKeyRow

_keys = table_of(IdempotencyKeyRow)


class IdempotencyStore:
    """Idempotency keys in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def claim(self, key: IdempotencyKey, *, job_id: str, now: datetime) -> str:
        """Claim an idempotency key for a new job, or return the id of the job that has it already.

        Of several that race, one waits here until another has committed. Raise `InvalidRequestError`
        (`idempotency_key_reused`) when the key named another request.
        """
        names = {"principal": key.principal, "key": key.key, "fingerprint": key.fingerprint}
        statement = insert_into(self._session, _keys).values(**names, job_id=job_id, created_at=now)
        statement = statement.on_conflict_do_nothing(index_elements=["principal", "key"])
        if (await self._session.execute(statement.returning(_keys.c.job_id))).scalar_one_or_none() is not None:
            return job_id
        mine = (_keys.c.principal == key.principal) & (_keys.c.key == key.key)
        known = (await self._session.execute(select(_keys).where(mine))).one()
        if known.fingerprint != key.fingerprint:
            message = "this idempotency key came with another request before"
            raise InvalidRequestError(message, code="idempotency_key_reused")
        return str(known.job_id)

    async def is_known(self, key: IdempotencyKey) -> bool:
        """Return whether a caller has called a request so."""
        mine = (_keys.c.principal == key.principal) & (_keys.c.key == key.key)
        return (await self._session.execute(select(_keys.c.job_id).where(mine))).first() is not None

    async def point(self, key: IdempotencyKey, *, job_id: str) -> None:
        """Point a key that was claimed in this transaction at the job that does what was asked for."""
        mine = (_keys.c.principal == key.principal) & (_keys.c.key == key.key)
        await self._session.execute(update(_keys).where(mine).values(job_id=job_id))

    async def delete_of_job(self, job_id: str) -> None:
        """Delete what a deleted job was called."""
        await self._session.execute(delete(_keys).where(_keys.c.job_id == job_id))

    async def delete_before(self, moment: datetime, *, limit: int) -> int:
        """Delete a few keys older than a moment; return how many."""
        old = select(_keys.c.principal, _keys.c.key).where(_keys.c.created_at < moment).limit(limit)
        gone = (await self._session.execute(old)).all()
        for principal, key in gone:
            await self._session.execute(delete(_keys).where(_keys.c.principal == principal, _keys.c.key == key))
        return len(gone)
