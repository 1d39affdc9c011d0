"""Turn the patterns of tools written in Go into matchers of ours: RE2 expressions, globs, three dialects of ranges.

Each dialect is written here as comparators of `domain/version.py`, difference by difference, so that a file selects tag
for tag what its tool selects. What the tools answered is recorded in tests/data/version_ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from app.domain.matcher import PRERELEASES_PREFIX, SEMVER_PREFIX, parse_matcher

_NUMBER = r"(?:[0-9]{1,18}|[xX*])"
_PRERELEASE = r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_VERSION = rf"(?P<numbers>{_NUMBER}(?:\.{_NUMBER}){{0,2}}){_PRERELEASE}(?:\+[0-9A-Za-z.-]+)?"
_MASTERMINDS = re.compile(rf"\s*+(?P<operator>!=|>=|=>|<=|=<|~>|[=<>~^]|)\s*+v?{_VERSION}\s*")
_MASTERMINDS_HYPHEN = re.compile(r"(?<!\S)(\S++)\s++-\s++(\S+)")
_MASTERMINDS_MAX_LENGTH, _MASTERMINDS_MAX_ALTERNATIVES = 512, 32
_REGSYNC = re.compile(
    r"(?P<operator>>=|<=|[=<>~^]|)v?(?P<numbers>[0-9]{1,18}(?:\.[0-9]{1,18})*)(?:-(?P<pre>[^+]*))?(?:\+.*)?"
)
_BLANG = re.compile(rf"(?P<operator>==|!=|>=|<=|[=!<>]|)\s*{_VERSION}(?:\s+|$)")
_BLANG_TAGS = r"/^v?[0-9]+(\.[0-9]+(\.[0-9]+(-[0-9A-Za-z.-]+)?)?)?$/"
_WHOLE = 3
"""Numbers in a version: major, minor, patch."""
_ESCAPES = re.compile(r"\\Q.*?(?:\\E|\Z)|\\.", re.DOTALL)
_DOUBLESTAR = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]?|\*{2,}", re.DOTALL)
_BEFORE_PART, _AFTER_PART = frozenset({"", "/", "{", ","}), frozenset({"", "/", "}", ","})


@dataclass(frozen=True, slots=True)
class Ranges:
    """A constraint of another tool as matchers of ours."""

    include: tuple[str, ...]
    """Any of them may match."""
    exclude: tuple[str, ...] = ()
    """What is a version here and none there."""
    only: str = ""
    """Instead of `exclude`: an expression that a tag has to match as well, where other filters stand beside."""
    differs: str = ""
    """What of it selects other tags here all the same; empty where nothing does."""


@dataclass(frozen=True, slots=True)
class _Comparator:
    operator: str
    numbers: tuple[int, ...]
    """Those that were given before the first `x`."""
    pre: str = ""

    @classmethod
    def of(cls, match: re.Match[str]) -> Self:
        numbers: list[int] = []
        for part in match["numbers"].split("."):
            if not part.isdigit():
                break
            numbers.append(int(part))
        return cls(match["operator"], tuple(numbers), match["pre"] or "")

    @property
    def first(self) -> str:
        """The version it names, what is missing taken as 0."""
        numbers = ".".join(str(number) for number in (*self.numbers, 0, 0, 0)[:_WHOLE])
        return f"{numbers}-{self.pre}" if self.pre else numbers

    @property
    def is_whole(self) -> bool:
        return len(self.numbers) == _WHOLE

    def after(self, place: int) -> str:
        """Return the first release that has a higher number at a place."""
        numbers = [*self.numbers, 0, 0, 0][: place + 1]
        numbers[place] += 1
        return ".".join(str(number) for number in [*numbers, 0, 0][:_WHOLE])


def regex_matcher(pattern: str) -> str:
    r"""Write an expression of Go's as a matcher, which means the same; raise `ValueError` where it is none.

    Both are RE2's, but for `\C`, any byte, which Go does not take.
    """
    if any(escape[0] == r"\C" for escape in _ESCAPES.finditer(pattern)):
        raise ValueError(r"`\C` is no part of an expression to a tool written in Go")
    matcher = f"/{pattern}/"
    parse_matcher(matcher)
    return matcher


def doublestar_glob(pattern: str) -> str:
    """Write a glob as Harbor reads it (github.com/bmatcuk/doublestar v1.3.4) in ours; raise `ValueError` for none.

    `**` spans several parts only where it is a part of its own, and `!` in brackets is itself: `^` negates.
    """
    return _DOUBLESTAR.sub(_rewritten, pattern)


def _rewritten(token: re.Match[str]) -> str:
    text, pattern = token[0], token.string
    if text.startswith("["):
        return _bracketed(text)
    if text.startswith("*"):
        is_part = (
            pattern[max(token.start() - 1, 0) : token.start()] in _BEFORE_PART
            and pattern[token.end() : token.end() + 1] in _AFTER_PART
        )
        return "**" if is_part else "*"
    return text


def _bracketed(text: str) -> str:
    negation, body = re.fullmatch(r"\[(\^?)(.*?)\]?", text, re.DOTALL).groups()  # type: ignore[union-attr]  # any text fits
    if not text.endswith("]") or not body or body.endswith("-"):
        raise ValueError(f"{text} is no set of characters")
    return f"[{negation}\\{body}]" if body.startswith("!") else text


def masterminds_ranges(constraint: str) -> Ranges:
    """Write a constraint of skopeo's (github.com/Masterminds/semver v3.5); raise `ValueError` where it is none.

    Unlike here, one pre-release among comparators that must all hold admits every pre-release between their bounds,
    a partial version ends before the pre-releases that follow it, and `_` is in no version.
    """
    text = _MASTERMINDS_HYPHEN.sub(r">= \1, <= \2 ", constraint)
    alternatives = text.split("||")
    if len(constraint) > _MASTERMINDS_MAX_LENGTH or len(alternatives) > _MASTERMINDS_MAX_ALTERNATIVES:
        raise ValueError("the range of versions is longer than Masterminds' library takes")
    include, differs = [], ""
    for alternative in alternatives:
        comparators = _masterminds_comparators(alternative)
        has_pre = any(comparator.pre for comparator in comparators)
        end = "-0" if has_pre else ""
        written = " ".join(_masterminds_comparator(comparator, end) for comparator in comparators)
        include.append(f"{PRERELEASES_PREFIX if has_pre else SEMVER_PREFIX}{written}")
        if has_pre and any(one.operator == "!=" and not one.is_whole for one in comparators):
            differs = "beside a pre-release, `!=` with missing numbers leaves out other pre-releases than in skopeo"
    return Ranges(tuple(include), ("*_*",), differs=differs)


def _masterminds_comparators(text: str) -> list[_Comparator]:
    found: list[_Comparator] = []
    place = 0
    while place < len(text) or not found:
        match = _MASTERMINDS.match(text, place)
        if match is None or (found and not re.search(r"[\s,]\Z", text[:place])):
            raise ValueError(f"{text!r} is not a range of versions")
        found.append(_Comparator.of(match))
        place = match.end()
        if text[place : place + 1] == "," and place + 1 < len(text):
            place += 1
    return found


def _masterminds_comparator(one: _Comparator, end: str) -> str:
    count, first = len(one.numbers), one.first
    is_exact = count in {0, _WHOLE}  # `*` is the version 0.0.0 to its comparisons
    match one.operator:
        case ">=" | "=>":
            return f">={first}"
        case "<":
            return f"<{first}"
        case ">":
            return f">{first}" if is_exact else f">={one.after(count - 1)}{end}"
        case "<=" | "=<":
            return f"<={first}" if one.is_whole else f"<{one.after(count - 1 if count else 1)}{end}"
        case "!=":
            return f"!={first}" if is_exact else f"!={'.'.join(str(number) for number in one.numbers)}.x"
        case "^":
            return f">={first} <{one.after(_caret_place(one))}{end}"
        case "" | "=" if one.is_whole:
            return f"={first}"
        case _:
            is_any = is_exact and not any(one.numbers)
            return f">={first}" if is_any else f">={first} <{one.after(0 if count == 1 else 1)}{end}"


def _caret_place(one: _Comparator) -> int:
    """Find the number that `^` keeps: the first that is not 0, or the last that was given; all three of `^*`."""
    given = one.numbers or (0, 0, 0)
    return next((place for place, number in enumerate(given) if number), len(given) - 1)


REGSYNC_VERSIONS = (
    "regsync also compares tags of four and more numbers, and such as 1.2-ubuntu-22.04, which are no versions here"
)
"""What can't be written as a range: the tags it reads as versions beside ours."""


