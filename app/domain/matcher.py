"""The matcher language of requests: a glob, `/…/` a regular expression searched anywhere, `semver:…` a version range.

Texts to match are short (tags have at most 128 characters, repository names 255) and so are matchers. All of them take
time that grows with the text only; regular expressions are RE2's, as in the tools people come from.

`{"all": [...]}` matches where every one of its matchers does. Beside a glob with a `*`, a range in it looks at what the
`*` stands for: `semver:15.x` and `*-alpine` together take `15.4-alpine`, whose version is 15.4 of the variant alpine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semver import Version

from app.domain.expression import compile_expression
from app.domain.glob import Glob
from app.domain.version import VersionRange, parse_version

SEMVER_PREFIX = "semver:"
PRERELEASES_PREFIX = "semver-pre:"
"""Ranges whose bounds alone decide about pre-releases."""
_AROUND_VERSIONS = "-_.+"
"""What may be left of a variant's separator where a glob such as `*alpine*` does not name it."""

Matches = Callable[[str], bool]
"""Says whether a tag or a repository path matches."""


def parse_matcher(text: str) -> Matches:
    """Read a matcher; raise `ValueError` saying what is wrong with it."""
    wanted = _range(text)
    if wanted is not None:
        return lambda tag: _is_in(wanted, parse_version(tag))
    if _is_expression(text):
        return compile_expression(text[1:-1]).found_in
    return Glob(text).matches


def parse_all_of(texts: Sequence[str]) -> Matches:
    """Read matchers that must all match; raise `ValueError` saying what is wrong with one of them."""
    ranges = [wanted for text in texts if (wanted := _range(text)) is not None]
    others = [text for text in texts if _range(text) is None]
    matchers = [parse_matcher(text) for text in others]
    read = _version_reader([text for text in others if not _is_expression(text)]) if ranges else parse_version

    def matches(tag: str) -> bool:
        if not all(matches(tag) for matches in matchers):
            return False
        if not ranges:
            return True
        version = read(tag)
        return all(_is_in(wanted, version) for wanted in ranges)

    return matches


def _version_reader(globs: Sequence[str]) -> Callable[[str], Version | None]:
    """Choose how the version of a tag is read: where several globs have a `*`, the shortest text is the version."""
    stars = [star for star in (Glob(text).star() for text in globs) if star is not None]
    if not stars:
        return parse_version

    def read(tag: str) -> Version | None:
        found = [text.strip(_AROUND_VERSIONS) for star in stars if (text := star.group_of(tag)) is not None]
        return parse_version(min(found, key=len)) if found else None

    return read


def _range(text: str) -> VersionRange | None:
    if text.startswith(SEMVER_PREFIX):
        return VersionRange.parse(text.removeprefix(SEMVER_PREFIX))
    if text.startswith(PRERELEASES_PREFIX):
        return VersionRange.parse(text.removeprefix(PRERELEASES_PREFIX), takes_prereleases=True)
    return None


def _is_expression(text: str) -> bool:
    return len(text) > 1 and text.startswith("/") and text.endswith("/")


def _is_in(wanted: VersionRange, version: Version | None) -> bool:
    return version is not None and wanted.takes(version)
