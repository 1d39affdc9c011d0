"""The tables of jobs: jobs with their labels, images and units, the workers that do them, and what they lock.

Jobs have a number of our own beside the id that callers see: it is short (a million images carry it), and it is the
order in which jobs were accepted. `revision` of an image and `version` of its job come from one counter per job, raised
under the lock of the job's row: a reader of everything up to a number misses nothing by asking for what is higher.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.db.column_types import Serial
from app.store.tables.declarative import Base


class Counted:
    """What became of blobs and bytes; these columns never shrink."""

    blobs_present: Mapped[int] = mapped_column(default=0, server_default="0")
    blobs_mounted: Mapped[int] = mapped_column(default=0, server_default="0")
    blobs_transferred: Mapped[int] = mapped_column(default=0, server_default="0")
    bytes_total: Mapped[int] = mapped_column(Serial, default=0, server_default="0")
    bytes_done: Mapped[int] = mapped_column(Serial, default=0, server_default="0")
    bytes_transferred: Mapped[int] = mapped_column(Serial, default=0, server_default="0")


class JobRow(Counted, Base):
    """A job; the counts are those of its images, kept in step in the same transactions."""

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    priority: Mapped[str] = mapped_column(String(8))
    request: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any]]
    created_by: Mapped[str] = mapped_column(Text)
    trigger_type: Mapped[str] = mapped_column(String(16))
    trigger_event_id: Mapped[str | None] = mapped_column(Text)
    policy: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(8), default="copy", server_default="copy")
    plan: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    """Of a copy: the job whose plan it carries out."""
    retry_of: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    notify: Mapped[dict[str, Any] | None]
    traceparent: Mapped[str | None] = mapped_column(String(64))
    """The span that submitted it."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    is_failing_fast: Mapped[bool] = mapped_column(default=False)
    planned: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]
    failures: Mapped[list[Any] | None]
    """What its images failed for so far: counts by kind, code and side, each with the first of them."""
    warnings: Mapped[list[Any]]
    totals: Mapped[dict[str, Any] | None]
    """What its images come to that have ended, by what was to be done."""
    selection_counts: Mapped[list[Any] | None]
    """How many tags and repositories its rules take and drop for what; written when planning ends."""
    listings: Mapped[list[Any] | None]
    """Of a retry: the lists that could not be had before, which is all that is planned; null for all of the request."""
    waiting_for: Mapped[dict[str, Any] | None]
    """The registry that work of it waits for, until when and why."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(Serial, default=1)
    state_version: Mapped[int] = mapped_column(Serial, default=1)
    """The version in which anything but progress changed last."""
    units_left: Mapped[int] = mapped_column(default=1)
    images_queued: Mapped[int] = mapped_column(default=0)
    images_running: Mapped[int] = mapped_column(default=0)
    images_copied: Mapped[int] = mapped_column(default=0)
    images_planned: Mapped[int] = mapped_column(default=0, server_default="0")
    images_up_to_date: Mapped[int] = mapped_column(default=0)
    images_failed: Mapped[int] = mapped_column(default=0)
    images_cancelled: Mapped[int] = mapped_column(default=0)
    bytes_per_second: Mapped[int] = mapped_column(Serial, default=0)
    rate_bytes: Mapped[int] = mapped_column(Serial, default=0)
    """`bytes_transferred` when the rate was last worked out."""
    rate_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "created_at", "number"),
        Index(None, "state", "created_at", "number"),
        Index(
            None,
            "policy",
            "created_at",
            "number",
            postgresql_where=text("policy IS NOT NULL"),
            sqlite_where=text("policy IS NOT NULL"),
        ),
        Index(None, "created_by", "created_at", "number"),
        Index(None, "trigger_type", "created_at", "number"),
        Index(
            "ix_jobs_unfinished",
            "number",
            postgresql_where=text("state IN ('queued', 'running')"),
            sqlite_where=text("state IN ('queued', 'running')"),
        ),
        {"sqlite_autoincrement": True},
    )


class JobLabelRow(Base):
    """One label of a job, there to be searched for."""

    __tablename__ = "job_labels"

    job_number: Mapped[int] = mapped_column(Serial, ForeignKey(JobRow.number, ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
    """The job's, so that one index finds and sorts."""

    __table_args__ = (Index(None, "key", "value", "created_at", "job_number"),)


