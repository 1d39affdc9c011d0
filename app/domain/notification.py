"""Outbound notifications: who is notified of what.

An event of a job becomes one `Delivery` for each subscription that wants it, and one for the address the job itself
brought along (`Notify`). A delivery is tried over days (`dead_letter.py`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.domain.errors import FieldError
from app.domain.job import Job, JobState
from app.domain.notify_url import EmailAddress, SubscriptionName, shown_url
from app.domain.request import Labels

MAX_SECRETS = 3
"""Signatures are made with all secrets that are still good; each costs a header's length."""
SECRET_PREFIX = "whsec_"  # noqa: S105 — a form, not a secret
_SECRET_BYTES = range(24, 65)
"""Standard Webhooks, "Symmetric": 192 to 512 bits."""


class EventType(StrEnum):
    """What a message is about."""

    JOB_STARTED = "job.started"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    POLICY_SUMMARY = "policy.summary"
    TEST = "subscription.test"


JobEventType = Literal[EventType.JOB_STARTED, EventType.JOB_SUCCEEDED, EventType.JOB_FAILED, EventType.JOB_CANCELLED]
SubscribedEvent = JobEventType | Literal[EventType.POLICY_SUMMARY]
ENDINGS: tuple[JobEventType, ...] = (EventType.JOB_SUCCEEDED, EventType.JOB_FAILED, EventType.JOB_CANCELLED)
EVENT_OF_STATE: dict[JobState, JobEventType] = {
    JobState.RUNNING: EventType.JOB_STARTED,
    JobState.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobState.FAILED: EventType.JOB_FAILED,
    JobState.CANCELLED: EventType.JOB_CANCELLED,
}
"""Of a job that comes into a state; `queued` is not reported."""
MessageFormat = Literal["standard", "cloudevents", "slack", "teams", "email"]
MAX_RECIPIENTS = 20


def _signing_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(SECRET_PREFIX) or len(key) not in _SECRET_BYTES:
        message = "a secret is whsec_ and 24 to 64 random bytes in base64 (Standard Webhooks)"
        raise PydanticCustomError("invalid_secret", message)
    return secret


SigningSecret = Annotated[SecretStr, AfterValidator(_signing_secret)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventFilter(_Value):
    """Which jobs a subscription is about: of any of these policies, with all of these labels; empty means all."""

    policies: tuple[Annotated[str, Field(min_length=1, max_length=63)], ...] = Field(default=(), max_length=100)
    labels: Labels = Field(default_factory=dict)

    def matches(self, job: Job) -> bool:
        """Return whether it is about this job."""
        return self.includes(job.policy, job.labels)

    def includes(self, policy: str | None, labels: Mapping[str, str]) -> bool:
        """Return whether it is about jobs of this policy, or of none, with these labels."""
        if self.policies and policy not in self.policies:
            return False
        return self.labels.items() <= labels.items()


class Subscription(_Value):
    """An address, or for e-mail several, that is notified of jobs, and of which."""

    name: SubscriptionName
    url: str | None = None
    """Of one that is stored, sealed."""
    to: tuple[EmailAddress, ...] = Field(default=(), max_length=MAX_RECIPIENTS)
    events: tuple[SubscribedEvent, ...] = Field(default=ENDINGS, min_length=1, max_length=len(EventType))
    filter: EventFilter = EventFilter()
    format: MessageFormat = "standard"
    enabled: bool = True

    @property
    def as_shown(self) -> Subscription:
        """The same, with no more of its address than may be shown."""
        return self if self.url is None else self.model_copy(update={"url": shown_url(self.url)})

    @property
    def is_email(self) -> bool:
        """Whether it is sent by e-mail, unsigned, and not posted to an address."""
        return self.format == "email"

    def receiver_errors(self) -> tuple[FieldError, ...]:
        """Return what is wrong about where it goes: e-mail has addresses in `to`, everything else an `url`."""
        errors = []
        if self.is_email:
            if not self.to:
                errors.append(FieldError("/to", "missing", "an e-mail needs addresses: to: [ops@example.com]"))
            if self.url is not None:
                errors.append(
                    FieldError("/url", "invalid_value", "an e-mail goes to the addresses in `to`, not to a url")
                )
        else:
            if self.url is None:
                errors.append(FieldError("/url", "missing", "this is required: where to POST, https://host/path"))
            if self.to:
                errors.append(FieldError("/to", "invalid_value", "addresses are for format: email; leave them out"))
        return tuple(errors)

    def wants(self, event: EventType, job: Job) -> bool:
        """Return whether this event of this job is reported."""
        return self.enabled and event in self.events and self.filter.matches(job)

    def wants_summary(self, policy: str, labels: Mapping[str, str]) -> bool:
        """Return whether a policy, with these labels, is summed up for it once a day."""
        return self.enabled and EventType.POLICY_SUMMARY in self.events and self.filter.includes(policy, labels)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A sealed secret, and until when it signs beside the newest one; the newest one has no end."""

    token: str
    ends_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it still signs."""
        return self.ends_at is None or now < self.ends_at


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """A subscription as it is stored, its secrets closed."""

    subscription: Subscription
    secrets: tuple[StoredSecret, ...]
    """Newest first."""
    version: int
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None = None
    """Since when its endpoint has taken nothing of what was sent."""
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    """Why the service, and not an operator, switched it off."""


class DeliveryState(StrEnum):
    """What became of one attempt."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to one address; its id stays the same however often it is sent."""

    id: str
    subscription: str
    event: EventType
    job_id: str | None
    body: str
    format: MessageFormat
    created_at: datetime
    due_at: datetime
    url: str | None = None
    """Where a job's own notification goes; None: to the subscription's address."""
    traceparent: str | None = None
    """Of the job it tells of."""
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    attempted_at: datetime | None = None
    finished_at: datetime | None = None
    status: int | None = None
    """The HTTP status of the last answer."""
    error: str | None = None

    @property
    def is_of_subscription(self) -> bool:
        """Whether it says something about the subscription's own endpoint: tests, and jobs' own addresses, do not."""
        return self.url is None and self.event is not EventType.TEST


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries of a subscription a list shows; what is None does not matter."""

    state: DeliveryState | None = None
    event: EventType | None = None
    job_id: str | None = None


def delivery_id(*parts: str) -> str:
    """Derive a message's id from what it is about: one event is never written twice for one receiver."""
    return "msg_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
