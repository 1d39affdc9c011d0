"""The vocabulary of `docs/glossary.md` is kept to: in names, docstrings, messages, log events and documents.

Left out are what is a record of its time: decisions, the changelog; and the glossary, which names what is banned.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.test_house_rules import modules
from tests.words import BEHAVIOURS, LEAST, missed

_LOG_METHODS = {"debug", "info", "warning", "error", "exception"}
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_PLURALS = (("ies", "y"), ("xes", "x"), ("ches", "ch"), ("s", ""))
_HEADERS = {"Term", "Banned", "Family", "---"}


@dataclass(frozen=True, slots=True)
class Banned:
    """What may not be said: everywhere, and in names only; each a phrase of one or more words."""

    everywhere: frozenset[str]
    in_names: frozenset[str]

    def in_text(self, text: str) -> set[str]:
        words = " ".join(re.findall(r"[a-z]+", text.lower()))
        return {phrase for phrase in self.everywhere if f" {phrase} " in f" {words} "}

    def in_name(self, name: str) -> set[str]:
        words = " ".join(_WORD.findall(name)).lower()
        return {phrase for phrase in self.everywhere | self.in_names if f" {phrase} " in f" {words} "}


def rows(project: Path, heading: str) -> list[list[str]]:
    """Read the tables below a heading of the glossary; below "" all of them."""
    text = (project / "docs" / "glossary.md").read_text()
    part = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] if heading else text
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if row[0] not in _HEADERS]


def banned(project: Path) -> Banned:
    everywhere: set[str] = set()
    in_names: set[str] = set()
    for phrases, _ in rows(project, "Banned words"):
        found = in_names if phrases.startswith("in names only") else everywhere
        found.update(phrase for listed in re.findall(r"`([a-z ]+)`", phrases) for phrase in (listed, f"{listed}s"))
    return Banned(frozenset(everywhere), frozenset(in_names))


def terms(project: Path) -> set[str]:
    """List the words a class's name may end with, in the singular: those of terms, and those of families."""
    said = [row[0] for row in rows(project, "") if len(row) == 4]
    said += [nouns for _, nouns in rows(project, "Class names")]
    return {singular(word.lower()) for text in said for word in _WORD.findall(text)}


def singular(word: str) -> str:
    for ending, instead in _PLURALS:
        if word.endswith(ending) and not word.endswith("ss") and len(word) > len(ending) + 2:
            return word.removesuffix(ending) + instead
    return word


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the names a module makes: of functions, classes, parameters, variables and attributes; not of columns."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case _:
                pass


def _columns(path: Path) -> set[str]:
    """List the columns a module of tables declares: they are named as the schema has them."""
    if path.parent.name != "tables":
        return set()
    return {
        node.target.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield what people read: docstrings, those of attributes too, messages, help, and the names of log events."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if " " in text or text.endswith("."):
                yield text
            case ast.Call(func=ast.Attribute(attr=method), args=[ast.Constant(value=str(event)), *_]) if (
                method in _LOG_METHODS
            ):
                yield event.replace("_", " ")
            case _:
                pass


def test_names_are_words_of_the_field(project: Path) -> None:
    law = banned(project)
    wrong = {
        f"{path.relative_to(project)}: {name}": found
        for path in modules(project)
        for name in {path.stem, *names(ast.parse(path.read_text()))} - _columns(path)
        if (found := law.in_name(name))
    }

    assert wrong == {}


def test_docstrings_messages_and_log_events_are_words_of_the_field(project: Path) -> None:
    law = banned(project)
    wrong = {
        f"{path.relative_to(project)}: {text[:80]}": found
        for path in modules(project)
        for text in texts(ast.parse(path.read_text()))
        if (found := law.in_text(text))
    }

    assert wrong == {}


def test_documents_are_words_of_the_field(project: Path) -> None:
    law = banned(project)
    records = {project / "docs" / "glossary.md", *(project / "docs" / "decisions").iterdir()}
    pages = {*project.glob("*.md"), *(project / "docs").rglob("*.md")} - records - {project / "CHANGELOG.md"}
    wrong = {
        f"{page.relative_to(project)}: {paragraph.strip()[:80]}": found
        for page in pages
        for paragraph in page.read_text().split("\n\n")
        if (found := law.in_text(paragraph))
    }

    assert len(pages) > 10
    assert wrong == {}


def test_the_openapi_document_speaks_the_words_of_the_field(project: Path) -> None:
    law = banned(project)
    document = json.loads((project / "openapi" / "openapi.json").read_text())

    assert {text[:80]: found for text in _sentences(document) if (found := law.in_text(text))} == {}


def test_public_classes_are_called_after_terms(project: Path) -> None:
    known = terms(project)
    strangers = {
        f"{path.relative_to(project)}: {node.name}"
        for path in modules(project)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if singular(_WORD.findall(node.name)[-1].lower()) not in known
    }

    assert strangers == set()


def test_terms_name_files_that_exist(project: Path) -> None:
    files = [row[2].strip("`") for row in rows(project, "") if len(row) == 4]

    assert len(files) >= 45
    assert [file for file in files if not (project / "app" / file).is_file()] == []


def test_behaviours_are_found_by_the_fields_word(project: Path) -> None:
    not_found = missed(project / "app")

    assert len(BEHAVIOURS) == 36
    assert len(BEHAVIOURS) - len(not_found) >= LEAST, not_found


def test_what_a_behaviour_is_expected_in_exists(project: Path) -> None:
    assert [one.file for one in BEHAVIOURS if not (project / "app" / one.file).is_file()] == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("UnitLedger", {"ledger"}),
        ("kept_lanes", {"kept", "lanes"}),
        ("given_up", {"given up"}),
        ("HTTPTurn", {"turn"}),
        ("heartbeat", set()),
        ("returned", set()),
    ],
)
def test_names_are_split_into_words(project: Path, name: str, found: set[str]) -> None:
    assert banned(project).in_name(name) == found


def test_text_may_use_plain_words_that_names_may_not(project: Path) -> None:
    law = banned(project)
    assert law.in_text("Rows are kept for a day, and locks are held in turn.") == set()
    assert law.in_text("The ledger keeps what the engine room told.") == {"ledger", "engine room", "told"}


def _sentences(node: Any) -> Iterator[str]:
    """Yield what people read: summaries, descriptions, titles."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"summary", "description", "title"} and isinstance(value, str):
                yield value
            else:
                yield from _sentences(value)
    elif isinstance(node, list):
        for value in node:
            yield from _sentences(value)
