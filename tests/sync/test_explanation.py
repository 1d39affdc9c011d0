"""Why is my tag not copied? Every rule says so, and never anything else than planning does."""

import json
from typing import Any

import pytest

from app.domain.explanation import Explanation
from app.domain.reference import Digest, InvalidReferenceError, Repository
from app.domain.request import SyncRequest
from app.sync.destination import DestinationNote
from app.sync.explanation import explain
from tests.support.fake_registry import FakeRegistry, Respond, on
from tests.support.images import cosign_signature, cosign_tag, oci_image, oci_index
from tests.sync.workbench import Workbench

IMAGE = oci_image("one")
TAGS = ("v1.0", "v1.1", "v1.2", "v2.0-rc1", "edge", "latest")


@pytest.fixture
def here(here: FakeRegistry) -> FakeRegistry:
    """Hold tags of several kinds in two repositories."""
    here.load("team/app", IMAGE, *TAGS)
    here.load("team/app", cosign_signature(IMAGE), cosign_tag(IMAGE.digest))
    here.load("team/few", IMAGE, "v1.0")
    return here


async def asked(bench: Workbench, tag: str, *rules: dict[str, Any], **options: object) -> Explanation:
    """Ask about a tag."""
    return await explain(bench.clients, SyncRequest.model_validate({"rules": rules, "options": options}), tag)


def said(explanation: Explanation) -> list[tuple[str, str]]:
    """Return what each rule says, in short."""
    return [(rule.outcome, rule.reason) for rule in explanation.rules]


