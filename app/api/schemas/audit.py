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
    "peer": "192.0.2.17",
    "key_id": "3nWq7ZpXc1Rk",
    "request_id": "019ab2c4d5e67f8091a2b3c4d5e6f708",
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

    number: int = Field(description="Number of the entry: rises, and none is changed or removed.")
    at: datetime
    actor: str = Field(description="The key's name; `local`, `command-line`, a policy or a hook where there is none.")
    action: AuditAction
    target: str = Field(description="The name or id of what was changed.")
    peer: str | None = Field(description="The address the request came from; null where no request was.")
    key_id: str | None = Field(description="The id of the key it came with.")
    request_id: str | None = Field(description="As in `X-Request-Id` of the answer, and in the log.")
    details: dict[str, Any] = Field(
        description="`changes`: each field that differs, before and after, secrets masked. `secrets_set`: which "
        "secrets were sent. For jobs: what made them (trigger, policy, push event), and what was asked for, in short."
    )

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Show an entry."""
        context = entry.context
        return cls(
            number=entry.number,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            peer=context.peer,
            key_id=context.key_id,
            request_id=context.request_id,
            details=dict(entry.details),
        )


class AuditPage(PageOut[AuditEntryOut]):
    """Changes, newest first."""
