"""A sync request: normalised when it is made, refused with the field named where it can be known to be wrong."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.pattern import DestinationTemplate, SourcePattern
from app.domain.reference import InvalidReferenceError
from app.domain.request import Rule, SyncRequest, fixed_destinations

DIGEST = "sha256:" + "0" * 64


def refusal(rule: dict[str, object]) -> tuple[str, tuple[object, ...]]:
    """Return the code and place of the one thing wrong with a rule."""
    with pytest.raises(ValidationError) as refused:
        Rule.model_validate({"source": "a.io/x:1", "destination": "b.io/x", **rule})
    error = refused.value.errors()[0]
    return error["type"], tuple(error.get("ctx", {}).get("field", error["loc"]))


@pytest.mark.parametrize(
    ("rule", "code", "place"),
    [
        ({"source": "a.io/App:1"}, "invalid_repository", ("source",)),
        ({"source": "a.io"}, "invalid_source", ("source",)),
        ({"source": "MYREG/app:1"}, "invalid_host", ("source",)),
        ({"source": "MYREG/**"}, "invalid_host", ("source",)),
        ({"destination": "OTHER/x"}, "invalid_host", ("destination", 0)),
        ({"destination": "OTHER"}, "invalid_host", ("destination", 0)),
        ({"destination": "/m"}, "invalid_destination", ("destination", 0)),
        ({"destination": "//m"}, "invalid_destination", ("destination", 0)),
        ({"source": "a.io/x*"}, "invalid_source", ("source",)),
        ({"source": "a.io/x:"}, "invalid_source", ("source",)),
        ({"source": "a.io/x@"}, "invalid_source", ("source",)),
        ({"source": "a.io/x:1,1"}, "invalid_source", ("source",)),
        ({"source": f"a.io/x:1,2@{DIGEST}"}, "invalid_source", ("source",)),
        ({"source": "a.io/x:" + "t" * 129}, "invalid_tag", ("source",)),
        ({"destination": "b.io/X"}, "invalid_repository", ("destination", 0)),
        ({"destination": "b.io/**"}, "invalid_destination", ("destination", 0)),
        ({"destination": f"b.io/x@{DIGEST}"}, "invalid_destination", ("destination", 0)),
        ({"destination": "b.io/{nam}"}, "invalid_template", ("destination", 0)),
        ({"destination": "b.io/x:a,a"}, "duplicate_destination", ("destination", 0)),
        ({"destination": ["b.io/x", "b.io/x"]}, "duplicate_destination", ("destination",)),
        ({"destination": "b.io/x:a,b"}, "rename_count", ("destination",)),
        ({"destination": []}, "too_short", ("destination",)),
        ({"source": "a.io/x:UP", "destination": "b.io/{tag}"}, "invalid_repository", ("destination",)),
        ({"source": "a.io/x", "tags": {"include": ["semver:latest"]}}, "invalid_matcher", ("tags", "include", 0)),
        ({"source": "a.io/x", "tags": {"exclude": ["v*", "/(/"]}}, "invalid_matcher", ("tags", "exclude", 1)),
        ({"source": "a.io/**", "repositories": {"include": ["[a"]}}, "invalid_matcher", ("repositories", "include", 0)),
        ({"source": "a.io/x", "tags": {"newest": 0}}, "greater_than_equal", ("tags", "newest")),
        ({"tags": {"include": ["v*"]}}, "selection_without_pattern", ("tags",)),
        ({"repositories": {"include": ["x"]}}, "selection_without_pattern", ("repositories",)),
        ({"platforms": ["amd64"]}, "invalid_platform", ("platforms", 0)),
        ({"platform_mode": "some"}, "literal_error", ("platform_mode",)),
        (
            {"source": "a.io/x", "tags": {"include": [{"all": ["v*", "/(/"]}]}},
            "invalid_matcher",
            ("tags", "include", 0, "all", 1),
        ),
        ({"source": "a.io/x", "tags": {"include": [3]}}, "matcher_type", ("tags", "include", 0)),
        ({"source": "a.io/x", "tags": {"include": [" "]}}, "string_too_short", ("tags", "include", 0)),
        ({"source": "a.io/x", "tags": {"exclude": ["x" * 513]}}, "string_too_long", ("tags", "exclude", 0)),
        (
            {"source": "a.io/x", "tags": {"include": [{"any": ["v*"]}]}},
            "missing",
            ("tags", "include", 0, "all"),
        ),
        ({"source": "a.io/x", "tags": {"newest_by": "natural"}}, "newest_missing", ("tags", "newest_by")),
        ({"source": "a.io/x", "tags": {"always": ["latest"]}}, "newest_missing", ("tags", "always")),
        ({"source": "a.io/x", "tags": {"min_matches": 0}}, "greater_than_equal", ("tags", "min_matches")),
        ({"created_since": "yesterday"}, "invalid_time", ("created_since",)),
        ({"min_age": "a week"}, "invalid_duration", ("min_age",)),
        ({"min_age": "999999999d"}, "invalid_duration", ("min_age",)),
        ({"created_since": "999999999d"}, "invalid_time", ("created_since",)),
        ({"artifact_types": {"include": ["[a"]}}, "invalid_matcher", ("artifact_types", "include", 0)),
        ({"mapping": {"strip_prefix": "Team"}}, "invalid_prefix", ("mapping", "strip_prefix")),
        ({"mapping": {"substitute": [{"pattern": "(", "replacement": ""}]}}, "invalid_pattern", ("pattern",)),
        (
            {"mapping": {"substitute": [{"pattern": "a", "replacement": r"\1"}]}},
            "invalid_replacement",
            ("replacement",),
        ),
        ({"destination": "b.io/{path[4]}"}, "invalid_template", ("destination",)),
        ({"destination": "b.io/{path}"}, "invalid_template", ("destination", 0)),
        ({"platforms": ["windows/amd64:10.0/x"]}, "invalid_platform", ("platforms", 0)),
        (
            {
                "mapping": {
                    "substitute": [{"pattern": "$", "replacement": "y"}, {"pattern": "x", "replacement": "z" * 255}]
                }
            },
            "invalid_repository",
            ("mapping", "substitute", 1),
        ),
        (
            {"mapping": {"substitute": [{"on": "tag", "pattern": "(.+)", "replacement": r"\1" * 256}] * 16}},
            "invalid_tag",
            ("mapping", "substitute", 0),
        ),
        (
            {"mapping": {"substitute": [{"on": "tag", "pattern": "1", "replacement": ""}]}},
            "invalid_tag",
            ("mapping", "substitute"),
        ),
        ({"sourc": "x"}, "extra_forbidden", ("sourc",)),
        ({"source": "redis:" + ",".join(f"{n:06d}" for n in range(4_679))}, "string_too_long", ("source",)),
        ({"destination": "x:" + ",".join(f"{n:0126d}" for n in range(8))}, "string_too_long", ("destination", 0)),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(rule: dict[str, object], code: str, place: tuple[object, ...]) -> None:
    assert refusal(rule) == (code, place)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("redis:7,6", "docker.io/library/redis:7,6"),
        ("a.io/x", "a.io/x"),
        ("a.io/**", "a.io/**"),
        ("a.io/ns/**", "a.io/ns/**"),
        (" a.io/x:1 ", "a.io/x:1"),
        (f"x:1@{DIGEST}", f"docker.io/library/x:1@{DIGEST}"),
        ("docker.io/**", "docker.io/**"),
    ],
)
def test_a_source_is_normalised(source: str, text: str) -> None:
    rule = Rule.model_validate({"source": source, "destination": "b.io"})
    assert rule.source == text
    assert Rule.model_validate(rule.model_dump()) == rule


@pytest.mark.parametrize("text", ["b.io", "b.io/x", "b.io/{name}:{tag}", "docker.io/me", "docker.io/me/x:1,2"])
def test_a_destination_reads_as_it_is_written(text: str) -> None:
    assert str(DestinationTemplate.parse(text)) == text


@given(text=st.text(max_size=40) | st.text("aB.:/{}*,@", max_size=12))
def test_any_source_is_understood_or_refused(text: str) -> None:
    try:
        pattern = SourcePattern.parse(text)
    except InvalidReferenceError:
        return
    assert SourcePattern.parse(str(pattern)) == pattern


@given(text=st.text("abB.:/{}name@,*", max_size=24))
def test_any_destination_is_understood_or_refused(text: str) -> None:
    try:
        template = DestinationTemplate.parse(text)
    except InvalidReferenceError:
        return
    assert DestinationTemplate.parse(str(template)) == template


def rules(*pairs: tuple[str, object], **fields: object) -> dict[str, object]:
    return {"rules": [{"source": source, "destination": place, **fields} for source, place in pairs]}


@pytest.mark.parametrize(
    "request_",
    [
        rules(("a.io/x:1", "c.io/z"), ("b.io/y:1", "c.io/z")),
        rules(("a.io/x:1,2", "c.io/z:one,two"), ("b.io/y:2", "c.io/z:two")),
        rules((f"a.io/x@{DIGEST}", "c.io/z:1"), ("b.io/y:1", "c.io/z")),
        rules(("a.io/x:1", ["c.io/z", "d.io/z"]), ("b.io/x:1", "d.io/z")),
    ],
)
def test_two_sources_onto_one_destination_tag_are_refused(request_: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        SyncRequest.model_validate(request_)
    [error] = refused.value.errors()
    assert error["type"] == "destination_conflict"
    assert error["ctx"]["field"] == ("rules", 1, "destination")


def test_the_same_source_for_other_platforms_is_another_source() -> None:
    same = rules(("a.io/x:1", "c.io/z"), ("a.io/x:1", "c.io/z"))
    SyncRequest.model_validate(same)
    same["rules"][0]["platforms"] = ["linux/amd64"]  # type: ignore[index]  # made above
    with pytest.raises(ValidationError, match=r"a\.io/x:1 \(linux/amd64: auto\) and a\.io/x:1 would both"):
        SyncRequest.model_validate(same)


def test_what_a_rule_names_outright_is_known_without_asking() -> None:
    rule = Rule.model_validate({"source": "a.io/t/x:1,2", "destination": ["b.io", "c.io/{name}:{tag}-c"]})
    assert fixed_destinations(rule) == [
        ("b.io/t/x:1", "a.io/t/x:1"),
        ("c.io/x:1-c", "a.io/t/x:1"),
        ("b.io/t/x:2", "a.io/t/x:2"),
        ("c.io/x:2-c", "a.io/t/x:2"),
    ]
    for source in ("a.io/x", "a.io/**"):
        assert fixed_destinations(Rule.model_validate({"source": source, "destination": "b.io"})) == []


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("30d", "30d"),
        ("2026-11-25", "2026-11-25T00:00:00Z"),
        ("2026-11-25T12:00:00+02:00", "2026-11-25T10:00:00Z"),
        ("2026-11-25T12:00:00.5Z", "2026-11-25T12:00:00Z"),
        ("0001-01-01", "0001-01-01T00:00:00Z"),
    ],
)
def test_a_beginning_is_a_time_or_counts_from_each_run(written: str, kept: str) -> None:
    rule = Rule.model_validate({"source": "a.io/x", "destination": "b.io", "created_since": written})
    assert rule.created_since == kept
    assert Rule.model_validate(rule.model_dump(mode="json")) == rule


def test_matchers_that_must_match_together_read_as_they_are_written() -> None:
    both = {"all": ["semver:>=1", "*-alpine"]}
    rule = Rule.model_validate({"source": "a.io/x", "destination": "b.io", "tags": {"include": [" v* ", both]}})
    assert rule.model_dump(mode="json", exclude_defaults=True)["tags"] == {"include": ["v*", both]}
    assert Rule.model_validate_json(rule.model_dump_json()) == rule


def test_a_request_has_as_many_rules_as_its_size_allows() -> None:
    many = rules(*((f"a.io/x{number}:1", f"b.io/x{number}") for number in range(1_000)))
    assert len(SyncRequest.model_validate(many).rules) == 1_000


def test_expressions_of_one_request_have_a_common_budget() -> None:
    include = [rf"/\pL{{300}}{number}/" for number in range(200)]
    with pytest.raises(ValidationError) as refused:
        SyncRequest.model_validate(rules(("a.io/x", "b.io/x"), tags={"include": include}))
    reasons = [error["msg"] for error in refused.value.errors()]
    assert sum("too large a program" in reason for reason in reasons) < 40
    assert "too large together" in reasons[199]


def test_names_change_on_the_way_of_what_a_rule_names_outright() -> None:
    mapping = {"strip_prefix": "t", "substitute": [{"on": "tag", "pattern": "$", "replacement": "-copy"}]}
    rule = Rule.model_validate({"source": "a.io/t/x:1", "destination": "b.io", "mapping": mapping})
    assert fixed_destinations(rule) == [("b.io/x:1-copy", "a.io/t/x:1")]


def one_of(*values: object) -> st.SearchStrategy[object]:
    return st.sampled_from(values)


TIMES = st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat)
DURATIONS = st.tuples(st.integers(0, 999_999_999), st.sampled_from("smhd")).map(lambda parts: f"{parts[0]}{parts[1]}")
MATCHERS = st.lists(
    one_of(
        "*", " v* ", "/^v[0-9]/", "semver:>=1 <2", "semver-pre:1.x", {"all": ["semver:15.x", " *-alpine"]}, "?", "[a-c]"
    ),
    max_size=3,
)
CHOSEN = st.fixed_dictionaries({}, optional={"include": MATCHERS, "exclude": MATCHERS})
SUBSTITUTIONS = st.fixed_dictionaries(
    {
        "pattern": one_of("^v", "(.)", "1", ".*", "$", r"\.", " a "),
        "replacement": one_of("", "x", r"\1", r"\\", " x ", r"\1" * 200),
    },
    optional={"on": one_of("repository", "tag")},
)
SOURCES = one_of(
    "redis",
    "redis:7,6",
    "me/redis",
    "a.io/x:1",
    " a.io/x:2 ",
    "A.io/x",
    "MYREG/x",
    "MyReg:443/x",
    "MYREG/**",
    "LOCALHOST/x:1",
    "localhost:5000/x",
    "[::1]:5000/x:1",
    "index.docker.io/redis",
    "a.io/**",
    "docker.io/**",
    "me/**",
    "a.io/ns/**",
    f"x:1@{DIGEST}",
    f"a.io/x@{DIGEST}",
    "redis:" + ",".join(f"{number:06d}" for number in range(4_679)),
)
DESTINATIONS = one_of(
    "b.io",
    "B.io",
    "OTHER",
    "OTHER/x",
    "b.io/m/",
    "b.io//m",
    "me",
    "me/{name}",
    "docker.io/me",
    "registry-1.docker.io/me/x",
    "localhost",
    "LOCALHOST/x",
    "b.io/{registry}/{repository}:{tag}-x",
    "b.io/{path[-1]}",
    ["b.io", "c.io/{name}"],
    "x:" + ",".join(f"{number:0126d}" for number in range(8)),
)
RULES = st.fixed_dictionaries(
    {"source": SOURCES, "destination": DESTINATIONS},
    optional={
        "created_since": TIMES
        | DURATIONS
        | one_of("0001-01-01", "0999-06-01T00:00:00+14:00", "20261125", "2026-W01", " 1d "),
        "min_age": DURATIONS | one_of(" 7d "),
        "platforms": st.lists(
            one_of("linux/amd64", "linux/arm64/v8", "linux/arm/v7", "windows/amd64:10.0.17763", "linux/x86_64"),
            max_size=2,
        ),
        "platform_mode": one_of("auto", "sparse", "rewrite", "single"),
        "tags": st.fixed_dictionaries(
            {},
            optional={
                "include": MATCHERS,
                "exclude": MATCHERS,
                "always": MATCHERS,
                "newest": one_of(1, "2", 3.0, True),
                "newest_by": one_of("version", "natural", "created"),
                "min_matches": one_of(1, 100_000),
            },
        ),
        "repositories": CHOSEN,
        "artifact_types": CHOSEN,
        "mapping": st.fixed_dictionaries(
            {},
            optional={
                "strip_prefix": one_of("team", "/team-a/deep/", "library"),
                "substitute": st.lists(SUBSTITUTIONS, max_size=3),
            },
        ),
    },
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "referrers": one_of(True, "no", 0),
        "companions": one_of("always", "never"),
        "overwrite": one_of("always", "fail"),
        "max_bytes_per_second": one_of(1, "10", 10**30),
    },
)


@settings(max_examples=400)
@given(rules_=st.lists(RULES, min_size=1, max_size=2), options=OPTIONS)
def test_a_request_that_is_taken_is_taken_again_as_it_is_stored(
    rules_: list[dict[str, object]], options: dict[str, object]
) -> None:
    """What is stored is read with each list of jobs: one that was not taken again would take the list down."""
    try:
        request = SyncRequest.model_validate({"rules": rules_, "options": options})
    except ValidationError:
        return
    again = SyncRequest.model_validate(request.model_dump(mode="json"))
    assert again == request
    for rule, written in zip(again.rules, rules_, strict=True):
        places = [written["destination"]] if isinstance(written["destination"], str) else written["destination"]
        assert rule.source_pattern == SourcePattern.parse(str(written["source"]).strip())
        assert rule.destination_templates == tuple(DestinationTemplate.parse(str(place)) for place in places)  # type: ignore[attr-defined]  # it is a list
