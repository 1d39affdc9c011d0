"""Where each source goes, and that no two sources go to one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidRequestError
from app.domain.manifest import Platform
from app.domain.pattern import DestinationTemplate
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.sync.mapping import Destinations, map_source

PARTS = st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
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


@given(sources=st.lists(st.tuples(PATHS, TAGS), max_size=8), template=st.sampled_from(["b.io", "b.io/x/{name}"]))
def test_two_sources_never_share_a_place(sources: list[tuple[str, str]], template: str) -> None:
    taken = Destinations()
    owners: dict[str, str] = {}
    for path, tag in sources:
        source = Reference.parse(f"a.io/{path}:{tag}")
        [place] = map_source(source, (DestinationTemplate.parse(template),), from_pattern=True)
        owner = owners.setdefault(str(place), str(source))
        if owner != str(source):
            with pytest.raises(InvalidRequestError, match="would both become"):
                taken.claim(PlannedCopy(source, (place,)))
        else:
            taken.claim(PlannedCopy(source, (place,)))


def test_the_same_copy_twice_is_one_and_new_places_of_it_are_kept() -> None:
    taken = Destinations()
    source, one, two = (Reference.parse(text) for text in ("a.io/x:1", "b.io/x:1", "c.io/x:1"))
    assert taken.claim(PlannedCopy(source, (one,))) == PlannedCopy(source, (one,))
    assert taken.claim(PlannedCopy(source, (one,))) is None
    assert taken.claim(PlannedCopy(source, (one, two))) == PlannedCopy(source, (two,))


def test_another_choice_of_platforms_is_another_thing() -> None:
    taken = Destinations()
    source, place = Reference.parse("a.io/x:1"), Reference.parse("b.io/x:1")
    taken.claim(PlannedCopy(source, (place,), (Platform.parse("linux/amd64"),)))
    with pytest.raises(InvalidRequestError, match=r"linux/amd64: sparse.* and a\.io/x:1 would both become") as refused:
        taken.claim(PlannedCopy(source, (place,)))
    assert refused.value.code == "destination_conflict"
