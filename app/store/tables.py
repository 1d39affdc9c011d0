"""The tables. What a row means is said here once; what may be done with it is said by the stores.

Jobs have a number of our own beside the id that callers see: it is short (a million images carry it), and it is the
order in which jobs were accepted. `revision` of an image and `version` of its job come from one counter per job, raised
under the lock of the job's row: whoever has seen everything up to a number misses nothing by asking for what is higher.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, MetaData, String, Table, Text, UniqueConstraint, Uuid, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.store.columns import Json, Serial, UtcDateTime


class Base(DeclarativeBase):
    """What all tables share: names of constraints are derived, so that a migration can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012 — SQLAlchemy's


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
    retry_of: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    notify: Mapped[dict[str, Any] | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    is_failing_fast: Mapped[bool] = mapped_column(default=False)
    planned: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[Any]]
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
    """One image of a job: one source to one destination. Positions are 0, 1, 2 … without gaps."""

    __tablename__ = "images"

    job_number: Mapped[int] = mapped_column(Serial, ForeignKey(JobRow.number, ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    copy_number: Mapped[int]
    """Images of one copy have the same source, read once for all their destinations."""
    source: Mapped[str] = mapped_column(Text)
    destination: Mapped[str] = mapped_column(Text)
    selection: Mapped[dict[str, Any] | None]
    """Which platforms are wanted and how, where not everything is; and what planning saw of digest tags."""
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    digest: Mapped[str | None] = mapped_column(String(135))
    destination_digest: Mapped[str | None] = mapped_column(String(135))
    previous_digest: Mapped[str | None] = mapped_column(String(135))
    media_type: Mapped[str | None] = mapped_column(Text)
    platforms: Mapped[list[Any] | None]
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(Serial)

    __table_args__ = (
        Index(None, "job_number", "state", "position"),
        Index(None, "job_number", "revision"),
    )


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
    """What the engine is asked to go by; larger goes first."""
    fence: Mapped[int] = mapped_column(default=0)
    """Raised by each claim; a write of an older claim finds another number and does not happen."""
    worker: Mapped[str | None] = mapped_column(String(64))
    claims: Mapped[int] = mapped_column(default=0)
    """Claims that did not end with the unit given back; too many, and the unit is what kills its workers."""
    failures: Mapped[int] = mapped_column(default=0)
    """How often it was put off: a registry did not answer its planning, or its destinations were in use."""
    not_before: Mapped[datetime | None]
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


class DestinationHoldRow(Base):
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
    """A living worker process; one whose `beat` stands still for a while, as others see it, is dead."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    concurrency: Mapped[int]
    beat: Mapped[int] = mapped_column(Serial, default=0)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class RegistryRow(Base):
    """A named registry: its entry without secrets, and the secrets, sealed."""

    __tablename__ = "registries"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text, unique=True)
    entry: Mapped[dict[str, Any]]
    secrets: Mapped[dict[str, Any] | None]
    """Sealed texts by their place in the entry, such as `auth.password`."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)


class RegistryPressureRow(Base):
    """How hard a registry may be asked, as the workers have found out: shared so that each need not find it out."""

    __tablename__ = "registry_pressures"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    """The registry entry's."""
    window: Mapped[float]
    """How many requests at once went well, after the last refusal."""
    changed_at: Mapped[datetime]
    """When it was last made smaller."""
    paused_until: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class ApiKeyRow(Base):
    """An API key, as much of it as is kept: the public id and the digest of the whole."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class BlobLocationRow(Base):
    """Where a blob was seen: a repository it may be mounted from."""

    __tablename__ = "blob_locations"

    host: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(String(135), primary_key=True)
    repository: Mapped[str] = mapped_column(Text, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(index=True)


class UploadSessionRow(Base):
    """An upload that a registry still holds open, so that another process can go on with it."""

    __tablename__ = "upload_sessions"

    host: Mapped[str] = mapped_column(Text, primary_key=True)
    repository: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(String(135), primary_key=True)
    location: Mapped[str] = mapped_column(Text)
    """The session's URL, sealed: it may be all that is needed to write there."""
    updated_at: Mapped[datetime] = mapped_column(index=True)
    worker: Mapped[str | None] = mapped_column(String(64))
    """Who writes to it, until that one leaves it or dies: two that write to one session spoil it."""


def table_of(row: type[Base]) -> Table:
    """Give the plain table of a class: stores read and write columns, never objects that a session keeps."""
    table = row.__table__
    if not isinstance(table, Table):
        raise TypeError(f"{row.__name__} is not mapped to a table")
    return table
