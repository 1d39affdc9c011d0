"""What a pushed tag comes to in a policy: the rules that take it, for it alone."""

from typing import Any

import pytest

from app.domain.policy import Policy
from app.domain.reference import Reference
from app.sync.push_rules import rules_for_push

HEX = "a" * 64


def taken(rule: dict[str, Any], pushed: str, **more: Any) -> list[tuple[str, tuple[str, ...]]]:
    policy = Policy.model_validate({"name": "p", "rules": [rule], **more})
    found = rules_for_push(policy, Reference.parse(pushed))
    return [(narrowed.rule.source, narrowed.destinations) for narrowed in found]


@pytest.mark.parametrize(
    ("source", "destination", "pushed", "places"),
    [
        ("a.example.com/x/app", "b.example.com/y", "a.example.com/x/app:1", ("b.example.com/y:1",)),
        ("a.example.com/x/app:1,2", "b.example.com/y:one,two", "a.example.com/x/app:2", ("b.example.com/y:two",)),
        ("a.example.com/**", "b.example.com", "a.example.com/x/app:1", ("b.example.com/x/app:1",)),
        ("a.example.com/x/**", "b.example.com/y", "a.example.com/x/app:1", ("b.example.com/y/x/app:1",)),
        ("a.example.com/x/**", "b.example.com/{name}:{tag}-a", "a.example.com/x/app:1", ("b.example.com/app:1-a",)),
        (
            "a.example.com/x/app",
            ["b.example.com/y", "c.example.com/y"],
            "a.example.com/x/app:1",
            ("b.example.com/y:1", "c.example.com/y:1"),
        ),
        ("library/redis", "b.example.com/y", "docker.io/library/redis:7", ("b.example.com/y:7",)),
    ],
)
def test_a_tag_goes_where_a_whole_run_would_put_it(
    source: str, destination: str | list[str], pushed: str, places: tuple[str, ...]
) -> None:
    assert taken({"source": source, "destination": destination}, pushed) == [(pushed, places)]


@pytest.mark.parametrize(
    ("source", "pushed"),
    [
        ("a.example.com/x/app", "other.example.com/x/app:1"),
        ("a.example.com/x/app", "a.example.com/x/app2:1"),
        ("a.example.com/x/app:1,2", "a.example.com/x/app:3"),
        ("a.example.com/x/**", "a.example.com/xy/app:1"),
        ("a.example.com/x/**", "a.example.com/x:1"),
        (f"a.example.com/x/app:1@sha256:{HEX}", "a.example.com/x/app:1"),
        ("a.example.com/x/app", f"a.example.com/x/app@sha256:{HEX}"),
    ],
)
def test_what_a_rule_does_not_name_is_not_taken(source: str, pushed: str) -> None:
    assert taken({"source": source, "destination": "b.example.com/y"}, pushed) == []


def test_repositories_and_tags_are_selected_as_in_a_whole_run() -> None:
    rule = {
        "source": "a.example.com/**",
        "destination": "b.example.com",
        "repositories": {"include": ["team/**"], "exclude": ["**/scratch"]},
        "tags": {"include": ["v*", "semver:>=2"], "exclude": ["*-rc*"], "newest": 1},
    }
    for pushed in ("team/app:v1", "team/app:2.1.0", "team/deep/app:v0"):
        assert taken(rule, f"a.example.com/{pushed}"), pushed
    for pushed in ("team/app:1.0", "team/app:v1-rc1", "team/scratch:v1", "other/app:v1"):
        assert not taken(rule, f"a.example.com/{pushed}"), pushed


def test_a_signature_goes_along_whatever_tags_are_selected_unless_signatures_do_not() -> None:
    rule = {"source": "a.example.com/app", "destination": "b.example.com/app", "tags": {"include": ["v*"]}}
    signature = f"a.example.com/app:sha256-{HEX}.sig"
    assert taken(rule, signature)
    assert not taken(rule, signature, options={"digest_tags": False})


@pytest.mark.parametrize("destination", ["b.example.com/app", "b.example.com/app:{tag}-copy", "b.example.com/app:one"])
def test_a_list_of_referrers_stands_for_the_image_it_is_about(destination: str) -> None:
    source = "a.example.com/app" if "one" not in destination else "a.example.com/app:1"
    rule = {"source": source, "destination": destination, "platforms": ["linux/amd64"], "min_age": "7d"}
    pushed = f"a.example.com/app:sha256-{HEX}"
    assert taken(rule, pushed) == [(f"a.example.com/app@sha256:{HEX}", ("b.example.com/app",))]
    assert not taken(rule, pushed, options={"referrers": False})
    assert not taken(rule, pushed, options={"companions": "never"})
    assert not taken(rule, f"a.example.com/other:sha256-{HEX}")
    assert not taken(rule, f"a.example.com/app:sha512-{HEX}")


def test_platforms_stay_and_selections_go() -> None:
    rule = {
        "source": "a.example.com/app",
        "destination": "b.example.com/app",
        "tags": {"include": ["v*"]},
        "platforms": ["linux/amd64"],
        "platform_mode": "rewrite",
    }
    policy = Policy.model_validate({"name": "p", "rules": [rule]})
    [narrowed] = rules_for_push(policy, Reference.parse("a.example.com/app:v1"))
    assert (narrowed.rule.platforms, narrowed.rule.platform_mode) == (("linux/amd64",), "rewrite")
    assert narrowed.rule.tags.include == ()


def test_every_rule_that_takes_it_is_there_and_a_place_that_two_name_goes_to_the_first() -> None:
    rules = [
        {"source": "a.example.com/app", "destination": "b.example.com/app", "platforms": ["linux/amd64"]},
        {"source": "a.example.com/other", "destination": "b.example.com/other"},
        {"source": "a.example.com/**", "destination": ["b.example.com", "c.example.com"]},
    ]
    policy = Policy.model_validate({"name": "p", "rules": rules})
    found = rules_for_push(policy, Reference.parse("a.example.com/app:1"))
    assert [(one.index, one.destinations) for one in found] == [
        (0, ("b.example.com/app:1",)),
        (2, ("c.example.com/app:1",)),
    ]


def test_a_name_that_no_registry_would_take_is_no_place_to_go_to() -> None:
    rule = {"source": "a.example.com/app", "destination": "b.example.com/app:{tag}-" + "x" * 100}
    assert taken(rule, "a.example.com/app:1")
    assert not taken(rule, f"a.example.com/app:{'1' * 60}")
