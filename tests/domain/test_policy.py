"""Policies hold rules that can be run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.policy import Policy

RULE = {"source": "a.example.com/b", "destination": "c.example.com/b"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Upper"},
        {"name": "-dash"},
        {"name": "x" * 64},
        {"name": "a/b"},
        {"rules": []},
        {"rules": [RULE] * 10_001},
        {
            "rules": [
                {**RULE, "source": "a.example.com/b:1"},
                {"source": "x.example.com/y:1", "destination": RULE["destination"]},
            ]
        },
        {"unknown": 1},
    ],
    ids=["capitals", "dash", "long", "slash", "no rules", "too many", "conflict", "unknown"],
)
def test_a_policy_that_could_not_run_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"name": "nightly", "rules": [RULE], **changes})


def test_a_policy_asks_for_its_rules_with_its_options() -> None:
    policy = Policy.model_validate({"name": "nightly", "rules": [RULE], "options": {"overwrite": "never"}})
    assert policy.request.rules == policy.rules
    assert policy.request.options.overwrite == "never"
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
