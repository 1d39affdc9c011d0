"""Jobs: submit, get, wait, watch, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Literal

from app.domain.access import Caller, Scope
from app.domain.audit import AuditAction, AuditEntry
from app.domain.errors import ConflictError, FieldError, InvalidRequestError, TooManyError
from app.domain.job import (
    IdempotencyKey,
    Image,
    ImageFilter,
    Job,
    JobEvent,
    JobFilter,
    JobKind,
    JobState,
    Priority,
    Submission,
    Trigger,
)
from app.domain.notify_url import Notify
from app.domain.page import Page, PageRequest
from app.domain.plan import Listing
from app.domain.report import CopyStep
from app.domain.request import SyncRequest
from app.jobs.cancellation import cancel_images
from app.jobs.event_stream import JobEventStream
from app.jobs.inherited_rows import NewJob, TakeOver, list_failed_listings, take_all, take_failed, take_planned
from app.jobs.outbox import save_transition, submission_span
from app.jobs.policy_jobs import run_group
from app.jobs.queue import JobQueue
from app.jobs.retention import BATCH_IMAGES, delete_job
from app.jobs.submission import JobSubmission, begin, entry_of
from app.jobs.transitions import JobTransition
from app.observability import current_traceparent
from app.services.admission import Admission
from app.store.audit import AuditStore
from app.store.concurrency_groups import ConcurrencyGroupStore
from app.store.db.database import Database, Session
from app.store.idempotency import IdempotencyStore
from app.store.images import ImageStore
from app.store.jobs import JobStore


class JobService:
    """Submit, read, cancel, retry and delete jobs, for every door.

    - `queue`: carries the units of submitted jobs to workers
    - `watch`: the change feed's watchers, for `wait` and `watch`
    - `clock`: the time, in UTC
    - `new_id`: creates an id; UUIDv7, so that ids sort by time
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        watch: JobEventStream,
        *,
        admission: Admission,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._queue = queue
        self._submission = JobSubmission(database, queue)
        self._watch = watch
        self._admission = admission
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
        kind: JobKind = JobKind.COPY,
        notify: Notify | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> Submission:
        """Submit a request: its job is in the database and in the queue, or nothing is.

        A job of the kind `plan` says what a copy would do, and copies nothing (dry run). Raise `InvalidRequestError`
        (`not_granted`, `host_not_allowed`, `unknown_subscription`, `idempotency_key_reused`), `AccessError` for a
        priority that the caller may not ask for, `TooManyError` (`quota_exceeded`).
        """
        _check_priority(caller, priority)
        await self._admission.check(request, caller=caller, notify=notify)
        await self._take_quota(caller, idempotency)
        job_id = self._new_id()
        with submission_span(job_id, policy=policy) as span:
            job = Job(
                id=job_id,
                state=JobState.QUEUED,
                request=request,
                created_at=self._clock(),
                created_by=caller.name,
                trigger=trigger,
                priority=priority,
                policy=policy,
                kind=kind,
                labels=dict(labels or {}),
                notify=self._admission.sealed(notify),
                traceparent=current_traceparent(),
            )
            submission = await self._submission.submit(job, idempotency)
            span.set({"registry_sync.job": submission.job.id})
        return submission

    async def submit_plan(
        self,
        plan_id: str,
        *,
        caller: Caller,
        labels: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        notify: Notify | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> Submission:
        """Submit a job that carries out a plan: exactly what the plan found to be done, as far as nothing has moved.

        Raise `InvalidRequestError` (`unknown_plan`, `not_a_plan`, `idempotency_key_reused`, and as `submit`),
        `ConflictError` (`plan_not_finished`).
        """
        _check_priority(caller, priority)
        plan = await self._get_plan(plan_id, caller)
        await self._admission.check(plan.request, caller=caller, notify=notify)
        await self._take_quota(caller, idempotency)
        job_id = self._new_id()
        with submission_span(job_id, policy=plan.policy) as span:
            job = Job(
                id=job_id,
                state=JobState.QUEUED,
                request=plan.request,
                created_at=self._clock(),
                created_by=caller.name,
                priority=priority,
                policy=plan.policy,
                plan=plan.id,
                labels=dict(labels or {}) or plan.labels,
                notify=self._admission.sealed(notify),
                traceparent=current_traceparent(),
            )
            submission = await self._submit_plan(job, plan, idempotency)
            span.set({"registry_sync.job": submission.job.id})
        return submission

    async def _submit_plan(self, job: Job, plan: Job, idempotency: IdempotencyKey | None) -> Submission:
        async with self._database.transaction() as session:
            if idempotency is not None:
                known = await IdempotencyStore(session).claim(idempotency, job_id=job.id, now=job.created_at)
                if known != job.id:
                    return Submission(await JobStore(session).get(known), replayed=True)
            plan_number = await JobStore(session).get_number(plan.id)
            return Submission(await self._begin_with(session, job, take_planned(plan_number)))

    async def _get_plan(self, plan_id: str, caller: Caller) -> Job:
        async with self._database.reading() as session:
            plan = await JobStore(session).find(plan_id)
        if plan is None or not caller.sees_job(created_by=plan.created_by, policy=plan.policy):
            detail = f"there is no job {plan_id[:64]!r} any more, or there never was"
            raise InvalidRequestError(detail, errors=(FieldError("/plan", "unknown_plan", detail),))
        if not plan.dry_run:
            detail = "this job is no plan, it copies: name one of the kind `plan`"
            raise InvalidRequestError(detail, errors=(FieldError("/plan", "not_a_plan", detail),))
        if not plan.done or not plan.progress.planned or plan.progress.images.cancelled:
            state = "was cut off" if plan.done else f"is still {plan.state}"
            raise ConflictError(f"the plan {state}: it does not say all there is to do", code="plan_not_finished")
        return plan

    async def get(self, job_id: str, *, caller: Caller) -> Job:
        """Read a job; raise `NotFoundError`, here and below also for a job that the caller may not see."""
        async with self._database.reading() as session:
            return await JobStore(session).get(job_id, caller=caller)

    async def wait(self, job_id: str, *, timeout_seconds: float, caller: Caller) -> Job:
        """Wait until a job is done, or so long, and return it as it is then; raise `NotFoundError`."""
        await self._check_visible(job_id, caller)
        return await self._watch.wait(job_id, timeout_seconds=timeout_seconds)

    async def list(self, wanted: JobFilter, page: PageRequest, *, caller: Caller) -> Page[Job]:
        """Read a page of the jobs that the caller may see, newest first."""
        async with self._database.reading() as session:
            return await JobStore(session).list(wanted, page, visible=caller.visible_jobs)

    async def list_images(self, job_id: str, wanted: ImageFilter, page: PageRequest, *, caller: Caller) -> Page[Image]:
        """Read a page of a job's images, in the order they were planned; raise `NotFoundError`."""
        async with self._database.reading() as session:
            await JobStore(session).check_visible(job_id, caller)
            await JobStore(session).get_number(job_id)
            return await ImageStore(session).list(job_id, wanted, page)

    async def get_image_log(self, job_id: str, image: str, *, caller: Caller) -> tuple[CopyStep, ...]:
        """Read what was done for an image that failed, step by step; raise `NotFoundError` for no such image."""
        async with self._database.reading() as session:
            await JobStore(session).check_visible(job_id, caller)
            number = await JobStore(session).get_number(job_id)
            images = ImageStore(session)
            return await images.read_log(number, await images.get_position(job_id, image))

    async def list_events(self, job_id: str, *, after: int, limit: int, caller: Caller) -> Page[JobEvent]:
        """Read a page of a job's events after a number; the cursor is the last event's. Raise `NotFoundError`."""
        await self._check_visible(job_id, caller)
        events = await self._watch.list_events(job_id, after=after, limit=limit)
        return Page(events, str(events[-1].number) if events and events[-1].name != "end" else None)

    async def watch(self, job_id: str, *, after: int | None, caller: Caller) -> AsyncIterator[JobEvent]:
        """Return a job's events as they come, up to its `end`; without `after` the job as it is comes first.

        Raise `NotFoundError`, before the first event.
        """
        await self.get(job_id, caller=caller)
        return self._watch.watch(job_id, after=after)

    async def cancel(self, job_id: str, *, caller: Caller) -> Job:
        """Cancel a job: what has not begun is cancelled at once, what runs within a second or two.

        It is idempotent. Raise `NotFoundError`, `ConflictError` (`job_already_finished`).
        """
        first, is_all = 0, False
        while not is_all:
            async with self._database.transaction() as session:
                jobs = JobStore(session)
                locked = await jobs.lock(job_id)
                await jobs.check_visible(job_id, caller)
                if locked.done and not locked.cancel_requested:
                    raise ConflictError(f"the job is {locked.state} already", code="job_already_finished")
                if locked.done:
                    break
                transition = JobTransition(locked, now=self._clock())
                if not locked.cancel_requested:
                    entry = AuditEntry(transition.now, caller.name, AuditAction.JOB_CANCELLED, job_id)
                    await AuditStore(session).add(entry)
                transition.request_cancel()
                is_all = await cancel_images(session, transition, first=first, count=BATCH_IMAGES)
                await save_transition(session, transition, self._database.change_feed)
            first += BATCH_IMAGES
        return await self.get(job_id, caller=caller)

    async def retry(self, job_id: str, *, only: Literal["failed", "all"], caller: Caller) -> Job:
        """Retry a done job, as a new one: all of its request, or just the images that did not arrive.

        Lists that could not be had are had again, and what they come to is copied; what planning refused is not.

        Raise `NotFoundError`, `ConflictError` (`job_not_finished`, `nothing_to_retry`), and what `submit` raises for
        a caller that may not do what the job does.
        """
        asked = await self.get(job_id, caller=caller)
        _check_priority(caller, asked.priority)
        if asked.policy is None or not caller.grant.sees_policy(asked.policy):
            await self._admission.check(asked.request, caller=caller)
        await self._take_quota(caller)
        async with self._database.transaction() as session:
            jobs = JobStore(session)
            old = await jobs.get(job_id)
            if not old.done:
                raise ConflictError(f"the job is still {old.state}", code="job_not_finished")
            # What was cut off while it was planned is not known to the end: then all of the request is done again.
            is_partial = only == "failed" and old.progress.planned
            listings = await list_failed_listings(session, old) if is_partial else None
            job = self._retry_of(old, caller=caller, listings=listings)
            if is_partial:
                return await self._begin_with(session, job, take_failed(old))
            return await self._begin_with(session, job, take_all(old) if old.plan else None)

    async def _begin_with(self, session: Session, job: Job, take_over: TakeOver | None) -> Job:
        """Add a job that begins with copies of another, if it does; return it as it is then."""
        jobs = JobStore(session)
        number = await jobs.add(job)
        await AuditStore(session).add(entry_of(job))
        if job.policy is not None and not job.dry_run:
            await ConcurrencyGroupStore(session).join(run_group(job.policy), number)
        if take_over is not None:
            transition = JobTransition(await jobs.lock(job.id), now=job.created_at)
            count = await take_over(session, NewJob(job, number, transition.job.version + 1))
            transition.take_over(count, is_all=job.listings is None)
            await save_transition(session, transition, self._database.change_feed)
        await begin(session, self._queue, {number: job})
        return await jobs.get(job.id)

    def _retry_of(self, old: Job, *, caller: Caller, listings: frozenset[Listing] | None) -> Job:
        job_id = self._new_id()
        with submission_span(job_id, policy=old.policy):
            return Job(
                id=job_id,
                state=JobState.QUEUED,
                request=old.request,
                created_at=self._clock(),
                created_by=caller.name,
                trigger=Trigger("retry"),
                priority=old.priority,
                policy=old.policy,
                kind=old.kind,
                plan=old.plan,
                retry_of=old.id,
                labels=old.labels,
                notify=old.notify,
                traceparent=current_traceparent(),
                listings=listings,
            )

    async def delete(self, job_id: str, *, caller: Caller) -> None:
        """Delete a done job with its images and events; raise `NotFoundError`, `ConflictError` (`job_not_finished`)."""
        await self._check_visible(job_id, caller)
        entry = AuditEntry(self._clock(), caller.name, AuditAction.JOB_DELETED, job_id)
        await delete_job(self._database, job_id, entry=entry)

    async def _take_quota(self, caller: Caller, idempotency: IdempotencyKey | None = None) -> None:
        if caller.key_id is None:
            return
        try:
            await self._admission.quota.take(caller)
        except TooManyError:
            async with self._database.reading() as session:  # a job that is there already is no new one
                if idempotency is None or not await IdempotencyStore(session).is_known(idempotency):
                    raise

    async def _check_visible(self, job_id: str, caller: Caller) -> None:
        if not caller.grant.sees_all_jobs:
            await self.get(job_id, caller=caller)


def _check_priority(caller: Caller, priority: Priority) -> None:
    if priority is Priority.HIGH:
        caller.require(Scope.JOBS_PRIORITY)