def regsync_ranges(constraint: str) -> Ranges:
    """Write one entry of `semverRange` (regclient, internal/semver, v0.11); raise `ValueError` where it is none.

    Unlike here, pre-releases are in wherever they lie between the bounds, missing numbers are 0 in every comparison,
    `^0.0` keeps the patch number, and there is neither `||` nor a comma, `x` or a blank behind an operator.
    """
    comparators = []
    for part in constraint.split():
        match = _REGSYNC.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no comparison of versions to regsync")
        one = _Comparator.of(match)
        while len(one.numbers) > _WHOLE and one.numbers[-1] == 0:
            one = _Comparator(one.operator, one.numbers[:-1], one.pre)
        if len(one.numbers) > _WHOLE:
            raise ValueError(f"{part!r} has more than three numbers, which no version has here")
        comparators.append(one)
    if not comparators:
        raise ValueError("an empty range of versions")
    has_pre = any(one.pre for one in comparators)
    differs = "regsync compares the numbers in pre-releases such as rc9 and rc10, here their letters" if has_pre else ""
    written = " ".join(_regsync_comparator(one) for one in comparators)
    parse_matcher(f"{PRERELEASES_PREFIX}{written}")
    return Ranges((f"{PRERELEASES_PREFIX}{written}",), (r"/^v?[0-9.]+_/",), differs=differs)


