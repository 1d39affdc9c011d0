"""How a job is written to its row and read from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from app.domain.address import Notify
from app.domain.job import BlobCounts, ByteCounts, ImageCounts, Job, JobState, Priority, Progress, Trigger
from app.domain.report import ExecutionError, JobWarning
from app.domain.request import SyncRequest
from app.store.documents import error_document, read_error, read_warnings, warning_documents
from app.store.tables import JobRow, table_of

_NOT_FOR_CHANGES = {
    "request",
    "labels",
    "created_by",
    "trigger_type",
    "trigger_event_id",
    "policy",
    "retry_of",
    "notify",
}
HELD_COLUMNS = tuple(column for column in table_of(JobRow).c if column.name not in _NOT_FOR_CHANGES)
"""What a `HeldJob` is made of."""


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job whose row this transaction holds: what may change about it, to be put back with `save`."""

    number: int
    id: str
    state: JobState
    priority: Priority
    progress: Progress
    units_left: int
    version: int
    state_version: int
    cancel_requested: bool
    is_failing_fast: bool
    error: ExecutionError | None
    warnings: tuple[JobWarning, ...]
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
        "retry_of": job.retry_of,
        "notify": job.notify.model_dump() if job.notify else None,
        "cancel_requested": job.cancel_requested,
        "warnings": warning_documents(job.warnings),
        "created_at": job.created_at,
    }


def changed_columns(job: HeldJob) -> dict[str, Any]:
    """Write what may have changed about a job."""
    images, blobs, amounts = job.progress.images, job.progress.blobs, job.progress.bytes
    return {
        "state": job.state,
        "cancel_requested": job.cancel_requested,
        "is_failing_fast": job.is_failing_fast,
        "planned": job.progress.planned,
        "error": error_document(job.error),
        "warnings": warning_documents(job.warnings),
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "version": job.version,
        "state_version": job.state_version,
        "units_left": job.units_left,
        "images_queued": images.queued,
        "images_running": images.running,
        "images_copied": images.copied,
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
        retry_of=row.retry_of,
        labels=row.labels,
        notify=Notify.model_validate(row.notify) if row.notify else None,
        cancel_requested=row.cancel_requested,
        progress=_progress(row),
        error=read_error(row.error),
        warnings=read_warnings(row.warnings),
        started_at=row.started_at,
        finished_at=row.finished_at,
        version=row.version,
    )


def held_job_of(row: Row[Any]) -> HeldJob:
    """Read a job that is held, from the columns of `HELD_COLUMNS`."""
    return HeldJob(
        number=row.number,
        id=row.id,
        state=JobState(row.state),
        priority=Priority(row.priority),
        progress=_progress(row),
        units_left=row.units_left,
        version=row.version,
        state_version=row.state_version,
        cancel_requested=row.cancel_requested,
        is_failing_fast=row.is_failing_fast,
        error=read_error(row.error),
        warnings=read_warnings(row.warnings),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        rate_bytes=row.rate_bytes,
        rate_at=row.rate_at,
    )
