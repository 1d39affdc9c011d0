"""Which repositories, tags and children are taken."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.manifest import Manifest, Platform, digest_of, parse_manifest, select_children
from app.domain.reference import Tag
from app.domain.request import Rule
from app.domain.selection import RepositorySelection, TagSelection
from app.domain.version import parse_version
from app.sync.selection import ImageMetadata, drop_reason, select_tags, takes_repository
from tests.support.images import OCI_INDEX, oci_image
from tests.sync.zoo import with_attestation

TAGS = st.lists(st.from_regex(r"[a-z0-9_][a-z0-9._-]{0,6}", fullmatch=True).map(Tag), max_size=12)
VERSIONS = st.tuples(st.sampled_from(["", "v"]), st.integers(0, 12), st.integers(0, 12)).map(
    lambda parts: Tag(f"{parts[0]}{parts[1]}.{parts[2]}")
)
MATCHERS = st.sampled_from(["*", "v*", "[0-9]*", "/^1/", "/rc$/", "semver:>=1", "semver:<3", "latest", "1.?"])
SELECTIONS = st.builds(
    TagSelection,
    include=st.lists(MATCHERS, max_size=3).map(tuple),
    exclude=st.lists(MATCHERS, max_size=2).map(tuple),
    newest=st.none() | st.integers(1, 4),
)


def tags(text: str) -> list[Tag]:
    return [Tag(tag) for tag in text.split()]


def select(text: str, **fields: object) -> str:
    return " ".join(select_tags(tags(text), TagSelection.model_validate(fields)))


def test_an_empty_include_takes_all_and_an_exclude_takes_away() -> None:
    assert select("b a c") == "a b c"
    assert select("b a c", exclude=["a"]) == "b c"
    assert select("v1 v2 v2-rc1 x", include=["v*", "x"], exclude=["*-rc*"]) == "v1 v2 x"
    assert select("release-1 my-release-2", include=["/^release-\\d+$/"]) == "release-1"
    assert select("1.1 1.2 1.9-rc1 2.0 latest", include=["semver:>=1.2 <2"]) == "1.2"


def test_the_newest_are_the_highest_versions_and_then_what_sorts_last() -> None:
    assert select("1.9 1.10 1.2 latest", newest=2) == "1.10 1.9"
    assert select("1.0.0 1.0.0-rc.1 1.0.0-rc.2", newest=2) == "1.0.0 1.0.0-rc.2"
    assert select("build-9 build-10 build-1", newest=1) == "build-10"
    assert select("0.1 zebra", newest=1) == "0.1"
    assert select("v1 v2 v3", exclude=["v3"], newest=1) == "v2"


def test_the_newest_may_be_counted_in_natural_order() -> None:
    assert select("1.9 build-10 build-9", newest=1) == "1.9"
    assert select("1.9 build-10 build-9", newest=1, newest_by="natural") == "build-10"


def test_what_is_always_kept_stands_beside_the_newest() -> None:
    assert select("1.0 1.1 1.2 latest stable", newest=2, always=["latest"]) == "1.1 1.2 latest"
    assert select("1.0 1.1 1.2", newest=1, always=["1.2"]) == "1.1 1.2"
    assert select("1.0 1.1 latest", include=["semver:*"], newest=1, always=["latest"]) == "1.1 latest"
    assert select("1.0 latest", exclude=["latest"], newest=1, always=["latest"]) == "1.0"


def test_matchers_may_have_to_match_together() -> None:
    both = {"all": ["semver:>=1.2", "*-alpine"]}
    assert select("1.1-alpine 1.2-alpine 1.3.0-alpine 1.3.0 latest", include=[both]) == "1.2-alpine 1.3.0-alpine"
    assert select("1.1-alpine 1.2-alpine 1.2", include=["1.2", both]) == "1.2 1.2-alpine"
    assert select("1.1-alpine 1.2-alpine 1.2", exclude=[both]) == "1.1-alpine 1.2"


@given(found=TAGS, selection=SELECTIONS)
def test_what_is_selected_was_there_once_each_in_order(found: list[Tag], selection: TagSelection) -> None:
    chosen = select_tags(found, selection)
    assert set(chosen) <= set(found)
    assert list(chosen) == sorted(set(chosen))
    assert selection.newest is None or len(chosen) <= selection.newest
    assert select_tags(reversed(found), selection) == chosen
    assert select_tags(chosen, selection) == chosen


@given(found=TAGS, selection=SELECTIONS)
def test_include_and_exclude_decide_about_each_tag_alone(found: list[Tag], selection: TagSelection) -> None:
    each = TagSelection(include=selection.include, exclude=selection.exclude)
    alone = {tag for tag in found if select_tags([tag], each)}
    assert set(select_tags(found, each)) == alone
    existing = select_tags(found, selection)
    assert set(existing) <= alone
    assert selection.newest is None or len(existing) == min(selection.newest, len(alone))


@given(found=st.lists(VERSIONS, min_size=1, max_size=10), newest=st.integers(1, 4))
def test_no_version_left_out_is_newer_than_one_kept(found: list[Tag], newest: int) -> None:
    existing = select_tags(found, TagSelection(newest=newest))
    left = set(found) - set(existing)

    def version(tag: Tag) -> tuple[int, ...]:
        parsed = parse_version(tag)
        assert parsed is not None
        return (parsed.major, parsed.minor)

    assert all(version(one) <= version(other) for one in left for other in existing)


@given(age=st.builds("{}{}".format, st.integers(0, 999_999_999), st.sampled_from("smhd")))
@example("365000d")
def test_each_age_that_a_rule_takes_can_be_reckoned_with(age: str) -> None:
    image = ImageMetadata(created_at=datetime(2026, 1, 1, tzinfo=UTC))
    for field in ("created_since", "min_age"):
        try:
            rule = Rule.model_validate({"source": "a.io/x", "destination": "b.io", field: age})
        except ValueError:
            continue
        assert drop_reason(image, rule, now=datetime(2026, 1, 1, tzinfo=UTC)) in {None, field}


def test_repositories_are_matched_by_their_whole_path() -> None:
    selection = RepositorySelection(include=("team-a/**",), exclude=("**/scratch",))
    taken = ["team-a/app", "team-a/deep/app"]
    left = ["team-a/scratch", "team-b/app", "team-a"]
    assert [path for path in taken + left if takes_repository(path, selection)] == taken


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm", "linux/arm/v6 linux/arm/v7"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/riscv64", "linux/riscv64/rva23u64"),
        ("windows/amd64", "windows/amd64:10.0.17763.6189 windows/amd64:10.0.20348.1"),
        ("windows/amd64:10.0.17763", "windows/amd64:10.0.17763.6189"),
        ("windows/amd64:10.0.1776", ""),
        ("linux/s390x", ""),
    ],
)
def test_a_platform_takes_its_baseline_or_what_is_named(wanted: str, taken: str) -> None:
    names = "linux/amd64 linux/amd64/v3 linux/arm64/v8 linux/arm64/v9 linux/arm/v6 linux/arm/v7 linux/riscv64/rva23u64"
    entries = [
        Platform.parse(name) for name in f"{names} windows/amd64:10.0.17763.6189 windows/amd64:10.0.20348.1".split()
    ]
    parsed = index_of(entries)
    assert " ".join(str(child.platform) for child in select_children(parsed, [Platform.parse(wanted)])) == taken
    assert select_children(parsed, []) == parsed.children


def index_of(platforms: list[Platform]) -> Manifest:
    entries = []
    for platform in platforms:
        named = {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
        child = oci_image(str(platform)).descriptor()
        entries.append({**child, "platform": {**named, "os.version": platform.os_version}})
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return parse_manifest(raw, media_type=OCI_INDEX, digest=digest_of(raw))


def test_an_attestation_is_chosen_with_its_image_only() -> None:
    index = with_attestation()
    parsed = parse_manifest(index.raw, media_type=OCI_INDEX, digest=digest_of(index.raw))
    entries = json.loads(index.raw)["manifests"]
    chosen = select_children(parsed, [Platform.parse("linux/arm64")])
    assert [child.digest for child in chosen] == [entries[1]["digest"], entries[3]["digest"]]
    assert select_children(parsed, [Platform.parse("unknown/unknown")]) == ()
