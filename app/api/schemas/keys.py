"""API keys: shown once, when they are created."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.api.schemas.pages import PageOut
from app.domain.access import ApiKey, Scope, ScopePreset
from app.domain.duration import parse_duration
from app.domain.grants import Grant

KEY_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$"
_KEY: dict[str, Any] = {
    "id": "3nWq7ZpXc1Rk",
    "name": "ci",
    "scope": "submit",
    "scopes": ["jobs:cancel", "jobs:read", "jobs:submit", "policies:read", "policies:write", "registries:read"],
    "allow": [{"registries": ["registry.example.com"], "repositories": ["team-a/**"], "direction": "both"}],
    "policies": ["team-a-*"],
    "jobs": "own",
    "addresses": ["192.0.2.0/24"],
    "created_at": "2026-11-23T08:31:02Z",
    "expires_at": "2027-02-21T08:31:02Z",
    "last_used_at": None,
}

_UNBOUND: dict[str, Any] = {"name": "ci", "scope": "submit", "expires": "90d"}
_BOUND: dict[str, Any] = {
    "name": "team-a",
    "scopes": ["jobs:submit", "jobs:read", "jobs:cancel"],
    "allow": [
        {"registries": ["docker.io"], "repositories": ["library/*"], "direction": "read"},
        {"registries": ["registry.example.com"], "repositories": ["team-a/**"]},
    ],
    "addresses": ["192.0.2.0/24"],
}


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise PydanticCustomError("invalid_duration", "{reason}", {"reason": str(error)}) from error
    return text


class KeyIn(Grant):
    """A key to be made: what it may do, and, unless that is left out, what it is bound to."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_UNBOUND, _BOUND]})

    name: str = Field(pattern=KEY_NAME_PATTERN, description="Shown as `created_by` of the key's jobs.")
    scope: ScopePreset | None = Field(
        default=None,
        description="Several scopes by one name, instead of `scopes`; each implies those before it. `read`: "
        "`jobs:read`, `policies:read`, `registries:read`. `submit`: `jobs:submit`, `jobs:cancel`, `policies:write` "
        "besides. `admin`: all of them.",
    )
    scopes: frozenset[Scope] | None = Field(
        default=None,
        min_length=1,
        description="What it may do. `hooks`, `audit` and `keys` are about everything: no key that is bound has them.",
    )
    expires: Annotated[str, AfterValidator(_duration)] | None = Field(
        default=None, description="Such as `90d`; null for a key that does not expire."
    )

    @model_validator(mode="after")
    def _check_scopes(self) -> Self:
        if (self.scope is None) == (self.scopes is None):
            message = "name what the key may do, by `scope` or by `scopes`, and not by both"
            raise PydanticCustomError("scope_or_scopes", message)
        return self

    @property
    def allowed_scopes(self) -> frozenset[Scope]:
        """What it may do."""
        return self.scope.scopes if self.scope is not None else self.scopes or frozenset()

    @property
    def grant(self) -> Grant:
        """What it is bound to."""
        return Grant(allow=self.allow, policies=self.policies, jobs=self.jobs, addresses=self.addresses)

    @property
    def expires_seconds(self) -> int | None:
        """How long the key is good for."""
        return None if self.expires is None else parse_duration(self.expires)


class KeyOut(Grant):
    """A key, without the key itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEY]})

    id: str
    name: str
    scope: ScopePreset | None = Field(description="The name of exactly these scopes together, where they have one.")
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="When the key was used last; written once a minute at most.")

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Show a key."""
        return cls(
            id=key.id,
            name=key.name,
            scope=key.preset,
            scopes=sorted(key.scopes),
            created_at=key.created_at,
            expires_at=key.expires_at,
            last_used_at=key.last_used_at,
            **dict(key.grant),
        )


class NewKeyOut(KeyOut):
    """A new key: the only time `key` is seen."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_KEY | {"key": "rsk_3nWq7ZpXc1Rk_…shown once…"}]},
    )

    key: str = Field(description="Send it as `Authorization: Bearer <key>`.")


class KeyPage(PageOut[KeyOut]):
    """Keys, by name."""
