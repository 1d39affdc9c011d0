"""Where each source goes."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidRequestError
from app.domain.pattern import DestinationTemplate, NameMapping, map_source
from app.domain.reference import Reference

PARTS = st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
GROWTH = {"pattern": "(.+)", "replacement": r"\1" * 256}
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,5}", fullmatch=True)


def mapped(source: str, *destinations: str, position: int = 0, from_pattern: bool = False) -> list[str]:
    templates = tuple(DestinationTemplate.parse(text) for text in destinations)
    places = map_source(Reference.parse(source), templates, position=position, from_pattern=from_pattern)
    return [str(place) for place in places]


@pytest.mark.parametrize(
    ("source", "destination", "place"),
    [
        ("a.io/team/app:1", "b.io/mirror/app", "b.io/mirror/app:1"),
        ("a.io/team/app:1", "b.io", "b.io/team/app:1"),
        ("a.io/team/app:1", "b.io/mirror/app:stable", "b.io/mirror/app:stable"),
        ("a.io/team/app:1", "b.io/{name}:{tag}-copy", "b.io/app:1-copy"),
        ("a.io/team/app:1", "b.io/m/{repository}", "b.io/m/team/app:1"),
        ("a.io/team/app:1", "b.io/{registry}/{namespace}/x-{name}", "b.io/a.io/team/x-app:1"),
        ("a.io/app:1", "b.io/m/{namespace}/{name}", "b.io/m/app:1"),
        ("a.io/team/app:1.2", "b.io/{name}/{tag}", "b.io/app/1.2:1.2"),
        ("localhost:5000/app:1", "b.io/{registry}/{name}", "b.io/localhost/app:1"),
        ("redis:7", "b.io/mirror/redis", "b.io/mirror/redis:7"),
        ("redis:7", "b.io", "b.io/library/redis:7"),
        ("a.io/team/redis:7", "redis", "docker.io/library/redis:7"),
        ("a.io/team/redis:7", "docker.io/{name}", "docker.io/library/redis:7"),
        ("a.io/team/redis:7", "me/redis", "docker.io/me/redis:7"),
        (f"a.io/app@sha256:{'0' * 64}", "b.io/app", f"b.io/app@sha256:{'0' * 64}"),
        (f"a.io/app@sha256:{'0' * 64}", "b.io/app:pinned", "b.io/app:pinned"),
        (f"a.io/app:1@sha256:{'0' * 64}", "b.io/app", "b.io/app:1"),
    ],
)
def test_one_repository_goes_where_the_template_says(source: str, destination: str, place: str) -> None:
    assert mapped(source, destination) == [place]


@pytest.mark.parametrize(
    ("destination", "place"),
    [
        ("b.io", "b.io/team/app:1"),
        ("b.io/mirror", "b.io/mirror/team/app:1"),
        ("b.io/mirror/{repository}", "b.io/mirror/team/app:1"),
        ("b.io/flat/{name}", "b.io/flat/app:1"),
        ("docker.io/me", "docker.io/me/team/app:1"),
    ],
)
def test_a_repository_found_by_listing_is_put_below_a_plain_destination(destination: str, place: str) -> None:
    assert mapped("a.io/team/app:1", destination, from_pattern=True) == [place]


@pytest.mark.parametrize(
    ("mapping", "destination", "place"),
    [
        ({"strip_prefix": "team-a"}, "b.io/mirror", "b.io/mirror/deep/app:v1.2"),
        ({"strip_prefix": "/team-a/deep/"}, "b.io/mirror/{repository}", "b.io/mirror/app:v1.2"),
        ({"strip_prefix": "team"}, "b.io/mirror", "b.io/mirror/team-a/deep/app:v1.2"),
        ({"strip_prefix": "team-a/deep/app"}, "b.io/mirror", "b.io/mirror/team-a/deep/app:v1.2"),
        ({"strip_prefix": "team-a"}, "b.io/{namespace}-{name}", "b.io/deep-app:v1.2"),
        ({}, "b.io/{path[0]}/{path[-1]}", "b.io/team-a/app:v1.2"),
        ({"strip_prefix": "team-a"}, "b.io/{path[0]}", "b.io/deep:v1.2"),
        ({"substitute": [{"pattern": "/", "replacement": "-"}]}, "b.io/flat", "b.io/flat/team-a-deep-app:v1.2"),
        ({"substitute": [{"pattern": "^team-(.)/", "replacement": r"\1/"}]}, "b.io", "b.io/a/deep/app:v1.2"),
        ({"substitute": [{"on": "tag", "pattern": "^v", "replacement": ""}]}, "b.io", "b.io/team-a/deep/app:1.2"),
        (
            {"substitute": [{"on": "tag", "pattern": ".", "replacement": ""}]},
            "b.io/x:new",
            "b.io/x/team-a/deep/app:new",
        ),
        (
            {"substitute": [{"on": "tag", "pattern": "^v([0-9]).*", "replacement": r"\1"}]},
            "b.io/x:{tag}-m",
            "b.io/x/team-a/deep/app:1-m",
        ),
        (
            {
                "strip_prefix": "team-a",
                "substitute": [
                    {"pattern": "^deep", "replacement": "shallow"},
                    {"pattern": "low/", "replacement": "/"},
                ],
            },
            "b.io",
            "b.io/shal/app:v1.2",
        ),
    ],
)
def test_names_change_before_they_are_filled_in(mapping: dict[str, object], destination: str, place: str) -> None:
    source = Reference.parse("a.io/team-a/deep/app:v1.2")
    names = NameMapping.model_validate(mapping)
    [found] = map_source(source, (DestinationTemplate.parse(destination),), from_pattern=True, mapping=names)
    assert str(found) == place


@pytest.mark.parametrize(
    ("mapping", "destination", "reason"),
    [
        ({}, "b.io/{path[3]}", "3 parts"),
        ({"substitute": [{"pattern": "app", "replacement": "APP"}]}, "b.io", "lower case"),
        ({"substitute": [{"on": "tag", "pattern": ".", "replacement": "/"}]}, "b.io", "is not a tag"),
        ({"substitute": [{"on": "tag", "pattern": ".", "replacement": ""}]}, "b.io", "leaves nothing of the tag 1"),
        ({"substitute": [{"on": "tag", "pattern": ".", "replacement": ""}]}, "b.io/x:{tag}", "'' is not a tag"),
        ({"substitute": [GROWTH]}, "b.io", "longer than 255"),
        ({"substitute": [GROWTH, {"pattern": ".*", "replacement": "x"}]}, "b.io", "longer than 255"),
    ],
)
def test_names_that_come_to_nothing_are_refused_with_their_source(
    mapping: dict[str, object], destination: str, reason: str
) -> None:
    source = Reference.parse("a.io/team-a/deep/app:1")
    names = NameMapping.model_validate(mapping)
    with pytest.raises(InvalidRequestError, match=f"a.io/team-a/deep/app:1 would go to.*{reason}"):
        map_source(source, (DestinationTemplate.parse(destination),), from_pattern=True, mapping=names)


def test_renames_go_by_position() -> None:
    assert [mapped("a.io/x:1", "b.io/x:one,two", position=position) for position in (0, 1)] == [
        ["b.io/x:one"],
        ["b.io/x:two"],
    ]


def test_several_destinations_keep_their_order_and_the_same_place_counts_once() -> None:
    assert mapped("a.io/app:1", "b.io/app", "c.io/{name}", "b.io/{name}") == ["b.io/app:1", "c.io/app:1"]


@pytest.mark.parametrize("destination", ["b.io/{name}/{tag}", "b.io/x:{tag}" + "y" * 127])
def test_a_name_that_no_registry_takes_is_refused_with_the_source_it_comes_from(destination: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"a\.io/app:UPPER would go to") as refused:
        mapped("a.io/app:UPPER", destination)
    assert refused.value.code == "invalid_destination"


@given(path=PATHS, tag=TAGS, prefix=PATHS)
def test_repository_and_tag_survive_a_plain_prefix(path: str, tag: str, prefix: str) -> None:
    for destination in (f"b.io/{prefix}", f"b.io/{prefix}/{{repository}}", f"b.io/{prefix}/{{namespace}}/{{name}}"):
        assert mapped(f"a.io/{path}:{tag}", destination, from_pattern=True) == [f"b.io/{prefix}/{path}:{tag}"]


def test_names_do_not_grow_without_bound_on_the_way() -> None:
    """Three such substitutions of 200 characters would come to 3 GB, and sixteen are allowed."""
    source, names = Reference.parse(f"a.io/{'a' * 200}:1"), NameMapping.model_validate({"substitute": [GROWTH] * 16})
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match="longer than 255 characters"):
            map_source(source, (DestinationTemplate.parse("b.io/{name}"),), mapping=names)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
