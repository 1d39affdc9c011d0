"""Round trips of documents: GET, change a field, PUT."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field, model_validator


class RoundTripIn(BaseModel):
    """Accept a document as GET returned it: read-only fields are dropped, `version` is a condition as `If-Match` is."""

    SHOWN_ONLY: ClassVar[frozenset[str]] = frozenset()
    """Fields of answers that can't be set."""

    version: int | None = Field(
        default=None, ge=1, description="As GET returned it: this very version is replaced, or none (as `If-Match`)."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_only_shown(cls, value: Any) -> Any:
        return (
            {name: part for name, part in value.items() if name not in cls.SHOWN_ONLY}
            if isinstance(value, dict)
            else value
        )


def without_flags(value: Any) -> Any:
    """Leave out what tells of a secret without it: `has_password`, `has_token`, `has_secret`, `has_client_key`."""
    return (
        {name: part for name, part in value.items() if not name.startswith("has_")}
        if isinstance(value, dict)
        else value
    )
