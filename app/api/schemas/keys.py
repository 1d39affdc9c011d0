"""API keys: shown once, when they are made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.api.schemas.pages import PageOut
from app.domain.access import ApiKey, Scope
from app.domain.trigger import parse_duration

KEY_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$"
_KEY: dict[str, Any] = {
    "id": "3nWq7ZpXc1Rk",
    "name": "ci",
    "scope": "submit",
    "created_at": "2026-11-23T08:31:02Z",
    "expires_at": "2027-02-21T08:31:02Z",
    "last_used_at": None,
}


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise PydanticCustomError("invalid_duration", "{reason}", {"reason": str(error)}) from error
    return text


class KeyIn(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "ci", "scope": "submit", "expires": "90d"}]}
    )

    name: str = Field(pattern=KEY_NAME_PATTERN, description="Shown as `created_by` of the key's jobs.")
    scope: Scope = Field(description="Each scope implies those before it: `read`, `submit`, `admin`.")
    expires: Annotated[str, AfterValidator(_duration)] | None = Field(
        default=None, description="Such as `90d`; null for a key that does not expire."
    )

    @property
    def expires_seconds(self) -> int | None:
        """How long the key is good for."""
        return None if self.expires is None else parse_duration(self.expires)


class KeyOut(BaseModel):
    """A key, without the key itself."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_KEY]})

    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute or so.")

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Show a key."""
        return cls.model_validate(key)


class NewKeyOut(KeyOut):
    """A new key: the only time `key` is seen."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_KEY | {"key": "rsk_3nWq7ZpXc1Rk_…shown once…"}]},
    )

    key: str = Field(description="Send it as `Authorization: Bearer <key>`.")


class KeyPage(PageOut[KeyOut]):
    """Keys, by name."""
