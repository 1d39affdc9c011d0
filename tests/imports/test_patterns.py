"""Patterns of tools written in Go become matchers of ours, or are refused where they can't."""

from __future__ import annotations

import pytest

from app.domain.matcher import parse_matcher
from app.imports.patterns import regex_matcher, semver_matchers


@pytest.mark.parametrize(
    ("constraint", "ranges"),
    [
        (">= 3.12.0, < 4", (">=3.12.0 <4.0.0",)),
        (">=1.0.0 <2.0.0", (">=1.0.0 <2.0.0",)),
        ("1.2.3", (">=1.2.3 <=1.2.3",)),
        ("v1.2", (">=1.2.0 <1.3.0",)),
        ("1.x || >=2.0.0-rc1", (">=1.0.0 <2.0.0", ">=2.0.0-rc1")),
        ("~1.2.3", (">=1.2.3 <1.3.0",)),
        ("~1", (">=1.0.0 <2.0.0",)),
        ("~> 2.1", (">=2.1.0 <2.2.0",)),
        ("^1.2.3", (">=1.2.3 <2.0.0",)),
        ("^0.2.3", (">=0.2.3 <0.3.0",)),
        ("^0.0.3", (">=0.0.3 <0.0.4",)),
        ("^0.0", (">=0.0.0 <0.1.0",)),
        ("^0", (">=0.0.0 <1.0.0",)),
        ("1.2 - 1.4.5", (">=1.2.0 <=1.4.5",)),
        (">1.2", (">=1.3.0",)),
        ("> 1.2.3", (">1.2.3",)),
        ("<=1", ("<2.0.0",)),
        ("=> 1.0", (">=1.0.0",)),
        ("*", (">=0.0.0",)),
    ],
)
def test_a_constraint_becomes_ranges(constraint: str, ranges: tuple[str, ...]) -> None:
    assert semver_matchers(constraint) == tuple(f"semver:{text}" for text in ranges)


@pytest.mark.parametrize("constraint", ["", "latest", "!=1.0.0", ">=1 ||", ">=", "1.2.3.4", ">1.0<2.0x"])
def test_a_constraint_without_such_a_form_is_refused(constraint: str) -> None:
    with pytest.raises(ValueError, match="range"):
        semver_matchers(constraint)


def test_an_expression_stays_what_it_is() -> None:
    assert regex_matcher(r"^v1\.[0-9]+$") == r"/^v1\.[0-9]+$/"
    for pattern, tag in [("[[:alpha:]]", "a"), (r"\pL", "a"), (r"\Qa.b\E", "a.b"), ("(?i)V1", "v1"), (r"v1\z", "v1")]:
        assert regex_matcher(pattern) == f"/{pattern}/"
        assert parse_matcher(regex_matcher(pattern))(tag)


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a**"])
def test_what_is_no_expression_of_theirs_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        regex_matcher(pattern)
