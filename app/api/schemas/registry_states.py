"""How the workers stand with a registry, as its resource shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

REGISTRY_STATE: dict[str, Any] = {
    "window": 16,
    "in_flight": 0,
    "paused_until": "2026-11-23T14:31:02Z",
    "reason": "old.azurecr.io answered 429: TOOMANYREQUESTS",
    "quota": {"remaining": 3, "limit": 100},
    "last_error": {
        "code": "rate_limited",
        "message": "old.azurecr.io answered 429: TOOMANYREQUESTS",
        "status": 429,
        "at": "2026-11-23T08:31:02Z",
    },
    "login": {
        "type": "azure",
        "valid_until": "2026-11-23T17:12:40Z",
        "renewing_since": None,
        "last_error": None,
    },
    "certificate_ends_at": "2027-01-14T12:00:00Z",
}


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class QuotaOut(_Out):
    """What the registry last said is left of a rate limit."""

    remaining: int
    limit: int | None


class LastErrorOut(_Out):
    """The last request that failed, but for what is simply not there."""

    code: str
    message: str
    status: int | None
    at: datetime


class LoginStateOut(_Out):
    """How the workers are logged in; nothing of it is secret."""

    type: str = Field(description="How the entry logs in, as `auth.type` says: `basic`, `ecr`, `azure`, …")
    valid_until: datetime | None = Field(
        description="When the login that ends first does; it is renewed before, by the requests that need it. Null for "
        "one that was entered, or was not asked for yet."
    )
    renewing_since: datetime | None = Field(
        description="Since when a new one is asked for: long ago where who gives it does not answer."
    )
    last_error: LastErrorOut | None = Field(description="Why it was not taken, or not renewed; null once it was.")


class RegistryStateOut(_Out):
    """How the workers together stand with the registry, some seconds ago."""

    window: int = Field(description="Requests at once, at most; it shrinks when the registry refuses and grows again.")
    in_flight: int
    paused_until: datetime | None = Field(description="Until when the registry asked to be left alone.")
    reason: str | None
    quota: QuotaOut | None
    last_error: LastErrorOut | None
    login: LoginStateOut | None = Field(
        description="Null without a login, or where nothing was asked of the registry lately."
    )
    certificate_ends_at: datetime | None = Field(
        default=None,
        description="Until when the registry's certificate is valid, as the workers' last TLS handshake showed it.",
    )
