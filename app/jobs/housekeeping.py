"""Housekeeping: what is old goes, a little at a time, so that nobody has to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from app.domain.audit import AuditEntry
from app.domain.errors import ConflictError, NotFoundError
from app.store.audit import AuditStore
from app.store.blob_locations import BlobLocationStore
from app.store.database import Database, Session
from app.store.deliveries import DeliveryStore
from app.store.destinations import DestinationStore
from app.store.idempotency import IdempotencyStore
from app.store.images import ImageStore
from app.store.jobs import JobStore
from app.store.pressures import PressureStore
from app.store.upload_sessions import delete_uploads_before

BATCH_IMAGES = 5_000
"""How many images one transaction removes at most: others wait for it."""
BATCH_ROWS = 1_000
BATCH_JOBS = 100
REST_SECONDS = 0.05
"""Between two batches, for the others."""
JOBS_KEPT = timedelta(days=30)
KEYS_KEPT = timedelta(days=3)
LOCATIONS_KEPT = timedelta(days=30)
DELIVERIES_KEPT = timedelta(days=30)
"""After their end; until then they can be looked at, and sent again."""
UPLOADS_KEPT = timedelta(days=1)
"""Registries drop open uploads earlier."""
PRESSURES_KEPT = timedelta(days=1)


async def delete_job(database: Database, job_id: str, *, entry: AuditEntry | None = None) -> None:
    """Remove a done job and what is known of it; raise `NotFoundError`, `ConflictError` (`job_not_finished`)."""
    while True:
        async with database.transaction() as session:
            jobs = JobStore(session)
            held = await jobs.hold(job_id)
            if not held.done:
                raise ConflictError(f"the job is still {held.state}; cancel it first", code="job_not_finished")
            removed = await ImageStore(session).delete_some(held.number, limit=BATCH_IMAGES)
            if removed < BATCH_IMAGES:
                await jobs.delete(held.number)
                await IdempotencyStore(session).delete_of_job(job_id)
                if entry is not None:
                    await AuditStore(session).add(entry)
                database.announcements.announce(session, job_id)
                return
        await asyncio.sleep(REST_SECONDS)


class Housekeeping:
    """Removes what is older than it is kept."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime], jobs_kept: timedelta = JOBS_KEPT) -> None:
        self._database = database
        self._clock = clock
        self._jobs_kept = jobs_kept

    async def tidy_up(self) -> None:
        """Remove all that is old; several processes that do so at once do no harm. Raise `UnavailableError`."""
        now = self._clock()
        await self._delete_jobs(before=now - self._jobs_kept)
        await self._in_batches(
            lambda session: IdempotencyStore(session).delete_before(now - KEYS_KEPT, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: BlobLocationStore(session).delete_before(now - LOCATIONS_KEPT, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: DeliveryStore(session).delete_finished_before(now - DELIVERIES_KEPT, limit=BATCH_ROWS)
        )
        await self._in_batches(lambda session: delete_uploads_before(session, now - UPLOADS_KEPT, limit=BATCH_ROWS))
        async with self._database.transaction() as session:
            await PressureStore(session).delete_before(now - PRESSURES_KEPT)
            await DestinationStore(session).tidy()

    async def _delete_jobs(self, *, before: datetime) -> None:
        while True:
            async with self._database.reading() as session:
                job_ids = await JobStore(session).list_done_before(before, limit=BATCH_JOBS)
            for job_id in job_ids:
                try:
                    await delete_job(self._database, job_id)
                except NotFoundError:
                    continue  # another process was faster
            if len(job_ids) < BATCH_JOBS:
                return

    async def _in_batches(self, remove: Callable[[Session], Awaitable[int]]) -> None:
        removed = BATCH_ROWS
        while removed == BATCH_ROWS:
            async with self._database.transaction() as session:
                removed = await remove(session)
            await asyncio.sleep(REST_SECONDS)
