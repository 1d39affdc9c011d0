"""Jobs: added, found, listed, and locked for a change; how a job is written to its row and read from it.

A job's row is locked first (`lock`) by every change of the job, its images and units included: so all changes of a job
come one after another, its counts and its version follow from what was there, and no two transactions deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from msgspec import structs
from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.access import Caller, VisibleJobs
from app.domain.errors import NotFoundError
from app.domain.job import (
    BlobCounts,
    ByteCounts,
    ImageCounts,
    Job,
    JobFilter,
    JobKind,
    JobPause,
    JobState,
    Priority,
    Progress,
    Trigger,
)
from app.domain.notify_url import Notify
from app.domain.page import Page, PageRequest, cursor_after
from app.domain.plan import Listing
from app.domain.report import ActionCounts, ExecutionError, FailureCount, JobWarning, SelectionCount
from app.domain.request import SyncRequest
from app.store.db.column_types import is_id
from app.store.job_filters import list_statement
from app.store.tables.declarative import table_of
from app.store.tables.jobs import JobLabelRow, JobRow

_NOT_FOR_CHANGES = {
    "request",
    "labels",
    "created_by",
    "trigger_type",
    "trigger_event_id",
    "plan",
    "retry_of",
    "selection_counts",
    "notify",
    "listings",
}
LOCKED_COLUMNS = tuple(column for column in table_of(JobRow).c if column.name not in _NOT_FOR_CHANGES)
"""What a `LockedJob` is made of."""


@dataclass(frozen=True, slots=True)
class LockedJob:
    """A job whose row this transaction holds: what may change about it, to be put back with `save`."""

    number: int
    id: str
    state: JobState
    priority: Priority
    policy: str | None
    kind: JobKind
    traceparent: str | None
    progress: Progress
    units_left: int
    version: int
    state_version: int
    cancel_requested: bool
    is_failing_fast: bool
    error: ExecutionError | None
    failures: tuple[FailureCount, ...]
    warnings: tuple[JobWarning, ...]
    totals: ActionCounts
    waiting_for: JobPause | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    rate_bytes: int
    rate_at: datetime | None

    @property
    def done(self) -> bool:
        """Whether the job will not move any more."""
        return self.state.done

    @property
    def is_stopping(self) -> bool:
        """Whether no image of it may begin any more."""
        return self.cancel_requested or self.is_failing_fast


def new_row(job: Job) -> dict[str, Any]:
    """Write a new job."""
    return {
        "id": job.id,
        "state": job.state,
        "priority": job.priority,
        "request": job.request.model_dump(mode="json"),
        "labels": job.labels,
        "created_by": job.created_by,
        "trigger_type": job.trigger.type,
        "trigger_event_id": job.trigger.event_id,
        "policy": job.policy,
        "kind": job.kind,
        "plan": job.plan,
        "retry_of": job.retry_of,
        "notify": job.notify.model_dump() if job.notify else None,
        "traceparent": job.traceparent,
        "cancel_requested": job.cancel_requested,
        "warnings": warning_documents(job.warnings),
        "listings": None if job.listings is None else listing_documents(job.listings),
        "created_at": job.created_at,
    }


def changed_columns(job: LockedJob) -> dict[str, Any]:
    """Write what may have changed about a job."""
    images, blobs, amounts = job.progress.images, job.progress.blobs, job.progress.bytes
    return {
        "state": job.state,
        "cancel_requested": job.cancel_requested,
        "is_failing_fast": job.is_failing_fast,
        "planned": job.progress.planned,
        "error": error_document(job.error),
        "failures": failure_documents(job.failures),
        "warnings": warning_documents(job.warnings),
        "totals": structs.asdict(job.totals),
        "waiting_for": pause_document(job.waiting_for),
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "version": job.version,
        "state_version": job.state_version,
        "units_left": job.units_left,
        "images_queued": images.queued,
        "images_running": images.running,
        "images_copied": images.copied,
        "images_planned": images.planned,
        "images_up_to_date": images.up_to_date,
        "images_failed": images.failed,
        "images_cancelled": images.cancelled,
        "blobs_present": blobs.present,
        "blobs_mounted": blobs.mounted,
        "blobs_transferred": blobs.transferred,
        "bytes_total": amounts.total,
        "bytes_done": amounts.done,
        "bytes_transferred": amounts.transferred,
        "bytes_per_second": amounts.per_second,
        "rate_bytes": job.rate_bytes,
        "rate_at": job.rate_at,
    }


def _progress(row: Row[Any]) -> Progress:
    return Progress(
        images=ImageCounts(
            queued=row.images_queued,
            running=row.images_running,
            copied=row.images_copied,
            planned=row.images_planned,
            up_to_date=row.images_up_to_date,
            failed=row.images_failed,
            cancelled=row.images_cancelled,
        ),
        blobs=BlobCounts(row.blobs_present, row.blobs_mounted, row.blobs_transferred),
        bytes=ByteCounts(row.bytes_total, row.bytes_done, row.bytes_transferred, row.bytes_per_second),
        planned=row.planned,
    )


def job_of(row: Row[Any]) -> Job:
    """Read a job."""
    return Job(
        id=row.id,
        state=JobState(row.state),
        request=SyncRequest.model_validate(row.request),
        created_at=row.created_at,
        created_by=row.created_by,
        trigger=Trigger(row.trigger_type, row.trigger_event_id),
        priority=Priority(row.priority),
        policy=row.policy,
        kind=JobKind(row.kind),
        plan=row.plan,
        retry_of=row.retry_of,
        labels=row.labels,
        notify=Notify.model_construct(**row.notify) if row.notify else None,
        traceparent=row.traceparent,
        cancel_requested=row.cancel_requested,
        progress=_progress(row),
        error=read_error(row.error),
        warnings=read_warnings(row.warnings),
        totals=ActionCounts(**(row.totals or {})),
        selection=read_selection(row.selection_counts),
        listings=read_listings(row.listings),
        waiting_for=read_pause(row.waiting_for),
        started_at=row.started_at,
        finished_at=row.finished_at,
        version=row.version,
    )


def locked_job_of(row: Row[Any]) -> LockedJob:
    """Read a job that is held, from the columns of `LOCKED_COLUMNS`."""
    return LockedJob(
        number=row.number,
        id=row.id,
        state=JobState(row.state),
        priority=Priority(row.priority),
        policy=row.policy,
        kind=JobKind(row.kind),
        traceparent=row.traceparent,
        progress=_progress(row),
        units_left=row.units_left,
        version=row.version,
        state_version=row.state_version,
        cancel_requested=row.cancel_requested,
        is_failing_fast=row.is_failing_fast,
        error=read_error(row.error),
        failures=read_failures(row.failures),
        warnings=read_warnings(row.warnings),
        totals=ActionCounts(**(row.totals or {})),
        waiting_for=read_pause(row.waiting_for),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        rate_bytes=row.rate_bytes,
        rate_at=row.rate_at,
    )


_jobs = table_of(JobRow)
_labels = table_of(JobLabelRow)
# Made once: they are wide, and executed all the time.
_ADD = insert(_jobs).returning(_jobs.c.id, _jobs.c.number)
_FIND = select(_jobs).where(_jobs.c.id == bindparam("job_id"))
_HOLD = select(*LOCKED_COLUMNS).where(_jobs.c.id == bindparam("job_id")).with_for_update()
_SAVE = update(_jobs).where(_jobs.c.number == bindparam("of_number"))


class JobStore:
    """Jobs in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, job: Job) -> int:
        """Add a job and return its number."""
        return (await self.add_all([job]))[0]

    async def add_all(self, jobs: Sequence[Job]) -> list[int]:
        """Add jobs and return their numbers."""
        rows = await self._session.execute(_ADD, [new_row(job) for job in jobs])
        by_id = {row.id: row.number for row in rows}
        numbers: list[int] = [by_id[job.id] for job in jobs]
        labels = [
            {"job_number": number, "key": key, "value": value, "created_at": job.created_at}
            for number, job in zip(numbers, jobs, strict=True)
            for key, value in job.labels.items()
        ]
        if labels:
            await self._session.execute(insert(_labels), labels)
        return numbers

    async def find(self, job_id: str) -> Job | None:
        """Read a job."""
        row = (await self._session.execute(_FIND, {"job_id": job_id})).one_or_none() if is_id(job_id) else None
        return None if row is None else job_of(row)

    async def get(self, job_id: str, *, caller: Caller | None = None) -> Job:
        """Read a job; raise `NotFoundError`, for one that a caller may not see too."""
        job = await self.find(job_id)
        if job is None or (caller is not None and not caller.sees_job(created_by=job.created_by, policy=job.policy)):
            raise _no_such_job(job_id)
        return job

    async def check_visible(self, job_id: str, caller: Caller) -> None:
        """Raise `NotFoundError` for a job that the caller may not see; one that sees all of them is not asked about."""
        if not caller.grant.sees_all_jobs:
            await self.get(job_id, caller=caller)

    async def get_watched(self, job_id: str) -> tuple[Job, int]:
        """Read a job, and the version in which anything but its progress changed last; raise `NotFoundError`."""
        if (row := (await self._session.execute(_FIND, {"job_id": job_id})).one_or_none()) is None:
            raise _no_such_job(job_id)
        return job_of(row), row.state_version

    async def get_number(self, job_id: str) -> int:
        """Read a job's number; raise `NotFoundError`."""
        statement = select(_jobs.c.number).where(_jobs.c.id == job_id)
        number = (await self._session.execute(statement)).scalar_one_or_none() if is_id(job_id) else None
        if number is None:
            raise _no_such_job(job_id)
        return int(number)

    async def list(self, wanted: JobFilter, page: PageRequest, *, visible: VisibleJobs | None = None) -> Page[Job]:
        """Read a page of jobs, newest first, among those that are visible."""
        bound_to, is_sqlite = repr(wanted), self._session.get_bind().dialect.name == "sqlite"
        statement = list_statement(wanted, page.limit, page.after(bound_to), visible=visible, is_sqlite=is_sqlite)
        rows = (await self._session.execute(statement)).all()
        items, last = tuple(map(job_of, rows[: page.limit])), rows[page.limit - 1] if len(rows) > page.limit else None
        cursor = cursor_after((last.created_at.isoformat(), last.number), bound_to=bound_to) if last else None
        return Page(items, cursor)

    async def list_versions(self, job_ids: Collection[str]) -> dict[str, tuple[int, bool]]:
        """Read the versions of the jobs there are among these, each with whether it is done."""
        statement = select(_jobs.c.id, _jobs.c.version, _jobs.c.state).where(_jobs.c.id.in_(job_ids))
        rows = await self._session.execute(statement)
        return {row.id: (row.version, JobState(row.state).done) for row in rows}

    async def list_done_before(self, moment: datetime, *, limit: int) -> tuple[str, ...]:
        """List the ids of jobs that ended before a moment, in any order."""
        ended = _jobs.c.state.in_([state for state in JobState if state.done]) & (_jobs.c.finished_at < moment)
        ended &= _jobs.c.created_at < moment  # which has the index
        return tuple((await self._session.execute(select(_jobs.c.id).where(ended).limit(limit))).scalars())

    async def lock(self, job_id: str) -> LockedJob:
        """Lock a job for a change (`FOR UPDATE`); raise `NotFoundError`."""
        if is_id(job_id):
            row = (await self._session.execute(_HOLD, {"job_id": job_id})).one_or_none()
            if row is not None:
                return locked_job_of(row)
        raise _no_such_job(job_id)

    async def save(self, job: LockedJob) -> None:
        """Save a locked job."""
        await self._session.execute(_SAVE, {"of_number": job.number, **changed_columns(job)})

    async def delete(self, number: int) -> None:
        """Remove a job with whatever is left of its units and images."""
        await self._session.execute(delete(_jobs).where(_jobs.c.number == number))


