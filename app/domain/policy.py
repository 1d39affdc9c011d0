"""Policies: recurring syncs, as they are entered and as they are stored with version, next run and last job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.job import JobState
from app.domain.request import MAX_RULES, Labels, Options, Rule, SyncRequest
from app.domain.schedule import Schedule

PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]


class Policy(BaseModel):
    """A recurring sync: what to copy, when by itself, and whether pushes make jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PolicyName
    enabled: bool = True
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=MAX_RULES)
    options: Options = Options()
    schedule: Schedule | None = None
    on_push: bool = False
    labels: Labels = Field(default_factory=dict)

    @property
    def request(self) -> SyncRequest:
        """What one whole run asks for."""
        return SyncRequest(rules=self.rules, options=self.options)

    @model_validator(mode="after")
    def _is_a_request(self) -> Self:
        SyncRequest(rules=self.rules, options=self.options)
        return self


@dataclass(frozen=True, slots=True)
class LastJob:
    """The job made last for a policy, by its schedule, a push or a call."""

    id: str
    state: JobState
    trigger: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it is stored."""

    policy: Policy
    version: int
    created_at: datetime
    updated_at: datetime
    next_run_at: datetime | None = None
    last_job: LastJob | None = None


def next_run(policy: Policy, after: datetime) -> datetime | None:
    """Return when a policy runs by itself next; None where it does not."""
    if policy.schedule is None or not policy.enabled:
        return None
    return policy.schedule.next_after(after, name=policy.name)
