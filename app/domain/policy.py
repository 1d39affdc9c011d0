"""A policy as it is kept: with its version, when it runs next, and the last job made for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.domain.job import JobState
from app.domain.trigger import Policy


@dataclass(frozen=True, slots=True)
class LastJob:
    """The job made last for a policy, by its schedule, a push or a call."""

    id: str
    state: JobState
    trigger: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A policy as it is stored."""

    policy: Policy
    version: int
    created_at: datetime
    updated_at: datetime
    next_run_at: datetime | None = None
    last_job: LastJob | None = None


def next_run(policy: Policy, after: datetime) -> datetime | None:
    """Say when a policy runs by itself next; None where it does not."""
    if policy.schedule is None or not policy.enabled:
        return None
    return policy.schedule.next_after(after, name=policy.name)