def _regsync_comparator(one: _Comparator) -> str:
    match one.operator:
        case "^":
            place = next((place for place, number in enumerate(one.numbers) if number), 2)
            return f">={one.first} <{one.after(place)}"
        case "~":
            return f">={one.first} <{one.after(1)}"
        case operator:
            return f"{operator or '='}{one.first}"


def blang_ranges(constraint: str) -> Ranges:
    """Write a range of dregsy's (github.com/blang/semver v4); raise `ValueError` where it is none.

    Unlike here, pre-releases are in wherever they lie between the bounds, versions are whole or end in one `x`, and
    `!=1.x` takes nothing. A tag that has fewer than three numbers is a version only without anything behind them.
    """
    include = []
    for alternative in constraint.split("||"):
        written: list[str] = []
        text = alternative.strip()
        while text or not written:
            match = _BLANG.match(text)
            if match is None:
                raise ValueError(f"{alternative!r} is not a range of versions")
            written.append(_blang_comparator(match))
            text = text[match.end() :]
        include.append(f"{PRERELEASES_PREFIX}{' '.join(written)}")
    return Ranges(tuple(include), only=_BLANG_TAGS)


def _blang_comparator(match: re.Match[str]) -> str:
    one, parts = _Comparator.of(match), match["numbers"].split(".")
    if any(len(part) > 1 and part.startswith("0") for part in parts):
        raise ValueError(f"{match[0].strip()!r} has a number with a leading zero")
    operator = one.operator.replace("==", "=") or "="
    if one.is_whole:
        return f"{'!=' if operator == '!' else operator}{one.first}"
    if parts[-1] != "x" or not one.numbers or one.pre:
        raise ValueError(f"{match[0].strip()!r} is no whole version, and does not end in .x")
    after = one.after(len(parts) - 2)  # of 1.x.x it is 1.1.0: that range ends there, too
    match operator:
        case "=":
            return f">={one.first} <{after}"
        case ">" | "<=":
            return f"{'>=' if operator == '>' else '<'}{after}"
        case "!=" | "!":
            return f"<{one.first} >={after}"
        case _:
            return f"{operator}{one.first}"
