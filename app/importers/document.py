"""Reads foreign YAML or JSON as a tree of texts with their places, within bounds (no YAML bombs).

Scalars stay the text they were written as: `1.10` is a tag, not a number. Anchors may be used, but what they expand to
is counted, so that a few lines can't grow into gigabytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import yaml

from app.domain.errors import InvalidRequestError

CHARACTERS_PER_NODE = 4
"""Values may be so many as the text is long; what aliases stand for is counted as often as they do."""
MIN_NODES = 10_000
"""A short text may have so many all the same, for its aliases."""
MAX_NODES = 1_000_000
"""A long text has no more all the same: a node takes some 300 bytes."""
MAX_SEPARATORS = 2_000_000
"""Commas and brackets that JSON has at most, before it is read: every value stands behind one, and takes 60 bytes."""
MAX_DEPTH = 32
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Gives events only, and makes nothing of tags; in C where PyYAML was built with libyaml."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value in a document: a text, a list of nodes, or nodes by key."""

    path: str
    line: int | None = None
    text: str | None = None
    is_plain: bool = False
    """Whether a text stood without quotes, so that `null` and `true` may be meant as such."""
    items: tuple[Node, ...] | None = None
    fields: dict[str, Node] | None = None
    repeated: tuple[str, ...] = ()
    """Keys that stood more than once; the last one counts."""
    size: int = 1

    @property
    def is_null(self) -> bool:
        """Whether nothing was written."""
        return self.is_plain and self.text in {"", "~", "null", "Null", "NULL"}

    @property
    def is_true(self) -> bool:
        """Whether this is YAML's or JSON's true."""
        return self.is_plain and self.text in {"true", "True", "TRUE", "yes", "Yes", "on", "On"}

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or the texts of the list."""
        nodes = (self,) if self.items is None else self.items
        return tuple(node.text for node in nodes if node.text is not None and not node.is_null)

    def get(self, key: str) -> Node:
        """Return the node at a key; a null node, whose text is empty, where there is none or null is written."""
        found = (self.fields or {}).get(key)
        if found is None:
            return Node(_join(self.path, key), self.line, text="", is_plain=True)
        return replace(found, text="") if found.is_null else found


def read_document(text: str, *, name: str) -> Node:
    """Read one document; raise `InvalidRequestError` naming the file and what is wrong with it."""
    (document, *others) = read_documents(text, name=name)
    if others:
        raise unreadable(name, "it holds more than one document")
    return document


def read_documents(text: str, *, name: str, wanted: frozenset[str] | None = None) -> tuple[Node, ...]:
    """Read one or several documents, at least one; raise `InvalidRequestError` as `read_document` does.

    Of texts at keys, and of what holds nothing, only what stands at `wanted` keys is kept, where they are given: of a
    cluster's state that is a hundredth.
    """
    if text.lstrip().startswith(("{", "[")):
        check_separators(text, name=name)
        try:
            value = json.loads(
                text,
                object_pairs_hook=partial(_wanted_pairs, wanted) if wanted else _Pairs,
                parse_int=_Plain,
                parse_float=_Plain,
                parse_constant=_Plain,
            )
            return (_Tree(name, _max_nodes(text), wanted).from_json(value, path="", depth=0),)
        except (ValueError, RecursionError):
            pass  # YAML may begin with a brace, too
    return _read_yaml(text, name, wanted)


def check_separators(text: str, *, name: str) -> None:
    """Raise `InvalidRequestError` for a text that would be too many values of JSON; it costs next to nothing."""
    if len(text) > MAX_SEPARATORS and (count := sum(map(text.count, ",[{"))) > MAX_SEPARATORS:
        raise unreadable(name, f"it has {count} commas and brackets, and {MAX_SEPARATORS} are read at most; divide it")


def _max_nodes(text: str) -> int:
    return min(max(MIN_NODES, len(text) // CHARACTERS_PER_NODE), MAX_NODES)


def _read_yaml(text: str, name: str, wanted: frozenset[str] | None) -> tuple[Node, ...]:
    try:
        events = yaml.parse(text, Loader=_LOADER)
        return _Tree(name, _max_nodes(text), wanted).from_events(iter(events))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise unreadable(name, f"it is neither YAML nor JSON{where}") from error
    except (ValueError, RecursionError) as error:
        raise unreadable(name, "it is neither YAML nor JSON") from error


class _Plain(str):
    """A JSON number, kept as it was written."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """A JSON object's keys and values, in order and with repetitions."""


def _wanted_pairs(wanted: frozenset[str], pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pair for pair in pairs if pair[0] in wanted or _holds_something(pair[1]))


def _holds_something(value: Any) -> bool:
    if isinstance(value, _Pairs):
        return bool(value)
    return isinstance(value, list) and any(isinstance(item, list) for item in value)