async def test_each_matcher_says_whether_it_matches_and_what_that_does(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    rule = {
        "source": f"{here.host}/team/**",
        "destination": there.host,
        "repositories": {"include": ["team/*"]},
        "tags": {"include": ["1.*", "v*"], "exclude": ["*-rc*", "edge"]},
    }
    explanation = await asked(bench, "team/app:v2.0-rc1", rule)
    assert (explanation.taken, said(explanation)) == (False, [("drops", "excluded")])
    assert explanation.message == f"rule 0 ({here.host}/team/**): an exclude matches v2.0-rc1"
    steps = [(step.pointer.removeprefix("/rules/0/"), step.matcher, step.effect) for step in explanation.rules[0].steps]
    assert steps == [
        ("source", None, "passes"),
        ("repositories/include/0", "team/*", "takes"),
        ("source", None, "passes"),
        ("tags/include/0", "1.*", "passes"),
        ("tags/include/1", "v*", "takes"),
        ("tags/exclude/0", "*-rc*", "drops"),
        ("tags/exclude/1", "edge", "passes"),
        ("tags/exclude", None, "drops"),
    ]


@pytest.mark.parametrize(
    ("tag", "fields", "outcome"),
    [
        ("team/app:v1.2", {}, ("takes", "all")),
        ("team/app:v1.2", {"tags": {"include": ["v*"]}}, ("takes", "include")),
        ("team/app:edge", {"tags": {"include": ["v*"]}}, ("drops", "not_included")),
        ("team/app:v1.2", {"tags": {"include": ["v*"], "newest": 2}}, ("takes", "newest")),
        ("team/app:v1.0", {"tags": {"include": ["v*"], "newest": 2}}, ("drops", "not_newest")),
        ("team/app:edge", {"tags": {"include": ["v*"], "newest": 2, "always": ["edge"]}}, ("takes", "always")),
        ("team/few:v1.0", {"tags": {"min_matches": 2}}, ("drops", "too_few_matches")),
        ("team/app:v1.0", {"created_since": "2020-01-01"}, ("drops", "created_since")),
        ("team/app:v1.0", {"artifact_types": {"include": ["*helm*"]}}, ("drops", "artifact_type")),
        ("team/app:none", {}, ("drops", "missing")),
        ("team/gone:v1.0", {}, ("drops", "repository_not_listed")),
        ("team/few:v1.0", {"repositories": {"exclude": ["**/few"]}}, ("drops", "repository_excluded")),
        ("team/few:v1.0", {"repositories": {"include": ["**/app"]}}, ("drops", "repository_not_included")),
        ("other/app:v1.0", {}, ("drops", "other_repository")),
        ("quay.io/team/app:v1.0", {}, ("drops", "other_registry")),
        (f"team/app:{cosign_tag(IMAGE.digest)}", {}, ("takes", "attached")),
    ],
)
async def test_a_rule_says_why_as_planning_decides(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    *,
    tag: str,
    fields: dict[str, Any],
    outcome: tuple[str, str],
) -> None:
    rule = {"source": f"{here.host}/team/**", "destination": there.host, **fields}
    explanation = await asked(bench, tag, rule)
    assert said(explanation) == [outcome], explanation.rules[0].steps
    planned = {str(copy.source).partition("/")[2] for copy in await bench.plan(rule)}
    assert (tag in planned) is explanation.taken
    if explanation.taken:
        assert explanation.rules[0].destinations == (f"{there.host}/{tag}",)


async def test_explanations_and_plans_agree_on_every_tag(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    selections: list[dict[str, Any]] = [
        {"include": ["v*", "edge"], "exclude": ["/rc/"]},
        {"include": ["semver:>=1.1"]},
        {"include": ["v*"], "newest": 2, "newest_by": "natural"},
        {"exclude": ["v*"], "newest": 1, "always": ["latest"]},
        {"include": [{"all": ["v*", "*.0"]}]},
        {"min_matches": 4},
        {"min_matches": 40},
    ]
    for selection in selections:
        rule: dict[str, Any] = {"source": f"{here.host}/team/app", "destination": f"{there.host}/x", "tags": selection}
        planned = {copy.source.tag for copy in await bench.plan(rule)}
        explained = {tag for tag in TAGS if (await asked(bench, tag, rule)).taken}
        assert explained == planned.intersection(TAGS), selection


async def test_a_tag_among_the_newest_is_given_its_place(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    rule = {
        "source": f"{here.host}/team/app",
        "destination": f"{there.host}/x",
        "tags": {"include": ["v*"], "newest": 2},
    }
    explanation = await asked(bench, "v1.0", rule)
    assert explanation.rules[0].message == (
        "it is number 4 of 4 by version, and the newest 2 are taken: v1.2 is the last of them"
    )


async def test_rules_that_name_tags_and_rules_after_them(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    named = {"source": here.reference("team/app", "v1.0,v1.1"), "destination": f"{there.host}/x"}
    every = {"source": f"{here.host}/team/app", "destination": f"{there.host}/x"}
    single = every | {"platforms": ["linux/amd64"]}
    explanation = await asked(bench, "v1.0", named, every, single)
    assert said(explanation) == [("takes", "named"), ("drops", "taken_before"), ("drops", "destination_conflict")]
    assert said(await asked(bench, "v1.2", named, every)) == [("drops", "not_named"), ("takes", "all")]
    gone = {"source": here.reference("team/app", "v9"), "destination": f"{there.host}/x"}
    assert said(await asked(bench, "v9", gone)) == [("drops", "missing")]
    long = every | {"destination": f"{there.host}/{{path[7]}}"}
    assert said(await asked(bench, "v1.0", long)) == [("drops", "invalid_destination")]


async def test_platforms_that_an_image_has_and_has_not(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    index = oci_index([oci_image("a", platform="linux/amd64"), oci_image("b", platform="linux/arm64")])
    here.load("team/multi", index, "1")
    rule = {"source": f"{here.host}/team/multi", "destination": f"{there.host}/x"}
    some = await asked(bench, "1", rule | {"platforms": ["linux/amd64", "linux/s390x"]})
    assert said(some) == [("takes", "all")]
    steps = {(step.matcher, step.effect) for step in some.rules[0].steps if "platforms/" in step.pointer}
    assert steps == {("linux/amd64", "passes"), ("linux/s390x", "drops")}
    assert "left out of its index: linux/arm64" in [step.message for step in some.rules[0].steps]
    assert said(await asked(bench, "1", rule | {"platforms": ["linux/s390x"]})) == [("drops", "no_platform")]
    here.load("team/multi", oci_index([index]), "nested")
    assert said(await asked(bench, "nested", rule | {"platforms": ["linux/s390x"]})) == [("drops", "no_platform")]
    assert said(await asked(bench, "nested", rule | {"platforms": ["linux/arm64"]})) == [("takes", "all")]


async def test_a_source_that_does_not_answer_is_unknown_and_not_dropped(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    body = json.dumps({"errors": [{"code": "DENIED"}]}).encode()
    here.faults.add(Respond(403, body=body), matching=on("tags"), times=None)
    rule = {"source": f"{here.host}/team/app", "destination": f"{there.host}/x"}
    explanation = await asked(bench, "v1.0", rule)
    assert said(explanation) == [("unknown", "listing_failed")]
    assert "denied" in explanation.message


async def test_a_text_that_names_no_tag_is_refused(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    rule = {"source": f"{here.host}/team/**", "destination": there.host}
    for text, code in (("v1", "repository_unclear"), ("team/app", "tag_unclear"), ("team/app:a b", "invalid_tag")):
        with pytest.raises(InvalidReferenceError) as raised:
            await asked(bench, text, rule)
        assert raised.value.code == code


async def test_an_image_that_says_no_time_is_as_old_as_a_job_knows_it(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    rule = {"source": f"{here.host}/team/few", "destination": f"{there.host}/x", "min_age": "7d"}
    assert said(await asked(bench, "v1.0", rule)) == [("drops", "min_age")]
    noted = DestinationNote("first_seen", "2020-01-01T00:00:00+00:00 2020-01-01T00:00:00+00:00")
    await bench.destination_notes.put(Repository.parse(f"{here.host}/team/few"), Digest(IMAGE.digest), noted)
    request = SyncRequest.model_validate({"rules": [rule]})
    known = await explain(bench.clients, request, "v1.0", notes=bench.destination_notes)
    assert known.taken
