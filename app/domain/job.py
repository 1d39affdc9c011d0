"""A job and its images: the states of the state machine, allowed moves, progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from app.domain.notify_url import Notify
from app.domain.plan import Listing
from app.domain.reference import Digest
from app.domain.report import (
    ActionCounts,
    CompanionNames,
    ExecutionError,
    JobWarning,
    PlanAction,
    RowKind,
    SelectionCount,
)
from app.domain.request import SyncRequest


class JobKind(StrEnum):
    """What a job does with its images: copy them, or say what a copy would do (dry run)."""

    COPY = "copy"
    PLAN = "plan"


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
"""A running job that is put back stays `running`: its units are queued again, its caller sees only progress."""


class ImageState(StrEnum):
    """Where one image of a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    COPIED = "copied"
    PLANNED = "planned"
    """Of a plan: it would be copied."""
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


TriggerType = Literal["api", "schedule", "push", "retry"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """What made the job: a call, a policy's schedule, a push event, a retry."""

    type: TriggerType = "api"
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many of a job's images are in which state."""

    queued: int = 0
    running: int = 0
    copied: int = 0
    planned: int = 0
    up_to_date: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All images known so far."""
        ended = self.copied + self.planned + self.up_to_date + self.failed + self.cancelled
        return self.queued + self.running + ended


class BlobCounts(Struct, frozen=True, gc=False):
    """What became of blobs: found at the destination, mounted there, or sent."""

    present: int = 0
    mounted: int = 0
    transferred: int = 0


class ByteCounts(Struct, frozen=True, gc=False):
    """Bytes of blobs: known to be needed, dealt with in any way, sent over the wire; all but the last never shrink."""

    total: int = 0
    done: int = 0
    transferred: int = 0
    per_second: int = 0

    @property
    def to_send(self) -> int:
        """Of those needed, what is not dealt with: of a plan, what a copy would send."""
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; `planned` turns true when all its images are known."""

    images: ImageCounts = field(default_factory=ImageCounts)
    blobs: BlobCounts = field(default_factory=BlobCounts)
    bytes: ByteCounts = field(default_factory=ByteCounts)
    planned: bool = False


@dataclass(frozen=True, slots=True)
class JobPause:
    """What a job waits for: a registry that asked to be left alone, and until when."""

    registry: str
    until: datetime
    reason: str


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
    kind: JobKind = JobKind.COPY
    plan: str | None = None
    """Of a copy: the job whose plan it carries out, and nothing else."""
    retry_of: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    notify: Notify | None = None
    traceparent: str | None = None
    """The span that submitted it (W3C Trace Context), of which its work is a part; None where tracing is off."""
    cancel_requested: bool = False
    progress: Progress = field(default_factory=Progress)
    error: ExecutionError | None = None
    warnings: tuple[JobWarning, ...] = ()
    totals: ActionCounts = field(default_factory=ActionCounts)
    """Of its images that have ended."""
    selection: tuple[SelectionCount, ...] = ()
    """How many tags and repositories its rules take and drop for what, once it is planned."""
    listings: frozenset[Listing] | None = None
    """Of a retry: the lists that could not be had before, which is all that is planned; None for all of the request."""
    waiting_for: JobPause | None = None
    """Of some of its work, while that is put off; other work of it may go on."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    version: int = 1

    @property
    def done(self) -> bool:
        """Whether the job will not move any more."""
        return self.state.done

    @property
    def dry_run(self) -> bool:
        """Whether it copies nothing."""
        return self.kind is JobKind.PLAN


class Image(Struct, frozen=True, gc=False):
    """One image a job copies: one source to one destination; or what stands among them for what can't be planned."""

    id: str
    job_id: str
    source: str
    destination: str
    state: ImageState
    kind: RowKind = "image"
    rule: int | None = None
    """The rule that took it, or of a list the one that needed it, counted from 0."""
    action: PlanAction | None = None
    """What was found to be done, once both sides were compared."""
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    companions: CompanionNames = CompanionNames()
    blobs: BlobCounts = BlobCounts()
    bytes: ByteCounts = ByteCounts()
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
    """Which jobs a list shows; what is None or empty does not matter."""

    states: tuple[JobState, ...] = ()
    """Any of these."""
    policy: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """All of these, by key and value."""
    created_by: str | None = None
    trigger: TriggerType | None = None
    source: str | None = None
    """How the source of one of its rules begins."""
    destination: str | None = None
    """How a destination of one of its rules begins."""
    since: datetime | None = None
    """Submitted then or later."""
    until: datetime | None = None
    """Submitted before that."""
    q: str | None = None
    """What its id, policy, caller, labels, error, or a source or destination of its rules contains."""
    kind: JobKind | None = None


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Which images of a job a list shows; what is None or empty does not matter."""

    states: tuple[ImageState, ...] = ()
    """Any of these."""
    q: str | None = None
    """What its source, destination, digest or error contains."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something about a job changed: what it is now. Numbers rise within a job; `end` is the last.

    Events tell the present, not the past: one who comes late, or reads slowly, sees each image once, as it is.
    """

    number: int
    name: Literal["job", "image", "progress", "end"]
    data: Job | Image | Progress
