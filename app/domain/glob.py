"""Globs over repository paths and tags, matched in time that grows with the text only, whatever the pattern.

`*` and `?` stay inside a path part, `**` crosses parts, and `**/` at the beginning of a part may stand for no part at
all; `[a-z]`, `[!a-z]`, `{one,two}`; a backslash takes the next character as it is. The whole text has to match.

A pattern becomes a row of tokens, and a set of places in that row is the bits of one integer: each character of the
text moves all places at once (Baeza-Yates and Navarro's bit-parallel automaton), so nothing is ever tried twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_ALTERNATIVES = 256
"""Patterns that one glob's braces may come to."""


class _Kind(Enum):
    CHARACTER = "one of some characters"
    STAR = "any number within a part"
    DEEP = "any number"
    PARTS = "whole parts, or none: the two tokens behind it, or the one behind those"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    ranges: tuple[tuple[str, str], ...] = ()
    is_negated: bool = False

    def takes(self, character: str) -> bool:
        if self.kind is not _Kind.CHARACTER:
            return False
        found = any(low <= character <= high for low, high in self.ranges)
        return found if not self.is_negated else not found and character != "/"


_ANY = _Token(_Kind.CHARACTER, is_negated=True)
_STAR = _Token(_Kind.STAR)
_DEEP = _Token(_Kind.DEEP)
_PARTS = _Token(_Kind.PARTS)
_SLASH = _Token(_Kind.CHARACTER, (("/", "/"),))
_WHOLE_PARTS = (_PARTS, _DEEP, _SLASH)


class Glob:
    """A parsed glob."""

    def __init__(self, text: str) -> None:
        """Parse; raise `ValueError` saying what is wrong with it."""
        self._rows = tuple(_Row(_tokens(alternative)) for alternative in _alternatives(text))

    def matches(self, text: str) -> bool:
        """Say whether the whole text matches."""
        return any(row.matches(text) for row in self._rows)


class _Row:
    """Tokens, with each place among them as a bit."""

    __slots__ = ("_deep", "_moves", "_parts", "_skippable", "_star", "_tokens")

    def __init__(self, tokens: tuple[_Token, ...]) -> None:
        self._tokens = tokens
        self._star, self._deep, self._parts = (self._places(kind) for kind in (_Kind.STAR, _Kind.DEEP, _Kind.PARTS))
        self._skippable = self._star | self._deep | self._parts
        self._moves: dict[str, tuple[int, int]] = {}

    def matches(self, text: str) -> bool:
        places = self._with_skips(1)
        for character in text:
            stay, step = self._moves.get(character) or self._learn(character)
            places = self._with_skips((places & stay) | (places & step) << 1)
            if not places:
                return False
        return bool(places >> len(self._tokens) & 1)

    def _learn(self, character: str) -> tuple[int, int]:
        stay = self._deep | (self._star if character != "/" else 0)
        step = sum(1 << place for place, token in enumerate(self._tokens) if token.takes(character))
        self._moves[character] = stay, step
        return stay, step

    def _with_skips(self, places: int) -> int:
        # What stands for nothing at all is passed without a character.
        while (more := places | (places & self._skippable) << 1 | (places & self._parts) << 3) != places:
            places = more
        return places

    def _places(self, kind: _Kind) -> int:
        return sum(1 << place for place, token in enumerate(self._tokens) if token.kind is kind)


def _tokens(text: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    place = 0
    while place < len(text):
        match text[place]:
            case "*":
                stars = len(text[place:]) - len(text[place:].lstrip("*"))
                place += stars + _add_stars(tokens, stars, text[place + stars :])
            case "?":
                tokens.append(_ANY)
                place += 1
            case "[":
                token, place = _character_class(text, place)
                tokens.append(token)
            case "\\":
                if place + 1 == len(text):
                    raise ValueError("the glob ends in a backslash")
                tokens.append(_literal(text[place + 1]))
                place += 2
            case character:
                tokens.append(_literal(character))
                place += 1
    return tuple(tokens)


def _add_stars(tokens: list[_Token], stars: int, rest: str) -> int:
    """Take stars in; return how much of what follows was taken with them."""
    if stars == 1:
        tokens.append(_STAR)
        return 0
    if rest.startswith("/") and (not tokens or tokens[-1] == _SLASH):
        if tuple(tokens[-3:]) != _WHOLE_PARTS:
            tokens.extend(_WHOLE_PARTS)
        return 1
    tokens.append(_DEEP)
    return 0


def _literal(character: str) -> _Token:
    return _Token(_Kind.CHARACTER, ((character, character),))


def _character_class(text: str, start: int) -> tuple[_Token, int]:
    end = _class_end(text, start)
    inside = text[start + 1 : end]
    is_negated = inside[0] in "!^"
    inside = inside[is_negated:]
    ranges: list[tuple[str, str]] = []
    while inside:
        if len(inside) > 2 and inside[1] == "-":  # noqa: PLR2004 — the length of a-z is 3
            low, high, inside = inside[0], inside[2], inside[3:]
            if low > high:
                raise ValueError(f"[{low}-{high}] runs backwards")
        else:
            low = high = inside[0]
            inside = inside[1:]
        ranges.append((low, high))
    if any(low <= "/" <= high for low, high in ranges):
        raise ValueError("a character class never matches a slash")
    return _Token(_Kind.CHARACTER, tuple(ranges), is_negated), end + 1


def _class_end(text: str, start: int) -> int:
    # As in a shell, a bracket right at the beginning is a character of the class.
    first = start + 2 if text[start + 1 : start + 2] in {"!", "^"} else start + 1
    end = text.find("]", first + 1)
    if end < 0:
        raise ValueError("a [ has no ] behind it")
    return end


def _alternatives(text: str) -> list[str]:
    """Write a glob with braces as globs without."""
    opening = _find(text, "{", 0)
    if opening < 0:
        if _find(text, "}", 0) >= 0:
            raise ValueError("a } has no { before it")
        return [text]
    choices, end = _choices(text, opening)
    rests = _alternatives(text[end:])
    found = [
        f"{text[:opening]}{choice}{rest}" for written in choices for choice in _alternatives(written) for rest in rests
    ]
    if len(found) > MAX_ALTERNATIVES:
        raise ValueError(f"the braces come to more than {MAX_ALTERNATIVES} alternatives")
    return found


def _choices(text: str, opening: int) -> tuple[list[str], int]:
    """Divide the braces that open here at their own commas; return where they end, too."""
    choices: list[str] = []
    depth, start, place = 0, opening + 1, opening
    while place >= 0:
        match text[place]:
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth == 0:
                    return [*choices, text[start:place]], place + 1
            case "," if depth == 1:
                choices.append(text[start:place])
                start = place + 1
        place = _find(text, "{},", place + 1)
    raise ValueError("a { has no } behind it")


def _find(text: str, wanted: str, start: int) -> int:
    """Find the first of some characters that is neither escaped nor in a class; -1 for none."""
    place = start
    while place < len(text):
        if text[place] in wanted:
            return place
        if text[place] == "\\":
            place += 1
        elif text[place] == "[":
            place = _class_end(text, place)
        place += 1
    return -1
