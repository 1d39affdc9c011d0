"""Turns the patterns of tools written in Go into matchers of ours: RE2 expressions, ranges of versions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.domain.matcher import parse_matcher

_COMPARISON = re.compile(
    r"(?P<operator>\^|~>?|[<>=!]=|=[<>]|[<>=])?\s*v?(?P<version>[0-9xX*]+(\.[0-9xX*]+){0,2})"
    r"(?P<pre>-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
)


def regex_matcher(pattern: str) -> str:
    """Write an RE2 expression as a matcher, which means the same; raise `ValueError` where it is none."""
    matcher = f"/{pattern}/"
    parse_matcher(matcher)
    return matcher


def semver_matchers(constraint: str) -> tuple[str, ...]:
    """Write a constraint as ranges of which any may match; raise `ValueError` where it has no such form.

    Known are the comparisons, `~`, `^`, wildcards, partial versions, hyphen ranges, AND by blank or comma, OR by `||`
    (github.com/Masterminds/semver, "Checking Version Constraints").
    """
    return tuple(f"semver:{_alternative(part)}" for part in constraint.split("||"))


def _alternative(text: str) -> str:
    text = re.sub(r"(\S+)\s+-\s+(\S+)", r">=\1 <=\2", text.strip())
    found, position = [], 0
    while position < len(text):
        match = _COMPARISON.match(text, position)
        if match is None:
            message = f"{text!r} is not a range of versions"
            raise ValueError(message)
        found.append(_comparison(match))
        position = match.end()
        blank = re.compile(r"[\s,]*").match(text, position)
        if blank is not None and position < len(text) and not blank[0]:
            message = f"{text!r} is not a range of versions"
            raise ValueError(message)
        position = blank.end() if blank is not None else position
    if not found:
        message = "an empty range of versions"
        raise ValueError(message)
    return " ".join(found)


@dataclass(frozen=True, slots=True)
class _Partial:
    numbers: tuple[int, ...]
    pre: str = ""

    @property
    def first(self) -> str:
        """The lowest version this stands for."""
        return ".".join(str(number) for number in (*self.numbers, 0, 0, 0)[:3]) + self.pre

    def after(self, length: int) -> str:
        """Give the first version that differs in the first `length` numbers."""
        kept = self.numbers[:length]
        return _Partial((*kept[:-1], kept[-1] + 1)).first

    @property
    def is_whole(self) -> bool:
        return len(self.numbers) == 3  # noqa: PLR2004 — major, minor, patch


def _comparison(match: re.Match[str]) -> str:
    numbers = []
    for part in match["version"].split("."):
        if not re.fullmatch(r"[0-9]{1,18}", part):
            break
        numbers.append(int(part))
    version = _Partial(tuple(numbers), match["pre"] or "")
    operator = match["operator"] or "="
    if operator == "!=":
        message = "'!=' has no counterpart in a range"
        raise ValueError(message)
    if not numbers:
        return ">=0.0.0"
    return _bounds(operator, version)


def _bounds(operator: str, version: _Partial) -> str:
    length = len(version.numbers)
    match operator:
        case "^":
            leading = next((n for n, number in enumerate(version.numbers) if number), length - 1)
            return f">={version.first} <{version.after(leading + 1)}"
        case "~" | "~>":
            return f">={version.first} <{version.after(min(length, 2))}"
        case ">" if not version.is_whole:
            return f">={version.after(length)}"
        case "<=" | "=<" if not version.is_whole:
            return f"<{version.after(length)}"
        case "=" if not version.is_whole:
            return f">={version.first} <{version.after(length)}"
        case "=" | "==":
            return f">={version.first} <={version.first}"
        case _:
            return f"{ {'=>': '>=', '=<': '<='}.get(operator, operator) }{version.first}"