@dataclass
class _Tree:
    name: str
    max_nodes: int
    wanted: frozenset[str] | None = None
    count: int = 0
    anchors: dict[str, Node] = field(default_factory=dict)

    def from_json(self, value: Any, *, path: str, depth: int) -> Node:
        self._count(1, depth)
        if isinstance(value, _Pairs):
            pairs = [(key, self.from_json(item, path=_join(path, key), depth=depth + 1)) for key, item in value]
            return _mapping(path, None, pairs)
        if isinstance(value, list):
            items = [self.from_json(item, path=f"{path}[{n}]", depth=depth + 1) for n, item in enumerate(value)]
            return _sequence(path, None, items)
        is_plain = isinstance(value, _Plain) or not isinstance(value, str)
        text = {None: "null", True: "true", False: "false"}.get(value, value) if is_plain else value
        return Node(path, text=str(text), is_plain=is_plain)

    def from_events(self, events: Iterator[yaml.Event]) -> tuple[Node, ...]:
        found = tuple(
            self._node(event, events, path="", depth=0) for event in events if isinstance(event, yaml.NodeEvent)
        )
        return found or (Node("", text="", is_plain=True),)

    def _node(self, event: yaml.NodeEvent, events: Iterator[yaml.Event], *, path: str, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._count(1, depth)
        line = _line(event)
        match event:
            case yaml.ScalarEvent():
                node = Node(path, line, text=str(event.value), is_plain=bool(event.implicit[0]))
            case yaml.SequenceStartEvent():
                items: list[Node] = []
                for child in _children(events):
                    items.append(self._node(child, events, path=f"{path}[{len(items)}]", depth=depth + 1))
                node = _sequence(path, line, items)
            case _:
                node = _mapping(path, line, self._pairs(events, path=path, depth=depth))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _pairs(self, events: Iterator[yaml.Event], *, path: str, depth: int) -> list[tuple[str, Node]]:
        pairs: list[tuple[str, Node]] = []
        for child in _children(events):
            event = None
            if self.wanted and isinstance(child, yaml.ScalarEvent):
                event = next(_children(events))
                if _is_unwanted(child, event, self.wanted):
                    continue
            key = self._node(child, events, path=path, depth=depth + 1)
            if key.text is None:
                raise unreadable(self.name, f"line {key.line}: a key is not a text")
            event = event or next(_children(events))
            value = self._node(event, events, path=_join(path, key.text), depth=depth + 1)
            if self.wanted and key.text not in self.wanted and not _has_nodes(value):
                self.count -= 0 if isinstance(event, yaml.AliasEvent) else value.size + 1  # looked through once more
                continue
            if key.text == "<<" and key.is_plain:
                pairs[:0] = _merged(value)
            else:
                pairs.append((key.text, value))
        return pairs

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        node = self.anchors.get(str(event.anchor))
        if node is None:
            raise unreadable(self.name, f"line {_line(event)}: an alias stands before or in its anchor")
        self._count(node.size, depth)
        return node

    def _count(self, nodes: int, depth: int) -> None:
        self.count += nodes
        if self.count > self.max_nodes:
            bound = f"{self.max_nodes}, one for {CHARACTERS_PER_NODE} characters, at most {MAX_NODES}"
            raise unreadable(self.name, f"with its aliases it has more values than may be read of its size ({bound})")
        if depth > MAX_DEPTH:
            raise unreadable(self.name, f"it is nested more than {MAX_DEPTH} levels deep")


def _has_nodes(node: Node) -> bool:
    return bool(node.fields) or any(item.text is None for item in node.items or ())


def _is_unwanted(key: yaml.ScalarEvent, event: yaml.NodeEvent, wanted: frozenset[str]) -> bool:
    """Tell whether a text is kept neither at its key nor for an alias, so that no node has to be made of it."""
    return isinstance(event, yaml.ScalarEvent) and not (event.anchor or key.anchor) and key.value not in wanted


def _line(event: yaml.NodeEvent) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _children(events: Iterator[yaml.Event]) -> Iterator[yaml.NodeEvent]:
    for event in events:
        if not isinstance(event, yaml.NodeEvent):
            return
        yield event


def _merged(value: Node) -> list[tuple[str, Node]]:
    return [pair for source in value.items or (value,) for pair in (source.fields or {}).items()]


def _mapping(path: str, line: int | None, pairs: list[tuple[str, Node]]) -> Node:
    counts = Counter(key for key, _ in pairs)
    repeated = tuple(sorted(key for key, count in counts.items() if count > 1)) if len(counts) < len(pairs) else ()
    size = 1 + sum(node.size for _, node in pairs)
    return Node(path, line, fields=dict(pairs), repeated=repeated, size=size)


def _sequence(path: str, line: int | None, items: list[Node]) -> Node:
    return Node(path, line, items=tuple(items), size=1 + sum(node.size for node in items))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def unreadable(name: str, reason: str) -> InvalidRequestError:
    """Make the error for a file that can't be read."""
    return InvalidRequestError(f"the {name} file can't be read: {reason}", code="import_unreadable")
