"""Imported filters select what their tools select, name for name: tests/data/filters has their answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.matcher import parse_matcher
from app.domain.reference import Tag
from app.importers.dregsy import read_dregsy
from app.importers.image_syncer import read_image_syncer
from app.importers.patterns import doublestar_glob
from app.importers.regsync import read_regsync
from app.importers.result import ImportResult
from app.importers.skopeo import SkopeoFlags, read_skopeo
from app.sync.selection import select_tags

DATA = Path(__file__).parent.parent / "data" / "filters"
NEWER_THAN_RECORDED = frozenset({"(?<n>a)"})
"""Go's regular expressions take this since 1.22; the skopeo that was asked was built with an older one."""
COUNTED_OTHERWISE = [
    ["keep: latest 2"],
    ["keep:  latest   3"],
    ["semver: >=1.0.0", "regex: latest", "keep: latest 1"],
]
"""Where tags that are no versions are there as well, which dregsy does not count."""
BESIDE_AN_INVERTED_ONE = [["regex: !v.*", "regex: a"]]


def recorded(tool: str) -> Any:
    return json.loads((DATA / f"{tool}.json").read_text())


RECORDED = recorded("doublestar")


@pytest.mark.parametrize("pattern", RECORDED["patterns"])
def test_a_pattern_of_harbor_selects_what_doublestar_selects(pattern: str) -> None:
    assert _selected(pattern) == RECORDED["patterns"][pattern]


def _selected(pattern: str) -> list[str] | None:
    try:
        matches = parse_matcher(doublestar_glob(pattern))
    except ValueError:
        return None
    return [name for name in RECORDED["names"] if matches(name)]


def test_skopeos_expressions_select_what_skopeo_selects() -> None:
    asked, flags = recorded("skopeo"), SkopeoFlags("new.example.com", all_platforms=True)
    differing = {
        pattern
        for pattern, expected in asked["patterns"].items()
        if selected(
            read_skopeo(json.dumps({"old.example.com": {"images-by-tag-regex": {"app": pattern}}}), flags=flags),
            asked["names"],
        )
        != expected
    }
    assert differing == NEWER_THAN_RECORDED


def test_image_syncers_expressions_select_what_image_syncer_selects() -> None:
    asked = recorded("image_syncer")
    for pattern, expected in asked["patterns"].items():
        images = {f"old.example.com/team/app:/{pattern}/": "new.example.com/app"}
        assert selected(read_image_syncer(json.dumps(images)), asked["names"]) == expected, pattern


def test_regsyncs_filters_select_what_regsync_selects() -> None:
    asked = recorded("regsync")
    for case in asked["cases"]:
        entry = {"source": "old.example.com/app", "target": "new.example.com/app", "type": "repository"}
        config = {"version": 1, "sync": [{**entry, "tags": case["tags"]}]}
        assert selected(read_regsync(json.dumps(config)), asked["names"]) == case["selected"], case["tags"]


def test_dregsys_filters_select_what_dregsy_selects_or_a_note_says_so() -> None:
    asked, differing = recorded("dregsy"), []
    for case in asked["cases"]:
        read = read_of_dregsy(case["tags"])
        if selected(read, asked["names"]) != case["selected"]:
            differing.append(case["tags"])
            assert {note.code for note in read.notes} & {"tags", "invalid_mapping"}, case["tags"]
    assert differing == [*COUNTED_OTHERWISE[:2], *BESIDE_AN_INVERTED_ONE, *COUNTED_OTHERWISE[2:]]


def read_of_dregsy(tags: list[str]) -> ImportResult:
    mapping = {"from": "app", "tags": tags}
    task = {"source": {"registry": "old.example.com"}, "target": {"registry": "new.example.com"}}
    return read_dregsy(json.dumps({"tasks": [{"name": "all", **task, "mappings": [mapping]}]}))


def selected(read: ImportResult, names: list[str]) -> list[str] | None:
    """Return what the rules select of these tags, in their order; None where there is no rule."""
    rules = [rule for policy in read.policies for rule in policy.rules]
    found: set[str] = set()
    for rule in rules:
        found.update(rule.source_pattern.tags or select_tags([Tag(name) for name in names], rule.tags))
    return [name for name in names if name in found] if rules else None
