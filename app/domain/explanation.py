"""Why a tag is taken or dropped: what every rule of a request, and every part of it, says of one tag."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from app.domain.plan import PlannedCopy
from app.domain.report import SelectionReason

Effect = Literal["takes", "drops", "passes"]
"""What one part of a rule does to a tag: `takes` it, `drops` it, or does not stop it (`passes`)."""
ExplanationReason = (
    SelectionReason
    | Literal[
        "other_registry",
        "other_repository",
        "repository_not_included",
        "repository_excluded",
        "repository_not_listed",
        "not_named",
        "listing_failed",
        "invalid_destination",
        "destination_conflict",
        "taken_before",
        "no_platform",
        "timeout",
    ]
)


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """What one part of a rule says of a tag."""

    pointer: str
    """Which part: a JSON pointer into the request."""
    effect: Effect
    message: str
    matcher: str | None = None


@dataclass(slots=True)
class RuleExplanation:
    """What one rule does with a tag, and why."""

    rule: int
    source: str
    tag: str
    outcome: Literal["takes", "drops", "unknown"] = "takes"
    reason: ExplanationReason = "all"
    message: str = ""
    destinations: tuple[str, ...] = ()
    steps: list[ExplanationStep] = field(default_factory=list)
    copy: PlannedCopy | None = None
    """What is to be copied, where the rule takes it."""

    def end(self, outcome: Literal["drops", "unknown"], reason: ExplanationReason, message: str) -> None:
        """Note that it is not taken, and why."""
        self.outcome, self.reason, self.message = outcome, reason, message
        self.copy, self.destinations = None, ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the rules of a request do with a tag."""

    tag: str
    rules: tuple[RuleExplanation, ...]

    @property
    def taken(self) -> bool:
        """Whether any rule takes it."""
        return any(rule.outcome == "takes" for rule in self.rules)

    @property
    def message(self) -> str:
        """Say in a sentence what becomes of it: of the rule that takes it, or of the one that came closest."""
        closest = max(self.rules, key=lambda rule: (rule.outcome == "takes", len(rule.steps)))
        return f"rule {closest.rule} ({closest.source}): {closest.message}"
