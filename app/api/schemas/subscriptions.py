"""Subscriptions and deliveries: who is notified of what, and what became of each notification."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.api.schemas.pages import PageOut
from app.api.schemas.round_trip import RoundTripIn
from app.domain.duration import parse_duration
from app.domain.notification import (
    ENDINGS,
    MAX_RECIPIENTS,
    Delivery,
    DeliveryState,
    EventFilter,
    EventType,
    MessageFormat,
    SigningSecret,
    StoredSubscription,
    SubscribedEvent,
    Subscription,
)
from app.domain.notify_url import EmailAddress, NotifyUrl, shown_url

MAX_OVERLAP_SECONDS = 30 * 86_400
SUBSCRIPTION: dict[str, Any] = {
    "url": "https://ci.example.com/hooks/registry-sync",
    "to": [],
    "events": ["job.succeeded", "job.failed", "job.cancelled"],
    "filter": {"policies": ["hub-to-harbor"], "labels": {"team": "platform"}},
    "format": "standard",
}
SUBSCRIPTION_SEEN: dict[str, Any] = {
    "name": "ci",
    **SUBSCRIPTION,
    "enabled": True,
    "disabled_reason": None,
    "disabled_at": None,
    "failing_since": None,
    "secrets": [{"ends_at": None}],
    "secret": None,
    "created_at": "2026-11-23T08:31:02Z",
    "updated_at": "2026-11-23T08:31:02Z",
    "version": 1,
}
DELIVERY: dict[str, Any] = {
    "id": "msg_7d0f2b6c1e9a4835b0c4d2e6f8a19370",
    "subscription": "ci",
    "event": "job.succeeded",
    "job_id": "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708",
    "url": None,
    "state": "pending",
    "attempts": 2,
    "status": 502,
    "error": "refused",
    "attempted_at": "2026-11-23T08:31:07Z",
    "next_attempt_at": "2026-11-23T08:31:27Z",
    "created_at": "2026-11-23T08:31:02Z",
    "finished_at": None,
}


def _overlap(text: str) -> str:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise PydanticCustomError("invalid_duration", "{reason}", {"reason": str(error)}) from error
    if seconds > MAX_OVERLAP_SECONDS:
        raise PydanticCustomError("invalid_duration", "an old secret signs for 30 days more at most")
    return text


class SubscriptionIn(RoundTripIn):
    """An address, or for e-mail several, that is notified of jobs."""

    SHOWN_ONLY = frozenset({"disabled_reason", "disabled_at", "failing_since", "secrets", "created_at", "updated_at"})

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [SUBSCRIPTION]})

    name: str | None = Field(default=None, description="The name in the path; may be left out.")
    url: NotifyUrl | None = Field(
        default=None,
        description="Where to POST: https, and a public address unless the settings allow the host to be private. "
        "Required, but for e-mail. It is stored sealed, and shown with `***` for what may be a secret; as it is shown, "
        "it stands for the stored one.",
    )
    to: tuple[EmailAddress, ...] = Field(
        default=(), max_length=MAX_RECIPIENTS, description="Of e-mail: who gets it, plain addresses."
    )
    events: tuple[SubscribedEvent, ...] = Field(
        default=ENDINGS,
        min_length=1,
        max_length=len(EventType),
        description="Which events it is sent; `policy.summary` comes once a day for each policy.",
    )
    filter: EventFilter = Field(
        default=EventFilter(), description="Jobs of any of these policies, with all of these labels; empty means all."
    )
    format: MessageFormat = Field(
        default="standard",
        description="The body: Standard Webhooks' own, a structured CloudEvent, a message for an incoming webhook of "
        "Slack, a card for a workflow of Microsoft Teams, or an e-mail, where the settings name a mail server.",
    )
    enabled: bool = Field(default=True, description="True also switches one on again that had been switched off.")
    secret: SigningSecret | None = Field(
        default=None,
        description="What to sign with: `whsec_` and 24 to 64 bytes in base64; write-only. Left out, the one kept "
        "stays; where there is none, one is made and shown once.",
    )
    secret_overlap: Annotated[str, AfterValidator(_overlap)] = Field(
        default="24h", description="How long the secret before goes on signing beside a new one; `0s` ends it at once."
    )

    def subscription(self, name: str) -> Subscription:
        """Return the subscription, without its secret."""
        return Subscription(
            name=name,
            url=self.url,
            to=tuple(dict.fromkeys(self.to)),
            events=tuple(dict.fromkeys(self.events)),
            filter=self.filter,
            format=self.format,
            enabled=self.enabled,
        )

    @property
    def overlap(self) -> timedelta:
        """How long the secret before goes on signing."""
        return timedelta(seconds=parse_duration(self.secret_overlap))


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class SecretOut(_Out):
    """A secret that signs."""

    ends_at: datetime | None = Field(description="When it stops signing; null for the newest one.")


class SubscriptionOut(_Out):
    """A subscription, without its secrets."""

    model_config = ConfigDict(json_schema_extra={"examples": [SUBSCRIPTION_SEEN]})

    name: str
    url: str | None = Field(description="With `***` for parts that may be secrets; null for e-mail.")
    to: list[str] = Field(default=[], description="Who gets it, of e-mail.")
    events: list[EventType]
    filter: EventFilter
    format: MessageFormat
    enabled: bool
    disabled_reason: str | None = Field(description="Why the service switched it off; null where an operator did.")
    disabled_at: datetime | None
    failing_since: datetime | None = Field(description="Since when the endpoint has taken nothing.")
    secrets: list[SecretOut] = Field(description="What signs, newest first; the secrets themselves are never shown.")
    secret: str | None = Field(default=None, description="The secret that was made for you: shown this once.")
    created_at: datetime
    updated_at: datetime
    version: int = Field(description="Also the `ETag`; send it as `If-Match` to change just this version.")

    @classmethod
    def of(cls, existing: StoredSubscription, *, now: datetime, secret: str | None = None) -> Self:
        """Show a subscription."""
        return cls(
            **existing.subscription.as_shown.model_dump(),
            disabled_reason=existing.disabled_reason,
            disabled_at=existing.disabled_at,
            failing_since=existing.failing_since,
            secrets=[SecretOut(ends_at=one.ends_at) for one in existing.secrets if one.is_good(now)],
            secret=secret,
            created_at=existing.created_at,
            updated_at=existing.updated_at,
            version=existing.version,
        )


class SubscriptionPage(PageOut[SubscriptionOut]):
    """Subscriptions, by name."""


class DeliveryOut(_Out):
    """One message, and what became of sending it."""

    model_config = ConfigDict(json_schema_extra={"examples": [DELIVERY]})

    id: str = Field(
        description="Sent as `webhook-id`, the same at each attempt: to know a message by that comes twice."
    )
    subscription: str
    event: EventType
    job_id: str | None
    url: str | None = Field(
        description="The job's own address, with `***` for parts that may be secrets; null where it goes to the "
        "subscription's."
    )
    state: DeliveryState
    attempts: int
    status: int | None = Field(description="HTTP status of the last answer; of e-mail the mail server's reply code.")
    error: str | None = Field(
        description="What went wrong last: `timeout`, `unreachable`, `tls_error`, `address_refused`, `redirected`, "
        "`refused` (any other status), `gone` (410), `secret_unreadable`, `subscription_disabled`, "
        "`subscription_changed` (from or to e-mail); of e-mail also `login_refused`, `email_not_set_up`, "
        "`recipients_refused` (some of them: the others have it)."
    )
    attempted_at: datetime | None
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Show a delivery."""
        return cls(
            id=delivery.id,
            subscription=delivery.subscription,
            event=delivery.event,
            job_id=delivery.job_id,
            url=shown_url(delivery.url) if delivery.url else None,
            state=delivery.state,
            attempts=delivery.attempts,
            status=delivery.status,
            error=delivery.error,
            attempted_at=delivery.attempted_at,
            next_attempt_at=delivery.due_at if delivery.state is DeliveryState.PENDING else None,
            created_at=delivery.created_at,
            finished_at=delivery.finished_at,
        )


class DeliveryPage(PageOut[DeliveryOut]):
    """Deliveries of one subscription, newest first."""