class ImageRow(Counted, Base):
    """One image of a job: one source to one destination. Positions are 0, 1, 2 … without gaps.

    What could not be planned has rows too: a list that could not be had, a copy that planning refused (`kind`).
    """

    __tablename__ = "images"

    job_number: Mapped[int] = mapped_column(Serial, ForeignKey(JobRow.number, ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    copy_number: Mapped[int]
    """Images of one copy have the same source, read once for all their destinations."""
    kind: Mapped[str] = mapped_column(String(8), default="image", server_default="image")
    rule: Mapped[int | None]
    """The rule that took it, or of a list the one that needed it, counted from 0."""
    source: Mapped[str] = mapped_column(Text)
    destination: Mapped[str] = mapped_column(Text)
    selection: Mapped[dict[str, Any] | None]
    """Which platforms are wanted and how, where not everything is; and what planning saw of digest tags."""
    seen_digest: Mapped[str | None] = mapped_column(String(135))
    """Where a plan is carried out, what it saw at the source; and at the destination, null for nothing there."""
    seen_destination_digest: Mapped[str | None] = mapped_column(String(135))
    state: Mapped[str] = mapped_column(String(16))
    action: Mapped[str | None] = mapped_column(String(12))
    """What was found to be done, by comparing both sides."""
    reason: Mapped[str | None] = mapped_column(Text)
    digest: Mapped[str | None] = mapped_column(String(135))
    destination_digest: Mapped[str | None] = mapped_column(String(135))
    previous_digest: Mapped[str | None] = mapped_column(String(135))
    media_type: Mapped[str | None] = mapped_column(Text)
    platforms: Mapped[list[Any] | None]
    companions: Mapped[dict[str, Any] | None]
    """Referrers and digest tags that came along: how many, and the first."""
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(Serial)

    __table_args__ = (
        Index(None, "job_number", "state", "position"),
        Index(None, "job_number", "revision"),
    )


class ImageLogRow(Base):
    """What was done for an image that failed, step by step; there are none of images that arrived."""

    __tablename__ = "image_logs"

    job_number: Mapped[int] = mapped_column(Serial, ForeignKey(JobRow.number, ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    steps: Mapped[list[Any]]


class UnitRow(Base):
    """What one worker does in one go: the planning of a job (`unit_index` 0), or a run of its images."""

    __tablename__ = "units"

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    job_number: Mapped[int] = mapped_column(Serial, ForeignKey(JobRow.number, ondelete="CASCADE"))
    unit_index: Mapped[int]
    kind: Mapped[str] = mapped_column(String(8))
    first_image: Mapped[int] = mapped_column(default=0)
    last_image: Mapped[int] = mapped_column(default=-1)
    state: Mapped[str] = mapped_column(String(8))
    priority: Mapped[int]
    """The queue's priority; larger goes first."""
    fence: Mapped[int] = mapped_column(default=0)
    """Raised by each claim; a write of an older claim finds another number and does not happen."""
    worker: Mapped[str | None] = mapped_column(String(64))
    claims: Mapped[int] = mapped_column(default=0)
    """Claims that did not end with the unit put back; too many, and the unit is what kills its workers."""
    failures: Mapped[int] = mapped_column(default=0)
    """How often it was put off: a registry did not answer its planning, or its destinations were in use."""
    not_before: Mapped[datetime | None]
    listings: Mapped[list[Any] | None]
    """Of a plan unit that is put off: the lists it is still to have; null for all there are."""
    updated_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("job_number", "unit_index"),
        Index(
            "ix_units_unfinished",
            "id",
            postgresql_where=text("state <> 'done'"),
            sqlite_where=text("state <> 'done'"),
        ),
        {"sqlite_autoincrement": True},
    )


class DestinationLockRow(Base):
    """A destination tag that a unit writes now, or that a later job wrote while an earlier one may still want to."""

    __tablename__ = "destination_holds"

    key: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    """A digest of the destination's text."""
    unit_id: Mapped[int | None] = mapped_column(Serial)
    written_by: Mapped[int] = mapped_column(Serial, default=0)
    """The highest number of a job that wrote it."""


class IdempotencyKeyRow(Base):
    """What a caller called a request, so that the same request again is the same job."""

    __tablename__ = "idempotency_keys"

    principal: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text)
    job_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)


class WorkerRow(Base):
    """A worker process's heartbeat; one whose counter stands still for a while, as others see it, is dead."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    concurrency: Mapped[int]
    heartbeats: Mapped[int] = mapped_column("beat", Serial, key="heartbeats", default=0)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
