"""Patterns of tools written in Go become matchers of ours, or are refused where they can't."""

from __future__ import annotations

import pytest

from app.domain.matcher import parse_matcher
from app.importers.patterns import regex_matcher


def test_an_expression_stays_what_it_is() -> None:
    assert regex_matcher(r"^v1\.[0-9]+$") == r"/^v1\.[0-9]+$/"
    for pattern, tag in [("[[:alpha:]]", "a"), (r"\pL", "a"), (r"\Qa.b\E", "a.b"), ("(?i)V1", "v1"), (r"v1\z", "v1")]:
        assert regex_matcher(pattern) == f"/{pattern}/"
        assert parse_matcher(regex_matcher(pattern))(tag)


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a**"])
def test_what_is_no_expression_of_theirs_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        regex_matcher(pattern)
