"""A job and its images: states, allowed moves, progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from app.domain.address import Notify
from app.domain.reference import Digest
from app.domain.report import ExecutionError, JobWarning
from app.domain.request import SyncRequest


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def done(self) -> bool:
        """Whether the job will not move any more."""
        return not JOB_MOVES[self]


JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""A running job that is given back stays `running`: its units are queued again, its caller sees only progress."""


class ImageState(StrEnum):
    """Where one image of a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    COPIED = "copied"
    UP_TO_DATE = "up_to_date"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def done(self) -> bool:
        """Whether the image will not move any more in this job."""
        return self not in {ImageState.QUEUED, ImageState.RUNNING}


class Priority(StrEnum):
    """Which of two waiting jobs goes first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Trigger:
    """What made the job: a call, a policy's schedule, a push event, a retry."""

    type: Literal["api", "schedule", "push", "retry"] = "api"
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many of a job's images are in which state."""

    queued: int = 0
    running: int = 0
    copied: int = 0
    up_to_date: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All images known so far."""
        return self.queued + self.running + self.copied + self.up_to_date + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class BlobCounts:
    """What became of blobs: found at the destination, mounted there, or sent."""

    present: int = 0
    mounted: int = 0
    transferred: int = 0


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Bytes of blobs: known to be needed, dealt with in any way, sent over the wire; all but the last never shrink."""

    total: int = 0
    done: int = 0
    transferred: int = 0
    per_second: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; `planned` turns true when all its images are known."""

    images: ImageCounts = field(default_factory=ImageCounts)
    blobs: BlobCounts = field(default_factory=BlobCounts)
    bytes: ByteCounts = field(default_factory=ByteCounts)
    planned: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A sync request on its way to being done."""

    id: str
    state: JobState
    request: SyncRequest
    created_at: datetime
    created_by: str
    trigger: Trigger = field(default_factory=Trigger)
    priority: Priority = Priority.NORMAL
    policy: str | None = None
    retry_of: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    notify: Notify | None = None
    cancel_requested: bool = False
    progress: Progress = field(default_factory=Progress)
    error: ExecutionError | None = None
    warnings: tuple[JobWarning, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    version: int = 1

    @property
    def done(self) -> bool:
        """Whether the job will not move any more."""
        return self.state.done


@dataclass(frozen=True, slots=True)
class Image:
    """One image a job copies: one source to one destination."""

    id: str
    job_id: str
    source: str
    destination: str
    state: ImageState
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    blobs: BlobCounts = field(default_factory=BlobCounts)
    bytes: ByteCounts = field(default_factory=ByteCounts)
    attempts: int = 0
    error: ExecutionError | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a caller calls a request: the same key and fingerprint are the same request, sent again."""

    principal: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submit came to; `replayed` when the job was there already, by its idempotency key."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a list shows; what is None does not matter."""

    state: JobState | None = None
    policy: str | None = None
    label: tuple[str, str] | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something about a job changed: what it is now. Numbers rise within a job; `end` is the last.

    Events tell the present, not the past: one who comes late, or reads slowly, sees each image once, as it is.
    """

    number: int
    name: Literal["job", "image", "progress", "end"]
    data: Job | Image | Progress
