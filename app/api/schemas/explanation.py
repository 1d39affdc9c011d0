"""Why a tag is taken or dropped."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.domain.explanation import Effect, Explanation, ExplanationReason

EXPLANATION: dict[str, Any] = {
    "tag": "team-a/app:1.4-rc1",
    "taken": False,
    "message": "rule 0 (old.azurecr.io/**): an exclude matches 1.4-rc1",
    "rules": [
        {
            "rule": 0,
            "source": "old.azurecr.io/**",
            "tag": "old.azurecr.io/team-a/app:1.4-rc1",
            "outcome": "drops",
            "reason": "excluded",
            "message": "an exclude matches 1.4-rc1",
            "destinations": [],
            "steps": [
                {
                    "pointer": "/rules/0/tags/exclude/0",
                    "matcher": "*-rc*",
                    "effect": "drops",
                    "message": "matches 1.4-rc1",
                }
            ],
        }
    ],
}


class ExplanationStepOut(BaseModel):
    """What one part of a rule says of the tag."""

    model_config = ConfigDict(from_attributes=True)

    pointer: str = Field(description="Which part: a JSON pointer into the request in its full form.")
    matcher: str | None = Field(description="The matcher, or the platform, as it is written.")
    effect: Effect = Field(description="`passes`: it does not stop the tag.")
    message: str


class RuleExplanationOut(BaseModel):
    """What one rule does with the tag, and why."""

    model_config = ConfigDict(from_attributes=True)

    rule: int = Field(description="Which rule, counted from 0.")
    source: str
    tag: str = Field(description="What is explained, in full, as this rule reads it.")
    outcome: Literal["takes", "drops", "unknown"] = Field(description="`unknown`: the source could not be asked.")
    reason: ExplanationReason = Field(
        description="As in `selection`, or what only one tag is asked about: `other_registry`, `other_repository`, "
        "`repository_not_included`, `repository_excluded`, `repository_not_listed`, `not_named`, `listing_failed`, "
        "`invalid_destination`, `destination_conflict`, `taken_before` (by a rule before), `no_platform`, `timeout`."
    )
    message: str
    destinations: list[str]
    steps: list[ExplanationStepOut]


class ExplanationOut(BaseModel):
    """Why a tag is taken or dropped, rule by rule, as the source is now."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXPLANATION]})

    tag: str = Field(description="The tag that was asked about.")
    taken: bool = Field(description="Whether any rule takes it.")
    message: str = Field(description="In a sentence: of the rule that takes it, or else that came closest.")
    rules: list[RuleExplanationOut]

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        """Show an explanation."""
        return cls.model_validate(explanation)
