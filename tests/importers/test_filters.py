"""Imported patterns select what their tools select, name for name: tests/data/filters has their answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.matcher import parse_matcher
from app.importers.patterns import doublestar_glob

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "filters" / "doublestar.json").read_text()
)


@pytest.mark.parametrize("pattern", RECORDED["patterns"])
def test_a_pattern_of_harbor_selects_what_doublestar_selects(pattern: str) -> None:
    assert _selected(pattern) == RECORDED["patterns"][pattern]


def _selected(pattern: str) -> list[str] | None:
    try:
        matches = parse_matcher(doublestar_glob(pattern))
    except ValueError:
        return None
    return [name for name in RECORDED["names"] if matches(name)]
