"""Semantic versions in tags, and ranges of them: what `semver:` and `semver-pre:` matchers mean.

A tag is a version when it is one by semver.org's rules; a leading `v`, missing last numbers (`v1.2`, `1`) and leading
zeros (`24.04`, `2024.01.02`) are allowed, and `_` stands for the `+` that tags can't have (Helm, "OCI registries").
`1.2.3-alpine` is a pre-release by those rules. Ranges read as npm's semver reads them: comparators with spaces or
commas between must all hold, `||` gives a choice, `^ ~ x` and `1.2 - 1.4` are short forms.

Pre-releases: in a `semver:` range only those whose three numbers a comparator names with a pre-release of its own; in a
`semver-pre:` range all that lie between its bounds (npm's `includePrerelease`, Masterminds' `IncludePrerelease`). The
dialects of other tools are turned into these two when their files are imported; there is no other reader of ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from semver import Version

_NUMBER = r"(?:[0-9]{1,18}|[xX*])"
_PARTIAL = rf"v?({_NUMBER})(?:\.({_NUMBER})(?:\.({_NUMBER})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?)?)?"
_OPERATORS = r"(>=|=>|<=|=<|!=|~>|[<>=^~]|)"
_COMPARATOR = re.compile(rf"{_OPERATORS}\s*{_PARTIAL}(?=[\s,]|$)[\s,]*")
_HYPHEN = re.compile(rf"\s*{_PARTIAL}\s+-\s+{_PARTIAL}\s*")
_TAG = re.compile(r"v?(?P<numbers>[0-9]{1,18}(?:\.[0-9]{1,18}){0,2})(?P<rest>[-+_].*)?", re.DOTALL)
_SAME_AS = {"=>": ">=", "=<": "<=", "~>": "~", "": "="}
_LOWEST = "0"
"""The least pre-release there is: `<2.0.0-0` keeps the pre-releases of 2.0.0 out, too."""


@dataclass(frozen=True, slots=True)
class _Partial:
    """A version whose last numbers may be missing or `x`."""

    numbers: tuple[int, ...]
    prerelease: str | None = None

    @classmethod
    def of(cls, groups: tuple[str | None, ...]) -> Self:
        numbers: list[int] = []
        for text in groups[:3]:
            if text is None or not text.isdigit():
                break
            numbers.append(int(text))
        is_whole = len(numbers) == 3  # noqa: PLR2004 — major, minor and patch
        return cls(tuple(numbers), groups[3] if is_whole else None)

    @property
    def lower(self) -> Version:
        """The least version it stands for."""
        numbers = [*self.numbers, 0, 0, 0]
        return Version(numbers[0], numbers[1], numbers[2], self.prerelease)

    def above(self, place: int) -> Version:
        """Find the first version beyond those that agree in the numbers up to `place`."""
        numbers = [*self.numbers[:place], self.numbers[place] + 1, 0, 0]
        return Version(numbers[0], numbers[1], numbers[2], _LOWEST)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self.numbers) == 3  # noqa: PLR2004 — major, minor and patch


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Between two versions, None being no bound; `is_outside` turns it round."""

    low: Version | None = None
    high: Version | None = None
    low_included: bool = True
    high_included: bool = False
    is_outside: bool = False

    def takes(self, version: Version) -> bool:
        above = self.low is None or version > self.low or (self.low_included and version == self.low)
        below = self.high is None or version < self.high or (self.high_included and version == self.high)
        return (above and below) != self.is_outside

    def names_prereleases_of(self, version: Version) -> bool:
        named = (bound for bound in (self.low, self.high) if bound is not None and bound.prerelease is not None)
        return not self.is_outside and any(bound.finalize_version() == version.finalize_version() for bound in named)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """A parsed range: any of the alternatives, all bounds of it."""

    alternatives: tuple[tuple[_Bounds, ...], ...]
    takes_prereleases: bool = False

    @classmethod
    def parse(cls, text: str, *, takes_prereleases: bool = False) -> Self:
        """Read a range; raise `ValueError` saying which part is none."""
        return cls(tuple(_alternative(part) for part in text.split("||")), takes_prereleases)

    def takes(self, version: Version) -> bool:
        """Say whether a version is in the range."""
        is_free = self.takes_prereleases or version.prerelease is None
        return any(
            all(bounds.takes(version) for bounds in alternative)
            and (is_free or any(bounds.names_prereleases_of(version) for bounds in alternative))
            for alternative in self.alternatives
        )


def parse_version(tag: str) -> Version | None:
    """Read a tag as a version; None where it is none."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return None
    numbers = [str(int(number)) for number in found["numbers"].split(".")]
    rest = (found["rest"] or "").replace("_", "+")
    try:
        return Version.parse(f"{'.'.join([*numbers, '0', '0'][:3])}{rest}")
    except ValueError:
        return None


def _alternative(text: str) -> tuple[_Bounds, ...]:
    if hyphen := _HYPHEN.fullmatch(text):
        low, high = _Partial.of(hyphen.groups()[:4]), _Partial.of(hyphen.groups()[4:])
        return _compared(">=", low), _compared("<=", high)
    text = text.strip()
    bounds: list[_Bounds] = []
    place = 0
    while place < len(text):
        found = _COMPARATOR.match(text, place)
        if found is None:
            raise ValueError(f"{text[place : place + 40]!r} is no version range such as >=1.2 <2, ^1.2, ~1.2 or 1.x")
        bounds.append(_compared(found[1], _Partial.of(found.groups()[1:])))
        place = found.end()
    return tuple(bounds) or (_Bounds(),)


def _compared(operator: str, partial: _Partial) -> _Bounds:
    operator = _SAME_AS.get(operator, operator)
    if not partial.numbers:
        nothing = _Bounds(is_outside=True)
        return nothing if operator in {"<", ">", "!="} else _Bounds()
    last = len(partial.numbers) - 1
    whole = partial.is_whole
    match operator:
        case ">=":
            return _Bounds(partial.lower)
        case "<":
            return _Bounds(high=partial.lower if whole else partial.lower.replace(prerelease=_LOWEST))
        case ">":
            low = partial.lower if whole else partial.above(last).finalize_version()
            return _Bounds(low, low_included=not whole)
        case "<=":
            return _Bounds(high=partial.lower, high_included=True) if whole else _Bounds(high=partial.above(last))
        case "~":
            return _Bounds(partial.lower, partial.above(min(last, 1)))
        case "^":
            return _Bounds(partial.lower, partial.above(_caret_place(partial)))
        case _:
            high = partial.lower if whole else partial.above(last)
            return _Bounds(partial.lower, high, high_included=whole, is_outside=operator == "!=")


def _caret_place(partial: _Partial) -> int:
    """Find the first number that is not 0: what `^` keeps; the last one given where all are."""
    return next((place for place, number in enumerate(partial.numbers) if number), len(partial.numbers) - 1)
