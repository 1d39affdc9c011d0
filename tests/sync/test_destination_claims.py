"""A destination belongs to the first source that claims it, over rules, attempts and retries."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.domain.manifest import Platform
from app.domain.pattern import DestinationTemplate, map_source
from app.domain.plan import Listing, PlannedCopy, RefusedCopy
from app.domain.reference import Reference, Tag
from app.domain.request import SyncRequest
from app.registry.client import RegistryClients
from app.sync.planner import DestinationClaims, Planner, PlanScope
from tests.domain.test_pattern import PATHS, TAGS

SOURCE, ONE, TWO = (Reference.parse(text) for text in ("a.io/x:1", "b.io/x:1", "c.io/x:1"))

Content = dict[str, list[str]]
"""Tags by repository."""


class Listed(RegistryClients):
    """The clients of a job whose source has these repositories and tags; nothing is asked."""

    def __init__(self, content: Content) -> None:
        self.content = content

    def for_registry(self, *_: object, **__: object) -> "Listed":  # type: ignore[override]  # it takes whatever is asked
        return self

    def for_repository(self, *_: object, **__: object) -> "Listed":  # type: ignore[override]  # it takes whatever is asked
        return self

    async def list_repositories(self, _namespace: str, **_: object) -> AsyncIterator[str]:
        for path in self.content:
            yield path

    async def list_tags(self, path: str, **_: object) -> AsyncIterator[Tag]:
        for tag in self.content[path]:
            yield Tag(tag)


def refusals(claims: DestinationClaims, copy: PlannedCopy) -> list[RefusedCopy]:
    return [item for item in claims.take(copy) if isinstance(item, RefusedCopy)]


@given(sources=st.lists(st.tuples(PATHS, TAGS), max_size=8), template=st.sampled_from(["b.io", "b.io/x/{name}"]))
def test_two_sources_never_share_a_place(sources: list[tuple[str, str]], template: str) -> None:
    claims = DestinationClaims()
    owners: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for path, tag in sources:
        source = Reference.parse(f"a.io/{path}:{tag}")
        [place] = map_source(source, (DestinationTemplate.parse(template),), from_pattern=True)
        pair = str(source), str(place)
        found = list(claims.take(PlannedCopy(source, (place,))))
        is_first = owners.setdefault(str(place), str(source)) == str(source)
        if pair in seen:
            assert found == []
        elif is_first:
            assert found == [PlannedCopy(source, (place,))]
        else:
            [refused] = found
            assert isinstance(refused, RefusedCopy)
            assert (refused.source, refused.destination, refused.error.code) == (*pair, "destination_conflict")
            assert f"{owners[str(place)]} and {source} would both become {place}" in refused.error.message
        seen.add(pair)


def test_the_same_copy_twice_is_one_and_new_places_of_it_are_kept() -> None:
    claims = DestinationClaims()
    assert list(claims.take(PlannedCopy(SOURCE, (ONE,)))) == [PlannedCopy(SOURCE, (ONE,))]
    assert list(claims.take(PlannedCopy(SOURCE, (ONE,)))) == []
    assert list(claims.take(PlannedCopy(SOURCE, (ONE, TWO)))) == [PlannedCopy(SOURCE, (TWO,))]


def test_a_copy_of_which_one_place_is_taken_goes_to_the_others() -> None:
    claims = DestinationClaims()
    other = Reference.parse("a.io/other:1")
    claims.recall(PlannedCopy(other, (ONE,)))
    refused, copy = claims.take(PlannedCopy(SOURCE, (ONE, TWO)))
    assert isinstance(refused, RefusedCopy)
    assert refused.destination == str(ONE)
    assert copy == PlannedCopy(SOURCE, (TWO,))


def test_another_choice_of_platforms_is_another_thing() -> None:
    claims = DestinationClaims()
    claims.recall(PlannedCopy(SOURCE, (ONE,), (Platform.parse("linux/amd64"),)))
    [refused] = refusals(claims, PlannedCopy(SOURCE, (ONE,)))
    assert "a.io/x:1 (linux/amd64: auto) and a.io/x:1 would both become b.io/x:1" in refused.error.message


def test_a_renamed_tag_is_told_with_its_own_name() -> None:
    claims = DestinationClaims()
    claims.recall(PlannedCopy(Reference.parse("a.io/x:old"), (ONE,)))
    [refused] = refusals(claims, PlannedCopy(Reference.parse("a.io/x:older"), (ONE,)))
    assert "a.io/x:old and a.io/x:older would both" in refused.error.message


def test_what_was_refused_before_is_not_refused_a_second_time() -> None:
    claims = DestinationClaims()
    claims.recall(PlannedCopy(Reference.parse("a.io/first:1"), (ONE,)))
    claims.recall_refusal(str(SOURCE), str(ONE))
    assert list(claims.take(PlannedCopy(SOURCE, (ONE,)))) == []


def test_a_scope_of_some_lists_wants_those_and_not_what_failed_before() -> None:
    whole, app = Listing(0, "a.io/**"), Listing(1, "a.io/app")
    scope = PlanScope(only=frozenset({whole, app}), without=frozenset({app}))
    assert [scope.wants_rule(rule) for rule in range(3)] == [True, True, False]
    assert (scope.wants(whole), scope.wants(app), scope.wants(Listing(0, "a.io/app"))) == (True, False, False)
    assert (scope.repositories_of(1), PlanScope(only=frozenset({app})).repositories_of(1)) == ((), ("a.io/app",))


PLACES = st.sampled_from(
    [
        "b.io",
        "b.io/a",
        "b.io/a/{namespace}",
        "b.io/a/{namespace}/{tag}",
        "b.io/{path[0]}",
        "b.io/a/{repository}",
        "b.io/{repository}-{tag}:{name}-{tag}",
        "b.io/{namespace}/{repository}",
        "docker.io",
        "docker.io/{name}",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    content=st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "a-b"]), min_size=1, max_size=3).map("/".join),
        st.lists(st.sampled_from(["1", "b-1", "a"]), min_size=1, unique=True),
        min_size=1,
        max_size=4,
    ),
    rules=st.lists(st.tuples(st.sampled_from(["**", "a", "b", "a/**"]), PLACES), min_size=1, max_size=3),
)
@example(content={"a": ["1"], "b": ["1"]}, rules=[("a", "b.io"), ("b", "b.io/a/{namespace}")])
@example(content={"a": ["b-1"], "a-b": ["1"]}, rules=[("**", "b.io/{repository}-{tag}:{name}-{tag}")])
async def test_whatever_rules_there_are_no_two_sources_go_to_one_destination(
    content: Content, rules: list[tuple[str, str]]
) -> None:
    """A claim may be forgotten only when nothing else can come to its place."""
    chosen = [
        {"source": "a.io/**", "destination": place, "repositories": {"include": [include]}} for include, place in rules
    ]
    sources: dict[Reference, Reference] = {}
    async with aclosing(Planner(Listed(content)).plan(SyncRequest.model_validate({"rules": chosen}))) as found:
        async for one in found:
            if isinstance(one, PlannedCopy):
                assert {sources.setdefault(place, one.source) for place in one.destinations} == {one.source}
