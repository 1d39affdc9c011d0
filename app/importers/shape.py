"""What a tool's file may hold where: what is of another kind is noted and left out, before anything is read of it.

A filter that can't be read must not become none: where a value says what is copied, all that it says it of is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from app.importers.document import Node, unreadable
from app.importers.result import Draft

_FLAGS = frozenset(
    {"true", "True", "TRUE", "yes", "Yes", "on", "On", "false", "False", "FALSE", "no", "No", "off", "Off"}
)
_NUMBER = re.compile(r"-?[0-9]{1,18}")

Kind = Literal["anything", "text", "flag", "number", "texts", "list", "mapping"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What one value has to be."""

    kind: Kind
    of: Shape | None = None
    """What each item of a list is, or what stands at any key of a mapping."""
    fields: Mapping[str, Shape] = field(default_factory=dict)
    """What stands at the keys of a mapping that has fields."""
    is_open: bool = False
    """Whether other keys than those of `fields` may stand there, and are not looked at."""
    decides: bool = False
    """Whether it says what is copied: where it is wrong, what it stands in is left out."""

    @property
    def deciding(self) -> Shape:
        """The same shape for a value that says what is copied."""
        return replace(self, decides=True)


ANYTHING, TEXT, FLAG = Shape("anything"), Shape("text"), Shape("flag")
NUMBER, TEXTS = Shape("number"), Shape("texts")


def list_of(shape: Shape) -> Shape:
    """Describe a list."""
    return Shape("list", of=shape)


def mapping_to(shape: Shape) -> Shape:
    """Describe a mapping whose keys are names."""
    return Shape("mapping", of=shape)


def with_fields(fields: Mapping[str, Shape], *, is_open: bool = False) -> Shape:
    """Describe a mapping whose keys are known."""
    return Shape("mapping", fields=fields, is_open=is_open)


def named(names: Iterable[str], shape: Shape) -> dict[str, Shape]:
    """Describe fields that are all alike."""
    return dict.fromkeys(names, shape)


def fitted(document: Node, shape: Shape, draft: Draft, *, file: str, expected: str) -> Node:
    """Return a document without what is of another kind than it has to be; each of that is noted in the draft.

    Raise `InvalidRequestError` where all of it is of another kind than what is `expected`.
    """
    if not document.is_null and not _is(document, shape):
        raise unreadable(file, f"it is {_found(document)}, and {expected} is expected")
    found = fit(document, shape, draft, file=file)
    return found if found is not None else Node("", text="", is_plain=True)


def fit(node: Node, shape: Shape, draft: Draft, *, file: str) -> Node | None:
    """Return what fits of a value, None where nothing does; what does not is noted in the draft."""
    return _Fitting(draft, file).fit(node, shape)


@dataclass(frozen=True, slots=True)
class _Fitting:
    draft: Draft
    file: str

    def fit(self, node: Node, shape: Shape) -> Node | None:
        """Return what fits of a value; None where it does not, or where what decides of it does not."""
        if node.is_null or shape.kind == "anything":
            return node
        if not _is(node, shape):
            self._note(_culprit(node, shape), shape)
            return None
        self.draft.warn_of_repetitions(node, file=self.file)
        if shape.kind == "list" and shape.of is not None:
            return self._list(node, shape.of)
        if shape.kind == "mapping":
            return self._mapping(node, shape)
        return node

    def _list(self, node: Node, of: Shape) -> Node | None:
        items = []
        for item in node.items or ():
            if item.is_null and of.kind != "anything":
                self._note(item, of)
                found = None
            else:
                found = self.fit(item, of)
            if found is None and of.decides:
                return None
            items += [found] if found is not None else []
        return replace(node, items=tuple(items))

    def _mapping(self, node: Node, shape: Shape) -> Node | None:
        fields = {}
        is_whole = True
        for key, value in (node.fields or {}).items():
            below = shape.of or shape.fields.get(key)
            if below is None:
                if not shape.is_open and not key.startswith("x-"):
                    self.draft.left_out("unknown_field", value, f"{key!r} has no counterpart here", file=self.file)
                continue
            found = self.fit(value, below)
            if found is not None:
                fields[key] = found
            elif below.decides:
                is_whole = False
        return replace(node, fields=fields) if is_whole else None

    def _note(self, node: Node, shape: Shape) -> None:
        what = "; what it stands in is left out, since it says what is copied" if shape.decides else ""
        reason = f"{_EXPECTED[shape.kind]} is expected here, and this is {_found(node)}{what}"
        self.draft.left_out("wrong_type", node, reason, file=self.file)


_EXPECTED: dict[Kind, str] = {
    "anything": "anything",
    "text": "a text",
    "flag": "true or false",
    "number": "a number",
    "texts": "a text, or a list of texts,",
    "list": "a list",
    "mapping": "a mapping",
}


def _is(node: Node, shape: Shape) -> bool:
    match shape.kind:
        case "text":
            return node.text is not None
        case "flag":
            return node.is_plain and node.text in _FLAGS
        case "number":
            return _NUMBER.fullmatch(node.text or "") is not None
        case "texts":
            return _culprit(node, shape) is node and (node.text is not None or node.items is not None)
        case "list":
            return node.items is not None
        case "mapping":
            return node.fields is not None
        case _:
            return True


def _culprit(node: Node, shape: Shape) -> Node:
    """Return the item that is no text in a list of texts; else the value itself."""
    if shape.kind != "texts":
        return node
    return next((item for item in node.items or () if item.text is None or item.is_null), node)


def _found(node: Node) -> str:
    if node.fields is not None:
        return "a mapping"
    if node.items is not None:
        return "a list"
    return "nothing" if node.is_null else f"{(node.text or '')[:64]!r}"
