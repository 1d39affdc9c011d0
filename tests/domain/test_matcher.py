"""Matchers: globs, regular expressions, version ranges."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.glob import Glob
from app.domain.matcher import parse_all_of, parse_matcher
from app.domain.version import VersionRange, parse_version

PARTS = st.text("ab.-1", min_size=1, max_size=4)
TEXTS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(["a", "b", ".", "-", "1", "/", "*", "?", "**", "[ab]", "[!a]", "{a,b/1}", "{1,a}"])
GLOBS = st.lists(PIECES, max_size=8).map("".join)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("v*", ["v", "v1", "v1.2-rc"], ["1", "xv", "v/1"]),
        ("team-a/**", ["team-a/x", "team-a/x/y"], ["team-a", "team-ab/x", "x/team-a/y"]),
        ("**/scratch", ["scratch", "a/scratch", "a/b/scratch"], ["xscratch", "a/xscratch", "scratch/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "a/x/yb"]),
        ("*/app", ["a/app"], ["app", "a/b/app"]),
        ("a**b", ["ab", "a/x/b"], ["a/x"]),
        ("1.?", ["1.2"], ["1.", "1.22", "1./"]),
        ("[0-9].[!0-9]", ["1.x"], ["1.2", "x.x", "1./"]),
        ("{alpine,debian-{11,12}}", ["alpine", "debian-11", "debian-12"], ["debian", "debian-"]),
        ("[{,}]", ["{", ","], ["a"]),
        ("{a/,b/}**/c", ["a/c", "b/x/c"], ["a/xc", "c"]),
        ("{**/a,b}", ["a", "x/a", "b"], ["x/b"]),
        ("{a,b}" * 9, ["ababababa"], ["abababab"]),
        (r"\*", ["*"], ["a"]),
        ("[]]", ["]"], ["["]),
        ("**/**/a", ["a", "x/a", "x/y/a"], ["xa"]),
        ("", [""], ["a"]),
    ],
)
def test_a_glob_takes_what_it_says_and_nothing_else(glob: str, yes: list[str], no: list[str]) -> None:
    matches = parse_matcher(glob)
    assert [text for text in yes if not matches(text)] == []
    assert [text for text in no if matches(text)] == []


@given(glob=GLOBS, text=TEXTS)
def test_a_glob_agrees_with_the_regular_expression_it_stands_for(glob: str, text: str) -> None:
    assert Glob(glob).matches(text) == bool(re.fullmatch(as_regular_expression(glob), text))


@given(text=TEXTS)
def test_every_text_matches_itself_and_everything(text: str) -> None:
    assert Glob(text).matches(text)
    assert Glob("**").matches(text)
    assert Glob("*").matches(text) == ("/" not in text)


def test_a_glob_full_of_stars_is_quick_where_trying_would_take_for_ever() -> None:
    assert not Glob("*a" * 200 + "b").matches("a" * 255)
    assert not Glob("**/a" * 60 + "b").matches("a/" * 127)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a[bc", "no ]"),
        ("[z-a]", "backwards"),
        ("[+-0]", "slash"),
        ("{a", "no }"),
        ("a}", "no {"),
        ("a\\", "backslash"),
        ("a}{b,c}", "no {"),
        (r"/\pL{300}/", "too large a program"),
        ("/(/", "regular expression"),
        ("/a{1001}/", "regular expression"),
        ("/(?=a)/", "regular expression"),
        (r"/(a)\1/", "regular expression"),
        ("semver:latest", "version range"),
        ("semver:>=1.2.3.4", "version range"),
        ("semver:1.2beta", "version range"),
    ],
)
def test_a_matcher_that_is_none_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_matcher(text)


@given(text=st.text(max_size=40))
def test_any_text_is_a_matcher_or_refused_with_a_reason(text: str) -> None:
    try:
        matches = parse_matcher(text)
    except ValueError:
        return
    assert matches("v1.2") in {True, False}


def test_no_regular_expression_is_slow() -> None:
    assert not parse_matcher("/^(a+)+$/")("a" * 127 + "!")
    assert not parse_matcher("/(x+x+)+y/")("x" * 255)


def test_a_regular_expression_is_searched_anywhere() -> None:
    assert parse_matcher("/1/")("v1.2")
    assert not parse_matcher("/^1/")("v1.2")
    assert parse_matcher(r"/^release-\d+$/")("release-12")


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        (">=1.2 <2", ["1.2.0", "v1.2", "1.99.1", "1.3"], ["1.1.9", "2.0.0", "2", "1.3.0-rc1", "latest"]),
        (">=1.2,<2", ["1.2.0"], ["2.0.0"]),
        ("<1 || >=3", ["0.9.0", "3.0.0"], ["1.0.0", "2.9.9"]),
        ("^1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0", "2.0.0-rc1"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("^0.0", ["0.0.9"], ["0.1.0"]),
        ("^0", ["0.9.9"], ["1.0.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0", "1.2.2"]),
        ("~1", ["1.9.9"], ["2.0.0"]),
        ("~>1.2", ["1.2.9"], ["1.3.0"]),
        ("1.x", ["1.0.0", "1.9.9"], ["2.0.0", "0.9.9"]),
        ("1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("=1.2.3", ["1.2.3", "v1.2.3"], ["1.2.4", "1.2.3-rc1"]),
        ("*", ["0.0.0", "9"], ["1.0.0-rc1", "latest"]),
        ("", ["1.0.0"], ["1.0.0-rc1"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("<1.2", ["1.1.9"], ["1.2.0"]),
        ("!=1.2.3", ["1.2.4"], ["1.2.3"]),
        (">=1 !=1.2.x", ["1.1.0", "1.3.0"], ["1.2.0", "1.2.9"]),
        ("1.2 - 1.4.5", ["1.2.0", "1.4.5"], ["1.4.6", "1.1.9"]),
        ("1.2.3 - 2", ["2.9.9"], ["3.0.0"]),
        (">*", [], ["1.0.0"]),
        (">=1.2.3-beta.2", ["1.2.3-beta.2", "1.2.3-rc.1", "1.2.4"], ["1.2.3-beta.1", "1.2.4-rc.1"]),
        (">1.2.3-alpha.3", ["1.2.3-alpha.7", "3.4.5"], ["1.2.3-alpha.3", "3.4.5-alpha.9"]),
        ("1.2.3-alpine", ["1.2.3-alpine"], ["1.2.3", "1.2.3-debian"]),
        (">=1.2.0 <2", ["1.2.3", "1.2.4_build5", "v1.2.4_build5"], ["1.2.4-rc.1_build5", "2.0.0_1", "1.2.4_b_c"]),
        (">=24.04", ["24.04", "24.10", "2024.01.02"], ["22.04"]),
        ("01.02", ["1.2.0"], ["1.3.0"]),
    ],
)
def test_a_range_reads_as_in_npm(text: str, yes: list[str], no: list[str]) -> None:
    matches = parse_matcher(f"semver:{text}")
    assert [version for version in yes if not matches(version)] == []
    assert [version for version in no if matches(version)] == []


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        (">=1.2 <2", ["1.2.0", "1.2.1-rc.1", "1.9.9-alpine"], ["1.2.0-rc.1", "2.0.0-rc.1", "2.0.0"]),
        (">=1.2.0-0 <2.0.0", ["1.2.0-rc.1", "2.0.0-rc.1"], ["2.0.0"]),
        ("1.x", ["1.0.0", "1.5.0-beta"], ["1.0.0-beta", "2.0.0-beta"]),
    ],
)
def test_a_range_with_prereleases_takes_those_between_its_bounds(text: str, yes: list[str], no: list[str]) -> None:
    matches = parse_matcher(f"semver-pre:{text}")
    assert [version for version in yes if not matches(version)] == []
    assert [version for version in no if matches(version)] == []


@pytest.mark.parametrize(
    ("matchers", "yes", "no"),
    [
        (["semver:>=1.2", "*-alpine"], ["1.2-alpine", "v1.3.0-alpine"], ["1.1-alpine", "1.3.0", "1.3.0-rc1-alpine"]),
        (["semver:15.x", "*-alpine*"], ["15.4-alpine", "15.4-alpine3.18"], ["16-alpine", "15.4", "x-alpine"]),
        (["semver:15.x", "*alpine*"], ["15.4-alpine"], ["16-alpine"]),
        (["semver:1.x", "1.*"], ["1.2.3"], ["1.2.3-alpine", "2.0.0"]),
        (["semver:>=1.7", "app-1.*"], ["app-1.7.1"], ["app-1.6", "1.7.1"]),
        (["semver:>=1.7", "[12].*-slim"], ["1.7-slim", "2.0-slim"], ["1.6-slim", "3.0-slim"]),
        (["semver:>=1.2", "*-{alpine,slim}", "1.*"], ["1.3.0-alpine", "1.2-slim"], ["2.0-alpine", "1.1-slim"]),
        (["semver:>=1", "semver:<2", "*"], ["1.5"], ["2.0", "0.9"]),
        (["semver:>=1", "/^v/"], ["v1.2.3"], ["1.2.3", "v1.2.3-alpine"]),
        (["semver-pre:>=1", "/-alpine$/"], ["1.2.3-alpine"], ["1.2.3"]),
        (["v*", "/[0-9]$/"], ["v1"], ["v1a", "1"]),
        (["semver:24.x", "{24,25}*"], ["24.04"], ["25.04"]),
    ],
)
def test_all_of_several_matchers_must_match(matchers: list[str], yes: list[str], no: list[str]) -> None:
    matches = parse_all_of(matchers)
    assert [tag for tag in yes if not matches(tag)] == []
    assert [tag for tag in no if matches(tag)] == []


NUMBERS = st.integers(0, 3)
VERSIONS = st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda numbers: ".".join(map(str, numbers)))


@given(low=VERSIONS, high=VERSIONS, version=VERSIONS)
def test_bounds_order_as_numbers_do(low: str, high: str, version: str) -> None:
    def key(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    wanted = key(low) <= key(version) < key(high)
    parsed = parse_version(version)
    assert parsed is not None
    assert VersionRange.parse(f">={low} <{high}").takes(parsed) == wanted


@pytest.mark.parametrize("tag", ["latest", "1.2.3.4", "v", "", "1.2.3_4_5", "1.2.3-01", "V1.2", "sha256-" + "0" * 64])
def test_a_tag_that_is_no_version_matches_no_range(tag: str) -> None:
    assert parse_version(tag) is None
    assert not parse_matcher("semver:*")(tag)


def as_regular_expression(glob: str) -> str:
    """Translate the slow way, which is right too."""
    found, place = "", 0
    while place < len(glob):
        rest = glob[place:]
        at_part = place == 0 or glob[place - 1] == "/"
        if rest.startswith("**"):
            stars = len(rest) - len(rest.lstrip("*"))
            is_parts = at_part and rest[stars:].startswith("/") and found[-1:] in {"", "/", "?"}
            found += "(?:.*/)?" if is_parts else ".*"
            place += stars + is_parts
        elif rest[0] == "{":
            end = rest.index("}")
            found += f"(?:{'|'.join(re.escape(choice) for choice in rest[1:end].split(','))})"
            place += end + 1
        elif rest[0] == "[":
            found += rest[: rest.index("]") + 1].replace("[!", "[^/")
            place += rest.index("]") + 1
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            place += 1
    return found
