"""The matcher language of requests: a glob, `/…/` a regular expression searched anywhere, `semver:…` a version range.

Texts to match are short (tags have at most 128 characters, repository names 255) and so are matchers. All of them take
time that grows with the text only, regular expressions too: they are RE2's (github.com/google/re2/wiki/Syntax), as in
the tools people come from, and nobody can write one that keeps a worker busy for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import re2  # type: ignore[import-untyped]  # it has no types of its own

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
        return _found(text[1:-1])
    return Glob(text).matches


def _in_range(wanted: VersionRange) -> Matches:
    def matches(text: str) -> bool:
        version = parse_version(text)
        return version is not None and wanted.takes(version)

    return matches


def _found(expression: str) -> Matches:
    try:
        pattern = re2.compile(expression, _quiet())
    except re2.error as error:
        (reason,) = error.args
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not a regular expression (of RE2): {said}") from error
    return lambda text: pattern.search(text) is not None


@cache
def _quiet() -> Any:
    options = re2.Options()
    options.log_errors = False  # the library would write them to standard error
    return options
