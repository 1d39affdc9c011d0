"""What callers may do with jobs: submit, look, cancel, retry, delete, watch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Literal

from app.domain.access import Caller
from app.domain.address import Notify
from app.domain.audit import AuditAction, AuditEntry
from app.domain.errors import ConflictError
from app.domain.job import (
    IdempotencyKey,
    Image,
    ImageState,
    Job,
    JobEvent,
    JobFilter,
    JobState,
    Priority,
    Submission,
    Trigger,
)
from app.domain.request import SyncRequest
from app.jobs.accepting import begin, entry_of
from app.jobs.changes import JobChange
from app.jobs.engine import Engine
from app.jobs.housekeeping import BATCH_IMAGES, delete_job
from app.jobs.intake import Intake
from app.jobs.notices import save_change
from app.jobs.standing import run_lane
from app.jobs.stopping import cancel_some
from app.jobs.watching import JobWatch
from app.store.audit import AuditStore
from app.store.database import Database
from app.store.images import ImageStore
from app.store.jobs import JobStore
from app.store.lanes import LaneStore
from app.store.paging import Page, PageRequest


class JobService:
    """Jobs, for every door."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        watch: JobWatch,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._engine = engine
        self._intake = Intake(database, engine)
        self._watch = watch
        self._clock = clock
        self._new_id = new_id

    async def submit(
        self,
        request: SyncRequest,
        *,
        caller: Caller,
        labels: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        trigger: Trigger = Trigger(),  # noqa: B008 — a frozen value
        policy: str | None = None,
        notify: Notify | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> Submission:
        """Accept a request: a job of it is in the database and known to the engine, or nothing is.

        Raise `InvalidRequestError` (`idempotency_key_reused`).
        """
        job = Job(
            id=self._new_id(),
            state=JobState.QUEUED,
            request=request,
            created_at=self._clock(),
            created_by=caller.name,
            trigger=trigger,
            priority=priority,
            policy=policy,
            labels=dict(labels or {}),
            notify=notify,
        )
        return await self._intake.take_in(job, idempotency)

    async def get(self, job_id: str) -> Job:
        """Read a job; raise `NotFoundError`."""
        async with self._database.reading() as session:
            return await JobStore(session).get(job_id)

    async def wait(self, job_id: str, *, timeout_seconds: float) -> Job:
        """Wait until a job is done, or so long, and return it as it is then; raise `NotFoundError`."""
        return await self._watch.wait(job_id, timeout_seconds=timeout_seconds)

    async def list(self, wanted: JobFilter, page: PageRequest) -> Page[Job]:
        """Read a page of jobs, newest first."""
        async with self._database.reading() as session:
            return await JobStore(session).list(wanted, page)

    async def list_images(self, job_id: str, *, state: ImageState | None, page: PageRequest) -> Page[Image]:
        """Read a page of a job's images, in the order they were planned; raise `NotFoundError`."""
        async with self._database.reading() as session:
            await JobStore(session).get_number(job_id)
            return await ImageStore(session).list(job_id, state=state, page=page)

    async def list_events(self, job_id: str, *, after: int, limit: int) -> Page[JobEvent]:
        """Read a page of a job's events after a number; the cursor is the last event's. Raise `NotFoundError`."""
        events = await self._watch.list_events(job_id, after=after, limit=limit)
        return Page(events, str(events[-1].number) if events and events[-1].name != "end" else None)

    def watch(self, job_id: str, *, after: int | None) -> AsyncIterator[JobEvent]:
        """Give a job's events as they come, up to its `end`; without `after` the job as it is comes first."""
        return self._watch.watch(job_id, after=after)

    async def cancel(self, job_id: str, *, caller: Caller) -> Job:
        """Stop a job: what has not begun is cancelled at once, what runs within a second or two.

        Asking twice is answered twice. Raise `NotFoundError`, `ConflictError` (`job_already_finished`).
        """
        first, is_all = 0, False
        while not is_all:
            async with self._database.transaction() as session:
                jobs = JobStore(session)
                held = await jobs.hold(job_id)
                if held.done and not held.cancel_requested:
                    raise ConflictError(f"the job is {held.state} already", code="job_already_finished")
                if held.done:
                    break
                change = JobChange(held, now=self._clock())
                if not held.cancel_requested:
                    entry = AuditEntry(change.now, caller.name, AuditAction.JOB_CANCELLED, job_id)
                    await AuditStore(session).add(entry)
                change.request_cancel()
                is_all = await cancel_some(session, change, first=first, count=BATCH_IMAGES)
                await save_change(session, change)
                self._database.announcements.announce(session, job_id)
            first += BATCH_IMAGES
        return await self.get(job_id)

    async def retry(self, job_id: str, *, only: Literal["failed", "all"], caller: Caller) -> Job:
        """Run a done job again, as a new one: all of its request, or just the images that did not arrive.

        Raise `NotFoundError`, `ConflictError` (`job_not_finished`, `nothing_to_retry`).
        """
        async with self._database.transaction() as session:
            jobs, images = JobStore(session), ImageStore(session)
            old = await jobs.get(job_id)
            if not old.done:
                raise ConflictError(f"the job is still {old.state}", code="job_not_finished")
            job = Job(
                id=self._new_id(),
                state=JobState.QUEUED,
                request=old.request,
                created_at=self._clock(),
                created_by=caller.name,
                trigger=Trigger("retry"),
                priority=old.priority,
                policy=old.policy,
                retry_of=old.id,
                labels=old.labels,
                notify=old.notify,
            )
            number = await jobs.add(job)
            await AuditStore(session).add(entry_of(job))
            if job.policy is not None:
                await LaneStore(session).join(run_lane(job.policy), number)
            if only == "failed" and old.progress.planned:
                held = await jobs.hold(job.id)
                count = await images.add_failed_of(await jobs.get_number(old.id), number, revision=held.version + 1)
                if count == 0:
                    raise ConflictError("every image of the job has arrived", code="nothing_to_retry")
                change = JobChange(held, now=job.created_at)
                change.take_over(count)
                await save_change(session, change)
            await begin(session, self._engine, {number: job})
            return await jobs.get(job.id)

    async def delete(self, job_id: str, *, caller: Caller) -> None:
        """Remove a done job and what is known of it; raise `NotFoundError`, `ConflictError` (`job_not_finished`)."""
        entry = AuditEntry(self._clock(), caller.name, AuditAction.JOB_DELETED, job_id)
        await delete_job(self._database, job_id, entry=entry)
