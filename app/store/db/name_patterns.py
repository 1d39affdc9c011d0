"""Patterns of names in statements: a name, or the beginning of one with `*` behind it, as grants list policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, false, func, or_, true


def is_named(column: ColumnElement[str], patterns: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a name is one of some patterns; no pattern is no name, `*` is every name."""
    return true() if "*" in patterns else or_(false(), *_conditions(column, patterns))


def _conditions(column: ColumnElement[str], patterns: Sequence[str]) -> Iterator[ColumnElement[bool]]:
    for pattern in patterns:
        beginning = pattern.removesuffix("*")
        # `LIKE` takes the _ of a name for any character, and compares without regard to case in SQLite.
        yield column == pattern if beginning == pattern else func.substr(column, 1, len(beginning)) == beginning
