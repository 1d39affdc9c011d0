"""Imported version ranges select what their tools select, tag for tag: tests/data/version_ranges has their answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.matcher import parse_matcher
from app.importers.patterns import Ranges, blang_ranges, masterminds_ranges, regsync_ranges

DATA = Path(__file__).parent.parent / "data" / "version_ranges"
NO_VERSIONS_HERE = frozenset({"1.2.3.4", "10.0.17763.6189", "1.2.3-", "1.2.4-01", "7.2-ubuntu-22.04"})
"""What only regsync takes for versions; each of its imports says so."""
Reader = Callable[[str], Ranges]


def recorded(tool: str) -> Any:
    return json.loads((DATA / f"{tool}.json").read_text())


def selected(ranges: Ranges, tags: list[str]) -> set[str]:
    include = [parse_matcher(text) for text in ranges.include]
    exclude = [parse_matcher(text) for text in ranges.exclude]
    only = parse_matcher(ranges.only or "*")
    return {tag for tag in tags if any(m(tag) for m in include) and only(tag) and not any(m(tag) for m in exclude)}


def differences(tool: str, read: Reader, *, besides: frozenset[str] = frozenset()) -> dict[str, set[str] | str]:
    """Compare each range; what is refused there and here is alike."""
    found: dict[str, set[str] | str] = {}
    answers = recorded(tool)
    for text, expected in answers["ranges"].items():
        try:
            ranges = read(text)
        except ValueError:
            if expected is not None:
                found[text] = "refused"
            continue
        if expected is None:
            found[text] = "taken"
        elif wrong := (selected(ranges, answers["tags"]) ^ set(expected)) - besides:
            assert ranges.differs, f"{text} differs by {wrong} without a word"
            found[text] = wrong
    return found


def test_skopeos_ranges_select_what_masterminds_selects() -> None:
    assert differences("masterminds", masterminds_ranges) == {
        "!=1.2-0": {
            *("1.2", "1.2.0", "1.2.0-0", "1.2.1-alpine3.18", "1.2.3", "1.2.3-alpine", "1.2.3-rc.2", "1.2.3-rc10"),
            *("1.2.3-rc9", "1.2.4", "01.02.03", "v1.2.3"),
        },
        "!=1.x-0": {"1.0.0-0", "1.0.0-alpha", "1.0.0-rc.1"},
        ">=1.0.0-0 !=1": {"1.0.0-0", "1.0.0-alpha", "1.0.0-rc.1"},
        ">=1.0.0-0 !=1.2": {"1.2.1-alpine3.18", "1.2.3-alpine", "1.2.3-rc.2", "1.2.3-rc10", "1.2.3-rc9"},
    }


def test_regsyncs_ranges_select_what_regsync_selects() -> None:
    found = differences("regsync", regsync_ranges, besides=NO_VERSIONS_HERE)
    assert {text for text, wrong in found.items() if wrong == "refused"} == {
        *("", "1.2.3.4", "<1.2.3.4", "<=1.2.3.4", "=1.2.3.4", ">1.2.3.4", ">=1.2.3.4", "^1.2.3.4", "~1.2.3.4"),
    }  # an empty one is never asked for: there it is no condition
    prereleases = {"1.2.3-rc.1", "1.2.3-rc.2", "1.2.3-rc9", "1.2.3-rc10"}
    assert all(wrong <= prereleases for wrong in found.values() if isinstance(wrong, set))
    assert "taken" not in found.values()


def test_dregsys_ranges_select_what_blang_selects() -> None:
    found = differences("blang", blang_ranges)
    assert all(wrong == "refused" for wrong in found.values())
    assert all(set(text) & set("^~*-") or "=<" in text or "=>" in text or "x.3" in text for text in found)


@pytest.mark.parametrize(
    ("constraint", "ranges"),
    [
        (">= 3.12.0, < 4", ("semver:>=3.12.0 <4.0.0",)),
        ("1.2.3", ("semver:=1.2.3",)),
        ("v1.2", ("semver:>=1.2.0 <1.3.0",)),
        ("1.x || >=2.0.0-rc1", ("semver:>=1.0.0 <2.0.0", "semver-pre:>=2.0.0-rc1")),
        (">=1.2.0-0 <2", ("semver-pre:>=1.2.0-0 <2.0.0",)),  # one pre-release admits them all
        ("~1.2-0", ("semver-pre:>=1.2.0-0 <1.3.0-0",)),
        ("~0.0.0", ("semver:>=0.0.0",)),  # the same as `*`
        ("^*", ("semver:>=0.0.0 <0.0.1",)),  # 0.0.0 and nothing else
        (">*", ("semver:>0.0.0",)),
        ("<=*", ("semver:<0.1.0",)),
        ("!=1.2", ("semver:!=1.2.x",)),
        ("1.2 - 1.4.5", ("semver:>=1.2.0 <=1.4.5",)),
        ("24.04", ("semver:>=24.4.0 <24.5.0",)),
    ],
)
def test_what_masterminds_means_is_written_out(constraint: str, ranges: tuple[str, ...]) -> None:
    assert masterminds_ranges(constraint) == Ranges(ranges, ("*_*",))


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (">=1.0.0 <2.0.0", ">=1.0.0 <2.0.0"),  # takes 2.0.0-rc.1
        ("1.2", "=1.2.0"),  # missing numbers are 0
        ("<=1.2", "<=1.2.0"),
        ("^1.2.3", ">=1.2.3 <2.0.0"),
        ("^0", ">=0.0.0 <0.0.1"),  # the patch is kept
        ("~1", ">=1.0.0 <1.1.0"),  # the minor number is kept
        (">=1.2.3.0", ">=1.2.3"),
    ],
)
def test_what_regsync_means_is_written_out(constraint: str, text: str) -> None:
    assert regsync_ranges(constraint).include == (f"semver-pre:{text}",)


@pytest.mark.parametrize("constraint", ["1.x", ">= 1.2", ">=1,<2", "<1 || >=3", "!=1", "=>1", "*", "1.2.3 - 2"])
def test_what_regsync_refuses_is_refused(constraint: str) -> None:
    with pytest.raises(ValueError, match=r"regsync|version"):
        regsync_ranges(constraint)


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (">=1.31.0 <1.31.9", ">=1.31.0 <1.31.9"),
        ("1.2.x", ">=1.2.0 <1.3.0"),
        ("1.x.x", ">=1.0.0 <1.1.0"),  # the minor number is counted up
        ("<=1.x", "<2.0.0"),
        ("!1.2.3", "!=1.2.3"),
        ("!=1.x", "<1.0.0 >=2.0.0"),  # takes nothing
    ],
)
def test_what_dregsy_means_is_written_out(constraint: str, text: str) -> None:
    assert blang_ranges(constraint).include == (f"semver-pre:{text}",)
