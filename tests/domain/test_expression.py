"""Expressions from callers are compiled within bounds, so that no request is dear to check."""

from __future__ import annotations

import pytest

from app.domain.expression import (
    BASE_COST,
    MAX_REQUEST_COST,
    REFUSED_COST,
    Budget,
    compile_expression,
)
from app.domain.request import expression_budget

LARGE = [rf"\pL{{300}}{number}" for number in range(200)]
"""3.6 kB that cost 20 CPU-seconds and 300 MB without bounds."""


def test_expressions_that_are_too_large_are_refused_and_most_of_them_never_compiled() -> None:
    reasons = []
    with expression_budget():
        for text in LARGE:
            with pytest.raises(ValueError, match="too large") as refused:
                compile_expression(text)
            reasons.append(str(refused.value))

    compiled = [reason for reason in reasons if "too large a program" in reason]
    assert len(compiled) == MAX_REQUEST_COST // REFUSED_COST + 1
    assert reasons[: len(compiled)] == compiled


def test_what_a_request_compiles_has_one_budget() -> None:
    with expression_budget(Budget(10 * BASE_COST)):
        for number in range(20):
            try:
                compile_expression(f"^{number}$")
            except ValueError as error:
                assert "too large together" in str(error)  # noqa: PT017 — some fit, and those after them don't
                break
        else:
            pytest.fail("the budget has no end")
        assert 3 < number < 12
        assert compile_expression("^0$").found_in("0")  # what was paid for once stays there


def test_a_budget_inside_another_is_the_same_one() -> None:
    with expression_budget(Budget(1)), expression_budget():
        compile_expression("a")
        with pytest.raises(ValueError, match="together"):
            compile_expression("b")


def test_without_a_budget_only_the_single_expression_is_bounded() -> None:
    for number in range(MAX_REQUEST_COST // BASE_COST // 10):
        compile_expression(f"[a-z]{{200}}{number}") if number < 10 else compile_expression(f"^{number}$")
    with pytest.raises(ValueError, match="too large a program"):
        compile_expression(LARGE[0])


@pytest.mark.parametrize(
    "text", [r"^v\d+\.\d+\.\d+(-(alpha|beta|rc)\.\d+)?$", r"\pL+", "[a-z]{1000}", "(?i)" + "abc|" * 100]
)
def test_what_people_write_is_not_too_large(text: str) -> None:
    compile_expression(text)


def test_replacing_names_groups() -> None:
    expression = compile_expression(r"^v([0-9.]+)$")
    assert expression.replaced_in("v1.2", r"\1-mirror") == "1.2-mirror"
    assert expression.replaced_in("latest", r"\1") == "latest"
    assert expression.groups == 1


@pytest.mark.parametrize(
    ("pattern", "replacement", "text", "found"),
    [
        ("$", "-c", "1", "1-c"),
        ("^", "c-", "1", "c-1"),
        ("b*", "x", "abc", "xaxcx"),
        ("a|(b)", r"[\1]", "ab", "[][b]"),
        ("a", r"\\1", "ab", r"\1b"),
    ],
)
def test_replacing_does_what_go_does(pattern: str, replacement: str, text: str, found: str) -> None:
    assert compile_expression(pattern).replaced_in(text, replacement) == found
