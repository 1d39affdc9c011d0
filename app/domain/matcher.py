"""The matcher language of requests: a glob, `/…/` a regular expression searched anywhere, `semver:…` a version range.

Texts to match are short (tags have at most 128 characters, repository names 255) and so are matchers. Globs and ranges
take time that grows with the text only. A regular expression is Python's and may be written so that it takes
exponential time; whoever may submit requests is trusted that far, no further limit is possible with `re`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

from app.domain.glob import Glob
from app.domain.version import VersionRange, parse_version

SEMVER_PREFIX = "semver:"

Matches = Callable[[str], bool]
"""Says whether a tag or a repository path matches."""


def parse_matcher(text: str) -> Matches:
    """Read a matcher; raise `ValueError` saying what is wrong with it."""
    if text.startswith(SEMVER_PREFIX):
        return _in_range(VersionRange.parse(text.removeprefix(SEMVER_PREFIX)))
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        return _found(_regular_expression(text[1:-1]))
    return Glob(text).matches


def _in_range(wanted: VersionRange) -> Matches:
    def matches(text: str) -> bool:
        version = parse_version(text)
        return version is not None and wanted.takes(version)

    return matches


def _found(pattern: re.Pattern[str]) -> Matches:
    return lambda text: pattern.search(text) is not None


def _regular_expression(text: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python will read differently one day is refused today
            return re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"not a regular expression: {error}") from error
