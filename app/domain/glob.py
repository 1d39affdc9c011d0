"""Globs over repository paths and tags, translated to RE2: matched in time that grows with the text only.

`*` and `?` stay inside a path part, `**` crosses parts, and `**/` at the beginning of a part may stand for no part at
all; `[a-z]`, `[!a-z]`, `{one,two}`; a backslash takes the next character as it is. The whole text has to match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import re2  # type: ignore[import-untyped]  # it has no types of its own

from app.domain.expression import Expression, compile_expression

_SPECIAL = re.compile(r"[*?\[\]{}\\]")
_PARTS = "(?:.*/)?"
"""Whole parts, or none."""
_NUMERIC = re.compile(r"[0-9]|\\\.|\[(?:\\x\{3[0-9]\}-\\x\{3[0-9]\})+\]")
"""Pieces of an expression that stand for digits and dots only."""


class Glob:
    """A parsed glob."""

    __slots__ = ("_expression", "_literal", "_text")

    def __init__(self, text: str) -> None:
        """Parse; raise `ValueError` saying what is wrong with it."""
        self._text = text
        self._literal = _SPECIAL.search(text) is None
        self._expression: Expression | None = None if self._literal else compile_expression(_Translation(text).read())

    def matches(self, text: str) -> bool:
        """Return whether the whole text matches."""
        return text == self._text if self._expression is None else self._expression.is_all_of(text)

    def star(self) -> Expression | None:
        """Return an expression whose group is what the first `*` stands for, with the numbers that stand before it.

        Of `*-alpine` it is `1.2` in `1.2-alpine`, of `app-1.*` it is `1.7` in `app-1.7`: the version in a tag, without
        what is around it. None where there is no such `*` outside braces.
        """
        translation = _Translation(self._text, captures=True)
        text = translation.read()
        return compile_expression(text) if translation.has_group else None


@dataclass(slots=True)
class _Brace:
    """An open brace: whether a part began before it, and whether one does behind each of its choices."""

    opens_part: bool
    ends: list[bool] = field(default_factory=list)


@dataclass(slots=True)
class _Translation:
    """One pass over a glob; `pieces` is the expression so far."""

    text: str
    captures: bool = False
    has_group: bool = False
    pieces: list[str] = field(default_factory=list)
    braces: list[_Brace] = field(default_factory=list)
    at_part: bool = True
    """Whether a path part begins here."""

    def read(self) -> str:
        place = 0
        while place < len(self.text):
            place = self._next(place)
        if self.braces:
            raise ValueError("a { has no } behind it")
        return f"(?s:{''.join(self.pieces)})"

    def _next(self, place: int) -> int:
        match self.text[place]:
            case "*":
                return self._stars(place)
            case "?":
                self._add("[^/]")
            case "[":
                return self._character_class(place)
            case "{" | "}" | ",":
                self._brace(self.text[place])
            case "\\":
                if place + 1 == len(self.text):
                    raise ValueError("the glob ends in a backslash")
                self._literal(self.text[place + 1])
                return place + 2
            case character:
                self._literal(character)
        return place + 1

    def _literal(self, character: str) -> None:
        self._add(re2.escape(character), at_part=character == "/")

    def _add(self, piece: str, *, at_part: bool = False) -> None:
        self.pieces.append(piece)
        self.at_part = at_part

    def _stars(self, place: int) -> int:
        end = place
        while self.text[end : end + 1] == "*":
            end += 1
        if end - place == 1:
            if self.captures and not self.has_group and not self.braces and self.pieces[-1:] != [")"]:
                self._open_group()
            else:
                self._add("[^/]*")
        elif self.at_part and self.text[end : end + 1] == "/":
            if self.pieces[-1:] != [_PARTS]:
                self._add(_PARTS, at_part=True)
            return end + 1
        else:
            self._add(".*")
        return end

    def _open_group(self) -> None:
        start = len(self.pieces)
        while start and _NUMERIC.fullmatch(self.pieces[start - 1]):
            start -= 1
        self.pieces.insert(start, "(")
        self._add("[^/]*?)")
        self.has_group = True

    def _character_class(self, start: int) -> int:
        # As in a shell, a bracket right at the beginning is a character of the class.
        first = start + 2 if self.text[start + 1 : start + 2] in {"!", "^"} else start + 1
        end = self.text.find("]", first + 1)
        if end < 0:
            raise ValueError("a [ has no ] behind it")
        negation = "^/" if first == start + 2 else ""
        self._add(f"[{negation}{_ranges(self.text[first:end])}]")
        return end + 1

    def _brace(self, character: str) -> None:
        if character == "{":
            self.braces.append(_Brace(self.at_part))
            self.pieces.append("(?:")
        elif not self.braces:
            if character == "}":
                raise ValueError("a } has no { before it")
            self._literal(character)
        else:
            brace = self.braces[-1]
            brace.ends.append(self.at_part)
            if character == ",":
                self._add("|", at_part=brace.opens_part)
            else:
                self.braces.pop()
                self._add(")", at_part=all(brace.ends))


def _ranges(text: str) -> str:
    found = ""
    while text:
        if len(text) > 2 and text[1] == "-":  # noqa: PLR2004 — the length of a-z is 3
            low, high, text = text[0], text[2], text[3:]
            if low > high:
                raise ValueError(f"[{low}-{high}] runs backwards")
        else:
            low = high = text[0]
            text = text[1:]
        if low <= "/" <= high:
            raise ValueError("a character class never matches a slash")
        found += rf"\x{{{ord(low):x}}}-\x{{{ord(high):x}}}"
    return found
