"""Policies: recurring syncs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.pages import PageOut
from app.api.schemas.round_trip import RoundTripIn
from app.domain.job import JobState
from app.domain.policy import Policy, StoredPolicy
from app.domain.request import Labels, Options, Rule, SyncRequest
from app.domain.schedule import Schedule

POLICY_NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
POLICY: dict[str, Any] = {
    "rules": [
        {
            "source": "old.azurecr.io/platform/**",
            "destination": "registry.example.com/mirror",
            "tags": {"exclude": ["*-rc*"]},
        }
    ],
    "schedule": {"cron": "17 */6 * * *", "timezone": "Europe/Berlin", "jitter": "5m"},
    "on_push": True,
    "labels": {"team": "platform"},
}
POLICY_SEEN: dict[str, Any] = {
    "name": "acr-to-mirror",
    "enabled": True,
    "rules": [
        {
            "source": "old.azurecr.io/platform/**",
            "destination": ["registry.example.com/mirror"],
            "repositories": {"include": [], "exclude": []},
            "tags": {
                "include": [],
                "exclude": ["*-rc*"],
                "always": [],
                "newest": None,
                "newest_by": "version",
                "min_matches": None,
            },
            "platforms": [],
            "platform_mode": "auto",
            "artifact_types": {"include": [], "exclude": []},
            "created_since": None,
            "min_age": None,
            "mapping": {"strip_prefix": None, "substitute": []},
        }
    ],
    "options": {
        "referrers": True,
        "digest_tags": True,
        "companions": "always",
        "force": False,
        "overwrite": "always",
        "foreign_layers": "skip",
        "max_bytes_per_second": None,
        "fail_fast": False,
    },
    "schedule": {"cron": "17 */6 * * *", "timezone": "Europe/Berlin", "jitter": "5m", "catch_up": "once"},
    "on_push": True,
    "labels": {"team": "platform"},
    "next_run_at": "2026-11-23T11:20:41Z",
    "last_job": {
        "id": "019ab2c4-d5ea-7b03-8d4e-5f60718293a4",
        "state": "succeeded",
        "trigger": "schedule",
        "created_at": "2026-11-23T05:20:41Z",
        "finished_at": "2026-11-23T05:21:13Z",
    },
    "created_at": "2026-11-20T08:31:02Z",
    "updated_at": "2026-11-20T08:31:02Z",
    "version": 1,
}


class PolicyIn(RoundTripIn, SyncRequest):
    """A policy to be kept: what to copy, when by itself, and whether pushes set it off."""

    SHOWN_ONLY = frozenset({"next_run_at", "last_job", "created_at", "updated_at"})

    model_config = ConfigDict(json_schema_extra={"examples": [POLICY]})

    name: str | None = Field(default=None, description="The name in the path; may be left out.")
    enabled: bool = Field(default=True, description="False pauses it: neither its schedule nor pushes set it off.")
    schedule: Schedule | None = Field(
        default=None,
        description="When it runs by itself: five fields of cron in a time zone, up to `jitter` later. "
        "`catch_up` says what becomes of runs that were missed: `once` makes them one run, `skip` drops them.",
    )
    on_push: bool = Field(default=False, description="Whether what is pushed to its sources is copied at once.")
    labels: Labels = Field(default_factory=dict, description="Labels that each of its jobs gets.")

    def policy(self, name: str) -> Policy:
        """Return the policy."""
        fields: dict[str, Any] = {
            field: getattr(self, field) for field in type(self).model_fields if field != "version"
        }
        return Policy(**(fields | {"name": name}))


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class LastJobOut(_Out):
    """The job made last for a policy."""

    id: str
    state: JobState
    trigger: Literal["api", "schedule", "push", "retry"]
    created_at: datetime
    finished_at: datetime | None


class PolicyFieldsOut(_Out):
    """What a policy says."""

    name: str
    enabled: bool
    rules: list[Rule]
    options: Options
    schedule: Schedule | None
    on_push: bool
    labels: dict[str, str]


class PolicyOut(PolicyFieldsOut):
    """A policy as it is stored."""

    model_config = ConfigDict(json_schema_extra={"examples": [POLICY_SEEN]})

    next_run_at: datetime | None = Field(description="Null where it does not run by itself.")
    last_job: LastJobOut | None = Field(description="Null before the first, and when it was forgotten.")
    created_at: datetime
    updated_at: datetime
    version: int = Field(description="Raised by each change; the `ETag` begins with it.")

    @classmethod
    def of(cls, existing: StoredPolicy) -> Self:
        """Show a policy."""
        return cls(
            **dict(PolicyFieldsOut.model_validate(existing.policy)),
            next_run_at=existing.next_run_at,
            last_job=None if existing.last_job is None else LastJobOut.model_validate(existing.last_job),
            created_at=existing.created_at,
            updated_at=existing.updated_at,
            version=existing.version,
        )


class PolicyPage(PageOut[PolicyOut]):
    """Policies, by name."""