def _no_such_job(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id[:64]!r}")


def error_document(error: ExecutionError | None) -> dict[str, Any] | None:
    """Write an execution error, leaving out what it does not say."""
    if error is None:
        return None
    return {key: value for key, value in asdict(error).items() if value not in (None, ())}


def read_error(document: dict[str, Any] | None) -> ExecutionError | None:
    """Read an execution error."""
    if document is None:
        return None
    return ExecutionError(**{**document, "failures": read_failures(document.get("failures"))})


def failure_documents(failures: tuple[FailureCount, ...]) -> list[dict[str, Any]] | None:
    """Write what images failed for; null for nothing."""
    return [asdict(failure) for failure in failures] or None


def read_failures(documents: list[dict[str, Any]] | None) -> tuple[FailureCount, ...]:
    """Read what images failed for."""
    return tuple(FailureCount(**document) for document in documents or ())


def warning_documents(warnings: tuple[JobWarning, ...]) -> list[dict[str, Any]]:
    """Write a job's warnings."""
    return [asdict(warning) for warning in warnings]


def read_warnings(documents: list[dict[str, Any]]) -> tuple[JobWarning, ...]:
    """Read a job's warnings; those that an older release wrote have one text each."""
    return tuple(
        JobWarning(document["code"], (document["message"],))
        if "message" in document
        else JobWarning(**{**document, "first": tuple(document["first"])})
        for document in documents
    )


def selection_documents(counts: Iterable[SelectionCount]) -> list[dict[str, Any]]:
    """Write how many tags and repositories rules take and drop."""
    return [structs.asdict(count) for count in counts]


def read_selection(documents: list[dict[str, Any]] | None) -> tuple[SelectionCount, ...]:
    """Read how many tags and repositories rules take and drop."""
    return tuple(SelectionCount(**{**document, "first": tuple(document["first"])}) for document in documents or ())


def listing_documents(listings: Iterable[Listing]) -> list[dict[str, Any]]:
    """Write lists that are to be had."""
    return [asdict(listing) for listing in listings]


def read_listings(documents: list[dict[str, Any]] | None) -> frozenset[Listing] | None:
    """Read lists that are to be had; None for all."""
    return None if documents is None else frozenset(Listing(**document) for document in documents)


def pause_document(pause: JobPause | None) -> dict[str, Any] | None:
    """Write what a job waits for."""
    return None if pause is None else {**asdict(pause), "until": pause.until.isoformat()}


def read_pause(document: dict[str, Any] | None) -> JobPause | None:
    """Read what a job waits for."""
    if document is None:
        return None
    return JobPause(**{**document, "until": datetime.fromisoformat(document["until"])})
