"""Values of several kinds, distinguished by their `type`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


def _require_type(schema: dict[str, Any]) -> None:
    """Say that `type` has to be sent: it distinguishes the kinds, whatever its default here."""
    schema["required"] = list(dict.fromkeys(["type", *schema.get("required", [])]))


class TaggedValue(BaseModel):
    """One of several kinds; who sends it has to say which by `type`, code that makes one need not."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_require_type)
