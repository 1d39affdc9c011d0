"""The audit log: who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.pages import PageOut
from app.domain.audit import AuditAction, AuditEntry

AUDIT_ENTRY: dict[str, Any] = {
    "number": 17,
    "at": "2026-11-23T08:31:02Z",
    "actor": "ops",
    "action": "registry.changed",
    "target": "old-acr",
    "details": {
        "changes": {
            "auth": {
                "before": {"type": "none"},
                "after": {"type": "basic", "username": "puller", "password": "**********"},
            }
        },
        "secrets_set": ["auth.password"],
    },
}


class AuditEntryOut(BaseModel):
    """One change."""

    model_config = ConfigDict(from_attributes=True, extra="forbid", json_schema_extra={"examples": [AUDIT_ENTRY]})

    number: int = Field(description="Rises; entries are never changed or removed.")
    at: datetime
    actor: str = Field(description="The key's name; `local`, `command-line`, a policy or a hook where there is none.")
    action: AuditAction
    target: str = Field(description="The name or id of what was changed.")
    details: dict[str, Any] = Field(
        description="`changes`: each field that differs, before and after, secrets masked. `secrets_set`: which "
        "secrets were sent. For jobs: what made them (trigger, policy, push event), and what was asked for, in short."
    )

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Show an entry."""
        return cls.model_validate(entry)


class AuditPage(PageOut[AuditEntryOut]):
    """Changes, newest first."""
