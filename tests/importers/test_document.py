"""Documents from outside are read within bounds, each value as the text it was written as."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from app.domain.errors import InvalidRequestError
from app.importers.document import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_SEPARATORS,
    MIN_NODES,
    Node,
    read_document,
    read_documents,
)


def plain(node: Node) -> object:
    if node.fields is not None:
        return {key: plain(item) for key, item in node.fields.items()}
    return [plain(item) for item in node.items] if node.items is not None else node.text


@pytest.mark.parametrize("text", ["a: [1.10, on, ~, 'x', 0x10]", '{"a": ["1.10", "on", "~", "x", "0x10"]}'])
def test_scalars_stay_the_text_they_were_written_as(text: str) -> None:
    assert plain(read_document(text, name="test")) == {"a": ["1.10", "on", "~", "x", "0x10"]}


def test_keys_that_are_repeated_cost_no_more_than_others() -> None:
    """Read within a second; it took an hour where each key was counted for itself."""
    text = "{" + ",".join(f'"k{number}":1' for number in range(150_000)) + ',"k7":2,"k7":3}'
    node = read_document(text, name="test")
    assert (node.repeated, node.get("k7").text) == (("k7",), "3")


def test_aliases_of_what_is_not_wanted_count_as_often_as_they_are_looked_through() -> None:
    many = ",".join("a" * 9_000)
    text = f"big: &b [{many}]\n" + "".join(f"z{number}: *b\n" for number in range(200_000))
    with pytest.raises(InvalidRequestError, match="more values than may be read"):
        read_documents(text, name="test", wanted=frozenset({"image"}))


def test_json_may_be_indented_with_tabs_and_its_numbers_stay_as_written() -> None:
    node = read_document('{\n\t"a": 1.10,\n\t"b": [true, null, "null", "\\ud83d\\ude00"]\n}', name="test")
    assert plain(node) == {"a": "1.10", "b": ["true", "null", "null", "\U0001f600"]}
    assert [item.is_null for item in node.get("b").items or ()] == [False, True, False, False]
    assert node.get("b").texts == ("true", "null", "\U0001f600")


def test_values_know_where_they_stand() -> None:
    node = read_document("# first\na:\n  b:\n    - x\n    - y: z\n", name="test")
    (_, second) = node.get("a").get("b").items or ()
    assert (second.path, second.line) == ("a.b[1]", 5)
    assert (node.get("missing").path, node.get("missing").is_null) == ("missing", True)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", '{"a": 1, "b": 2, "a": 3}'])
def test_repeated_keys_are_known_and_the_last_one_counts(text: str) -> None:
    node = read_document(text, name="test")
    assert node.repeated == ("a",)
    assert plain(node) == {"a": "3", "b": "2"}


def test_anchors_and_merges_may_be_used() -> None:
    node = read_document("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\nsame: *b\n", name="test")
    assert plain(node.get("more")) == {"x": "1", "y": "3"}
    assert plain(node.get("same")) == {"x": "1", "y": "2"}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(9),
        "a: &a [*a]",
        "a: *nowhere",
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "- " * (MAX_DEPTH + 2) + "x",
        "[" * 500_000,
        json.dumps([0] * (MIN_NODES + 1), separators=(",", ":")),
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "a: 1\n---\nb: 2\n",
        "[a]: b\n",
        "a: [unclosed",
        "a: \x00",
        "\ud800: 1",
        "!!python/object/apply:os.system [id]: 1",
    ],
    ids=[
        "bomb",
        "loop",
        "unknown",
        "deep",
        "dashes",
        "deeper",
        "many",
        "json",
        "two",
        "key",
        "open",
        "nul",
        "half",
        "tag",
    ],
)
def test_what_is_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_document(text, name="images")
    assert caught.value.code == "import_unreadable"
    assert "images" in caught.value.message


def test_a_small_bomb_below_the_limit_is_read() -> None:
    assert len(read_document(bomb(3), name="test").fields or {}) == 3


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("[" + "0," * MAX_SEPARATORS + "0]", f"{MAX_SEPARATORS + 1} commas and brackets"),
        ("[" + "'0000', " * MAX_NODES + "0]", f"({MAX_NODES}, one for 4 characters, at most {MAX_NODES})"),
        (bomb(9), "more values than may be read of its size (10000,"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), f"more than {MAX_DEPTH} levels"),
    ],
)
def test_which_bound_was_met_is_said(text: str, bound: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_document(text, name="images")
    assert bound in caught.value.message


def test_a_long_file_may_have_many_values() -> None:
    text = "\n".join(f"key-{number}: [one, two, three]" for number in range(30_000))
    assert len(read_document(text, name="test").fields or {}) == 30_000


def test_several_documents_may_be_read_at_once() -> None:
    assert [plain(node) for node in read_documents("a: 1\n---\nb: 2\n---\n", name="test")] == [
        {"a": "1"},
        {"b": "2"},
        "",
    ]
    assert [plain(node) for node in read_documents("", name="test")] == [""]


WANTED = frozenset({"image", "containers"})
STATE = {
    "metadata": {"labels": {"a": "b"}, "names": ["x", "y"]},
    "spec": {
        "containers": [{"env": [{"name": "x"}]}, {"image": "a:1", "args": ["-x"]}, "text"],
        "more": {"image": "b"},
    },
}


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_of_a_state_only_what_is_wanted_is_kept_and_everything_stays_where_it_is(write: Callable[[Any], str]) -> None:
    (found,) = read_documents(write(STATE), name="test", wanted=WANTED)
    assert found.get("metadata").is_null
    items = found.get("spec").get("containers").items or ()
    assert [item.path for item in items] == [f"spec.containers[{place}]" for place in range(3)]
    assert [item.get("image").text for item in items] == ["", "a:1", ""]
    assert (items[2].text, found.get("spec").get("more").get("image").text) == ("text", "b")


def test_what_an_alias_stands_for_is_kept() -> None:
    (found,) = read_documents("name: &x a:1\nbase: &b {image: *x}\nmore: {<<: *b}\n", name="test", wanted=WANTED)
    assert plain(found) == {"base": {"image": "a:1"}, "more": {"image": "a:1"}}
