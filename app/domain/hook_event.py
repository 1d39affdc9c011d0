"""A push event as it is recorded: what a registry sent, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.push_event import Dialect, PushEvent
from app.domain.reference import Digest, Tag


class HookEventState(StrEnum):
    """What became of an event."""

    RECEIVED = "received"
    """Some policy takes what was pushed; its jobs are made in a moment."""
    ACCEPTED = "accepted"
    """Jobs were made of it, or such a job was waiting already."""
    IGNORED = "ignored"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class HookEvent:
    """One event of one delivery, as it is stored; what the sender did not say is None."""

    id: str
    registry: str
    """The name of the registry whose hook it came to."""
    format: Dialect
    received_at: datetime
    state: HookEventState
    reason: str | None = None
    """Why nothing came of it: a stable word."""
    detail: str | None = None
    action: str | None = None
    repository: str | None = None
    tag: Tag | None = None
    digest: Digest | None = None
    user_agent: str | None = None
    event_id: str | None = None
    occurred_at: datetime | None = None
    jobs: tuple[str, ...] = ()

    @classmethod
    def of_push(cls, push: PushEvent, *, event_id: str, registry: str, received_at: datetime) -> HookEvent:
        """Begin the record of a push; `event_id` is ours."""
        return cls(
            id=event_id,
            registry=registry,
            format=push.dialect,
            received_at=received_at,
            state=HookEventState.RECEIVED,
            action=push.action,
            repository=push.repository,
            tag=push.tag,
            digest=push.digest,
            user_agent=push.user_agent,
            event_id=push.event_id,
            occurred_at=push.occurred_at,
        )


@dataclass(frozen=True, slots=True)
class HookEventFilter:
    """Which events a list shows; what is None does not matter."""

    registry: str | None = None
    state: HookEventState | None = None
