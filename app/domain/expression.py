r"""Compile regular expressions from callers by RE2, within bounds of CPU and memory: the one place where that is done.

RE2 (github.com/google/re2/wiki/Syntax) matches in time that grows with the text only, so there is no ReDoS; what can be
made expensive is compiling: `\pL{300}` comes to 360,000 instructions. So an expression may use `MAX_BYTES`, and all of
one request together `MAX_REQUEST_COST`. What was compiled is remembered, up to `MAX_REMEMBERED_COST`.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

import re2  # type: ignore[import-untyped]  # it has no types of its own
from cachetools import LRUCache, cached

MAX_BYTES = 256 * 1024
"""RE2's `max_mem` for one expression: program and automaton. Room for `[a-z]{1000}`, not for `\\pL{300}`."""
BASE_COST = 100
"""What compiling costs beside the instructions, counted in instructions: some 50 microseconds."""
REFUSED_COST = MAX_BYTES // 16
"""What finding out that an expression is too large costs at most: RE2 stops at that many instructions, of 16 bytes."""
MAX_REQUEST_COST = 600_000
"""Instructions for all expressions of one request, each counted once: less than a second of CPU whatever they are."""
MAX_REMEMBERED_COST = 2_000_000
"""Instructions that stay compiled for the next request or tag list: 32 MB at 16 bytes each."""

_ESCAPED = re.compile(r"\\([1-9\\])")


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression, or the reason why there is none."""

    compiled: Any
    cost: int
    refusal: str = ""

    def found_in(self, text: str) -> bool:
        """Return whether it matches somewhere in a text."""
        return self.compiled.search(text) is not None

    def is_all_of(self, text: str) -> bool:
        """Return whether it matches a whole text."""
        return self.compiled.fullmatch(text) is not None

    def group_of(self, text: str) -> str | None:
        """Return what the first group matched where the expression matches a whole text; None where it doesn't."""
        match = self.compiled.fullmatch(text)
        return None if match is None else str(match[1])

    def replaced_in(self, text: str, replacement: str) -> str:
        r"""Replace every match; `\1` in the replacement is what the first group matched, `\\` a backslash.

        As in Go's regexp, nothing that is matched right behind a match counts as another one.
        """
        pieces, end = [], -1
        for match in self.compiled.finditer(str(text)):
            if match.start() == match.end() == end:
                continue
            pieces.append(text[max(end, 0) : match.start()])
            pieces.append(_filled(replacement, match))
            end = match.end()
        return "".join([*pieces, text[max(end, 0) :]])

    @property
    def groups(self) -> int:
        """How many groups it has."""
        return int(self.compiled.groups)


def _filled(replacement: str, match: Any) -> str:
    def group(escaped: re.Match[str]) -> str:
        return "\\" if escaped[1] == "\\" else match[int(escaped[1])] or ""

    return _ESCAPED.sub(group, replacement)


@dataclass(slots=True)
class Budget:
    """What a request may still compile, in instructions, and what it has compiled."""

    left: int = MAX_REQUEST_COST
    seen: set[str] = field(default_factory=set)


BUDGET: ContextVar[Budget | None] = ContextVar("expression_budget", default=None)
"""Of the request that is being read; without one, only the single expression is bounded."""


def compile_expression(text: str) -> Expression:
    """Compile an expression, or take it from the cache; raise `ValueError` saying what is wrong with it.

    The budget is charged alike whether the cache had it or not, so that the same request always fares the same.
    """
    budget = BUDGET.get()
    is_new = budget is not None and text not in budget.seen
    if budget is not None and is_new and budget.left <= 0:
        raise ValueError("the request's regular expressions are too large together; write fewer or simpler ones")
    expression = _compiled(text)
    if budget is not None and is_new:
        budget.left -= expression.cost
        budget.seen.add(text)
    if expression.refusal:
        raise ValueError(expression.refusal)
    return expression


@cached(LRUCache(maxsize=MAX_REMEMBERED_COST, getsizeof=lambda expression: expression.cost), lock=Lock())
def _compiled(text: str) -> Expression:
    try:
        compiled = re2.compile(text, _options())
    except re2.error as error:
        (reason,) = error.args
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        if "too large" in said:
            said = "it comes to too large a program; repeat or alternate less"
        return Expression(None, REFUSED_COST, f"not a regular expression (of RE2): {said}")
    return Expression(compiled, BASE_COST + int(compiled.programsize))


@cache
def _options() -> Any:
    options = re2.Options()
    options.log_errors = False  # the library would write them to standard error
    options.max_mem = MAX_BYTES
    return options
