"""Retention: old rows are deleted in small batches, so that no other transaction waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from app.domain.audit import AuditEntry
from app.domain.errors import ConflictError, NotFoundError
from app.store.audit import AuditStore
from app.store.blob_locations import BlobLocationStore
from app.store.db.database import Database, Session
from app.store.deliveries import DeliveryStore
from app.store.destination_notes import DestinationNoteStore
from app.store.hook_events import HookEventStore
from app.store.idempotency import IdempotencyStore
from app.store.images import ImageStore
from app.store.jobs import JobStore
from app.store.planned_blobs import PlannedBlobStore
from app.store.push_origins import PushOriginStore
from app.store.registry_limits import RegistryLimitStore
from app.store.registry_states import RegistryStateStore
from app.store.units import DestinationLockStore
from app.store.upload_sessions import delete_uploads_before

BATCH_IMAGES = 5_000
"""How many images one transaction removes at most: others wait for it."""
BATCH_ROWS = 1_000
BATCH_JOBS = 100
REST_SECONDS = 0.05
"""Between two batches, for the others."""
JOB_RETENTION = timedelta(days=30)
KEY_RETENTION = timedelta(days=3)
LOCATION_RETENTION = timedelta(days=30)
DELIVERY_RETENTION = timedelta(days=30)
"""After their end; until then they can be looked at, and sent again."""
PLANNED_BLOB_RETENTION = timedelta(days=7)
"""Longer than any plan is at work."""
UPLOAD_RETENTION = timedelta(days=1)
"""Registries drop open uploads earlier."""
NOTE_RETENTION = timedelta(days=400)
"""Of what destinations lack on purpose, what hangs on their images, and when images that say no time were first seen;
an image that old is looked at anew."""
LIMIT_RETENTION = timedelta(days=1)
EVENT_RETENTION = timedelta(days=30)
ORIGIN_RETENTION = timedelta(days=1)
"""A registry that reports a push later than this has reported it too late."""


async def delete_job(database: Database, job_id: str, *, entry: AuditEntry | None = None) -> None:
    """Remove a done job and what is known of it; raise `NotFoundError`, `ConflictError` (`job_not_finished`)."""
    while True:
        async with database.transaction() as session:
            jobs = JobStore(session)
            locked = await jobs.lock(job_id)
            if not locked.done:
                raise ConflictError(f"the job is still {locked.state}; cancel it first", code="job_not_finished")
            removed = await ImageStore(session).delete_some(locked.number, limit=BATCH_IMAGES)
            if removed < BATCH_IMAGES:
                await jobs.delete(locked.number)
                await IdempotencyStore(session).delete_of_job(job_id)
                if entry is not None:
                    await AuditStore(session).add(entry)
                database.change_feed.publish(session, job_id, has_ended=True)
                return
        await asyncio.sleep(REST_SECONDS)


class Retention:
    """Deletes what is older than its retention, in small batches.

    - `clock`: the time, in UTC
    - `job_retention`: of jobs that are done, with their images and events; 30 days
    """

    def __init__(
        self, database: Database, *, clock: Callable[[], datetime], job_retention: timedelta = JOB_RETENTION
    ) -> None:
        self._database = database
        self._clock = clock
        self._job_retention = job_retention

    async def apply(self) -> None:
        """Remove all that is old; several processes that do so at once do no harm. Raise `UnavailableError`."""
        now = self._clock()
        await self._delete_jobs(before=now - self._job_retention)
        await self._in_batches(
            lambda session: IdempotencyStore(session).delete_before(now - KEY_RETENTION, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: BlobLocationStore(session).delete_before(now - LOCATION_RETENTION, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: DeliveryStore(session).delete_finished_before(now - DELIVERY_RETENTION, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: HookEventStore(session).delete_before(now - EVENT_RETENTION, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: DestinationNoteStore(session).delete_before(now - NOTE_RETENTION, limit=BATCH_ROWS)
        )
        await self._in_batches(
            lambda session: PlannedBlobStore(session).delete_before(now - PLANNED_BLOB_RETENTION, limit=BATCH_ROWS)
        )
        await self._in_batches(lambda session: delete_uploads_before(session, now - UPLOAD_RETENTION, limit=BATCH_ROWS))
        async with self._database.transaction() as session:
            await RegistryLimitStore(session).delete_before(now - LIMIT_RETENTION)
            await RegistryStateStore(session).delete_before(now - LIMIT_RETENTION)
            await PushOriginStore(session).delete_before(now - ORIGIN_RETENTION)
            await DestinationLockStore(session).delete_unused()

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
