"""Who changed what: the entries of the audit log, with secrets named and never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, SecretStr

from app.domain.access import AUDIT_CONTEXT, AuditContext


class AuditAction(StrEnum):
    """What was done, to what."""

    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    REGISTRY_CREATED = "registry.created"
    REGISTRY_CHANGED = "registry.changed"
    REGISTRY_DELETED = "registry.deleted"
    POLICY_CREATED = "policy.created"
    POLICY_CHANGED = "policy.changed"
    POLICY_DELETED = "policy.deleted"
    POLICY_RUN = "policy.run"
    SUBSCRIPTION_CREATED = "subscription.created"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    SUBSCRIPTION_DELETED = "subscription.deleted"
    SUBSCRIPTION_DISABLED = "subscription.disabled"
    ACCESS_REFUSED = "access.refused"
    """Wrong keys or secrets from one peer: one entry for all of a minute."""
    JOB_SUBMITTED = "job.submitted"
    JOB_CANCELLED = "job.cancelled"
    JOB_RETRIED = "job.retried"
    JOB_DELETED = "job.deleted"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: when, by whom, what, to what, and how it differs from before."""

    at: datetime
    actor: str
    action: AuditAction
    target: str
    """The name or id of what was changed."""
    details: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    """Given by the log; rises."""
    context: AuditContext = field(default_factory=AUDIT_CONTEXT.get)
    """The request it was done for: the one the entry is made in."""

    @property
    def canonical(self) -> str:
        """The text that a link of the chain is made of: all of the entry, in one form only."""
        asked = (self.context.peer, self.context.key_id, self.context.request_id)
        said = (self.number, self.at.isoformat(), self.actor, self.action.value, self.target, self.details, *asked)
        return json.dumps(said, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class AuditLink:
    """One link of the chain: which entry it is for, and a hash of that entry and of the link before."""

    position: int
    """From 1, without gaps."""
    number: int
    """Of the entry."""
    hash: str
    key: str
    """Which key the hash was made with."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries a list shows; what is None does not matter."""

    actor: str | None = None
    action: AuditAction | None = None
    target: str | None = None
    since: datetime | None = None


def changes(before: BaseModel | None, after: BaseModel | None, *, sent: BaseModel | None = None) -> dict[str, Any]:
    """Describe how a value changed: each field that differs, before and after, and which secrets were `sent` for it.

    Secrets are masked on both sides, so only the name of a new one is shown.
    """
    old, new = _shown(before), _shown(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    details: dict[str, Any] = {"changes": {name: {"before": old.get(name), "after": new.get(name)} for name in names}}
    if secrets := sorted(_places(sent)):
        details["secrets_set"] = secrets
    return details


def _shown(value: BaseModel | None) -> dict[str, Any]:
    return value.model_dump(mode="json") if value is not None else {}


def _places(value: Any, path: str = "") -> Iterator[str]:
    match value:
        case SecretStr() if value.get_secret_value():
            yield path
        case BaseModel():
            for name in type(value).model_fields:
                yield from _places(getattr(value, name), f"{path}.{name}" if path else name)
        case _:
            return
