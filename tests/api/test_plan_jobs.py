"""Plans as jobs: what a job would do, row by row; and jobs that do exactly what a plan found."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.worker import runner
from tests.api.conftest import Api, Serve
from tests.conftest import Namespace
from tests.support.images import artifact, cosign_signature, cosign_tag, oci_image
from tests.support.plain_client import PlainClient
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.sync.zoo import FOREIGN_URL, zoo

Start = Callable[[RegistryOptions], RegistryProcess]
WAIT = {"wait": "60s"}


@pytest.fixture
async def api(serve: Serve) -> AsyncIterator[Api]:
    """Serve the application with a worker."""
    async with serve(is_working=True, registry_attempts=1, worker_concurrency=1) as api:
        yield api


@pytest.fixture
async def between(api: Api, source: Namespace, destination: Namespace) -> Api:
    """Enter both registries."""
    await enter(api, source.host, destination.host)
    return api


async def enter(api: Api, *hosts: str) -> None:
    """Enter registries that speak plain http."""
    for number, host in enumerate(hosts):
        answer = await api.client.put(f"/v1/registries/r{number}", json={"host": host, "insecure": True})
        assert answer.status_code in {200, 201}, answer.text


async def done(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """Submit a job, and wait for it."""
    answer = await api.client.post("/v1/jobs", params=WAIT, json=body)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def rows(api: Api, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read a job's images, by destination."""
    page = (await api.client.get(f"/v1/jobs/{job['id']}/images", params={"limit": 1000})).json()
    assert page["next_cursor"] is None
    return {row["destination"]: row for row in page["items"]}


def compared(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a plan says of a row, or what a job did, in the same words."""
    same = "source rule kind action reason digest destination_digest previous_digest media_type platforms companions"
    state = "copied" if row["state"] == "planned" else row["state"]
    code = row["error"]["code"] if row["error"] else None
    return {name: row[name] for name in same.split()} | {
        "state": state,
        "code": code,
        "bytes": row["bytes"]["total"],
        "sent": row["bytes"]["to_send"] if row["state"] == "planned" else row["bytes"]["transferred"],
    }


def without(names: set[str], row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without some of its values."""
    return {name: value for name, value in row.items() if name not in names}


def there_at_the_end(totals: dict[str, int]) -> dict[str, int]:
    """Return totals with what is copied and what was there already as one number."""
    counts = dict(totals)
    return counts | {"copy": counts["copy"] + counts.pop("up_to_date")}


@pytest.mark.parametrize(
    ("more", "images_at_once"),
    [
        ({}, 1),
        ({}, runner.IMAGES_AT_ONCE),
        ({"platforms": ["linux/amd64"], "platform_mode": "rewrite"}, 1),
        ({"platforms": ["linux/amd64"], "platform_mode": "rewrite"}, runner.IMAGES_AT_ONCE),
        ({"options": {"force": True}}, 1),
        ({"options": {"referrers": False, "digest_tags": False, "overwrite": "fail"}}, 1),
    ],
    ids=["plain", "plain-at-once", "rewrite", "rewrite-at-once", "forced", "alone"],
)
async def test_a_plan_and_its_job_have_equal_rows_over_the_whole_zoo(
    api: Api, start_registry: Start, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], images_at_once: int
) -> None:
    """Of images copied at once it is chance which one looks at a layer they share, and sends it: the sum is equal.

    It is chance too whether a digest tag that was asked for comes by itself or with the image that it hangs on, and is
    up to date by then; then only what it lacks counts as its companions.
    """
    monkeypatch.setattr(runner, "IMAGES_AT_ONCE", images_at_once)
    is_chance = images_at_once > 1
    apart = {"bytes", "sent"} if is_chance else set[str]()
    options = RegistryOptions(allowed_foreign_urls=(FOREIGN_URL,))
    source, destination = start_registry(options), start_registry(options)
    with PlainClient.of(source) as here, PlainClient.of(destination) as there:
        for animal in zoo():
            here.push(animal.repository, animal.manifest, tags=animal.tags)
        there.push("plain", oci_image("another"), tags=("1.0",))
        there.push("docker", next(one.manifest for one in zoo() if "v2" in one.tags), tags=("v2",))
        await enter(api, source.host, destination.host)
        body = {"source": f"{source.host}/**", "destination": destination.host, **more}
        before = {name: there.list_tags(name) for name in there.list_repositories()}

        plan = await done(api, body | {"dry_run": True})

        assert {name: there.list_tags(name) for name in there.list_repositories()} == before
        job = await done(api, body)
        again = await done(api, body | {"dry_run": True})
        second = await done(api, body)
    for dry, real in ((plan, job), (again, second)):
        planned, did = await rows(api, dry), await rows(api, real)
        assert planned.keys() == did.keys()
        for place, row in planned.items():
            is_companion = is_chance and place.rpartition(":")[2].startswith("sha256-")
            ours = apart | {"action", "state", "previous_digest", "companions"} if is_companion else apart
            assert without(ours, compared(row)) == without(ours, compared(did[place])), place
        planned_totals, totals = dry["totals"], real["totals"]
        if is_chance:
            planned_totals, totals = (without({"companions"}, one) for one in (planned_totals, totals))
            planned_totals, totals = there_at_the_end(planned_totals), there_at_the_end(totals)
        assert planned_totals == totals
        assert dry["progress"]["bytes"]["to_send"] == real["progress"]["bytes"]["transferred"]
        assert (dry["kind"], dry["state"], real["kind"]) == ("plan", real["state"], "copy")
    assert plan["progress"]["bytes"]["to_send"] > 0
    assert job["progress"]["images"]["copied"] > 0
    assert is_chance or plan["progress"]["images"]["planned"] == job["progress"]["images"]["copied"]
    assert plan["progress"]["bytes"]["transferred"] == 0
    assert again["totals"]["copy"] == 0


async def test_a_plan_counts_what_is_there_and_writes_nothing(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    image, old = oci_image("app"), oci_image("old")
    source.push("app", image, "1", "2")
    source.push("app", cosign_signature(image), cosign_tag(image.digest))
    source.push("app", artifact("sbom", subject=image))
    destination.push("app", old, "1")
    body = {
        "source": source.reference("app", "1,2"),
        "destination": destination.reference("app"),
        "dry_run": True,
        "labels": {"a": "b"},
    }

    plan = await done(between, body)

    assert (plan["kind"], plan["state"], plan["labels"], plan["done"]) == ("plan", "succeeded", {"a": "b"}, True)
    assert destination.tags("app") == {"1": old.digest}
    by_tag = {place.rpartition(":")[2]: row for place, row in (await rows(between, plan)).items()}
    first, second = by_tag["1"], by_tag["2"]
    assert (first["state"], first["action"], first["rule"]) == ("planned", "update", 0)
    assert (first["digest"], first["destination_digest"], first["previous_digest"]) == (
        image.digest,
        image.digest,
        old.digest,
    )
    assert (second["action"], second["previous_digest"]) == ("copy", None)
    assert first["bytes"]["to_send"] + second["bytes"]["to_send"] == plan["progress"]["bytes"]["to_send"] > 0
    assert first["bytes"]["total"] == second["bytes"]["total"]
    companions = {name for row in (first, second) for name in row["companions"]["first"]}
    assert cosign_tag(image.digest) in companions
    assert plan["totals"]["copy"] == plan["totals"]["update"] == 1
    listed = (await between.client.get("/v1/jobs", params={"kind": "plan"})).json()["items"]
    assert [job["id"] for job in listed] == [plan["id"]]
    assert (await between.client.get("/v1/jobs", params={"kind": "copy"})).json()["items"] == []


async def test_a_job_of_a_plan_does_what_was_seen_and_refuses_what_moved(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    images = {tag: oci_image(tag) for tag in ("same", "moves", "overwritten", "new")}
    for tag, image in images.items():
        source.push("app", image, tag)
    destination.push("app", images["same"], "same")
    body = {"source": source.reference("app"), "destination": destination.reference("app"), "labels": {"a": "b"}}
    answer = await between.client.post("/v1/plan", params=WAIT, json=body | {"as_job": True})
    assert answer.status_code == 202
    plan = answer.json()
    assert (plan["totals"]["copy"], plan["totals"]["up_to_date"]) == (3, 1)
    source.push("app", oci_image("another"), "moves")
    source.push("app", oci_image("late"), "late")
    foreign = oci_image("foreign")
    destination.push("app", foreign, "overwritten")

    job = await done(between, {"plan": plan["id"]})

    assert (job["plan"], job["kind"], job["state"], job["labels"]) == (plan["id"], "copy", "failed", {"a": "b"})
    by_tag = {place.rpartition(":")[2]: row for place, row in (await rows(between, job)).items()}
    assert {tag: (row["state"], row["action"]) for tag, row in by_tag.items()} == {
        "moves": ("failed", "refused"),
        "overwritten": ("failed", "refused"),
        "new": ("copied", "copy"),
    }
    assert {tag: (by_tag[tag]["error"]["code"], by_tag[tag]["error"]["side"]) for tag in ("moves", "overwritten")} == {
        "moves": ("changed_since_plan", "source"),
        "overwritten": ("changed_since_plan", "destination"),
    }
    assert f"is {foreign.digest} now" in by_tag["overwritten"]["error"]["message"]
    tags = destination.tags("app")
    assert tags == {"same": images["same"].digest, "overwritten": foreign.digest, "new": images["new"].digest}

    retried = (await between.client.post(f"/v1/jobs/{job['id']}/retry", json={"only": "failed"})).json()
    retried = (await between.client.get(f"/v1/jobs/{retried['id']}", params=WAIT)).json()
    assert (retried["plan"], retried["totals"]["refused"]) == (plan["id"], 2)


async def test_a_plan_that_can_t_be_carried_out_says_why(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("a"), "1")
    body = {"source": source.reference("app"), "destination": destination.reference("app")}
    copied = await done(between, body)
    missing = "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708"
    for sent, pointer, code in (
        ({"plan": missing}, "/plan", "unknown_plan"),
        ({"plan": copied["id"]}, "/plan", "not_a_plan"),
        ({"plan": "x"}, "/plan", "uuid_parsing"),
        ({"plan": missing, "source": "redis:7"}, "/source", "unknown_field"),
        ({"plan": missing, "dry_run": True}, "/dry_run", "unknown_field"),
        ({"plan": missing, "labels": 3}, "/labels", "dict_type"),
    ):
        answer = await between.client.post("/v1/jobs", json=sent)
        assert answer.status_code == 422, answer.text
        problem = answer.json()["errors"][0]
        assert (problem["pointer"], problem["code"]) == (pointer, code), sent


async def test_a_plan_that_is_not_done_is_not_carried_out(serve: Serve) -> None:
    async with serve() as api:
        plan = await api.submit(dry_run=True)
        answer = await api.client.post("/v1/jobs", json={"plan": plan["id"]})
        assert (answer.status_code, answer.json()["code"]) == (409, "plan_not_finished")
        await api.client.post(f"/v1/jobs/{plan['id']}/cancel")
        answer = await api.client.post("/v1/jobs", json={"plan": plan["id"]})
        assert (answer.status_code, answer.json()["code"]) == (409, "plan_not_finished")
        assert "was cut off" in answer.json()["detail"]


async def test_a_plan_is_carried_out_once_for_one_idempotency_key(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("a"), "1")
    body = {"source": source.reference("app"), "destination": destination.reference("app"), "dry_run": True}
    plan = await done(between, body)
    key = {"Idempotency-Key": "one"}
    first, second = [await between.client.post("/v1/jobs", json={"plan": plan["id"]}, headers=key) for _ in "12"]
    assert first.json()["id"] == second.json()["id"]
    assert [one.headers["Idempotency-Replayed"] for one in (first, second)] == ["false", "true"]


async def test_a_policy_is_planned_as_a_job_that_is_no_run_of_it(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("a"), "1")
    rule = {"source": source.reference("app"), "destination": destination.reference("app")}
    body = {"rules": [rule], "labels": {"a": "b"}}
    path = "/v1/policies/nightly"
    assert (await between.client.put(path, json=body)).status_code == 201
    assert (await between.client.get(f"{path}/plan")).status_code == 404
    assert (await between.client.post("/v1/policies/other/plan")).status_code == 404

    made = (await between.client.post(f"{path}/plan", params=WAIT)).json()

    read = (await between.client.get(f"{path}/plan")).json()
    assert (made["id"], made["policy"], made["kind"], made["labels"]) == (read["id"], "nightly", "plan", {"a": "b"})
    assert (read["totals"]["copy"], destination.tags("app")) == (1, {})
    assert (await between.client.get(path)).json()["last_job"] is None
    job = await done(between, {"plan": made["id"]})
    assert (job["policy"], job["state"], list(destination.tags("app"))) == ("nightly", "succeeded", ["1"])


async def test_a_plan_and_its_job_count_what_rules_take_and_drop(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    for tag in ("v1", "v2", "edge"):
        source.push("app", oci_image(tag), tag)
    body = {"source": source.reference("app"), "destination": destination.reference("app"), "tags": {"include": ["v*"]}}
    plan = await done(between, body | {"dry_run": True})
    job = await done(between, body)
    preview = (await between.client.post("/v1/plan", json=body)).json()
    expected = [
        {"rule": 0, "kind": "tag", "taken": taken, "reason": reason, "count": len(tags), "first": first}
        for taken, reason, tags in ((False, "not_included", ["edge"]), (True, "include", ["v1", "v2"]))
        for first in [[source.reference("app", tag) for tag in tags]]
    ]
    assert plan["selection"] == job["selection"] == preview["selection"] == expected


async def test_a_plan_and_a_job_explain_one_tag(between: Api, source: Namespace, destination: Namespace) -> None:
    for tag in ("v1", "edge"):
        source.push("app", oci_image(tag), tag)
    body = {"source": source.reference("app"), "destination": destination.reference("app"), "tags": {"include": ["v*"]}}
    plan = await done(between, body | {"dry_run": True})

    explained = (await between.client.get(f"/v1/jobs/{plan['id']}", params={"explain": "edge"})).json()
    taken = (await between.client.post("/v1/plan", params={"explain": source.reference("app", "v1")}, json=body)).json()
    unclear = await between.client.post("/v1/plan", params={"explain": "app:"}, json=body)

    assert (explained["id"], explained["explanation"]["taken"]) == (plan["id"], False)
    (rule,) = explained["explanation"]["rules"]
    assert (rule["outcome"], rule["reason"], rule["tag"]) == ("drops", "not_included", source.reference("app", "edge"))
    assert {step["pointer"]: step["effect"] for step in rule["steps"]} == {
        "/rules/0/source": "passes",
        "/rules/0/tags/include/0": "passes",
        "/rules/0/tags/include": "drops",
    }
    assert (taken["explanation"]["taken"], [image["action"] for image in taken["images"]]) == (True, ["copy"])
    assert plan["explanation"] is None
    assert unclear.status_code == 422, unclear.text
    assert unclear.json()["errors"][0]["parameter"] == "explain"


async def test_a_plan_of_nothing_to_do_is_carried_out_at_once(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    image = oci_image("a")
    source.push("app", image, "1")
    destination.push("app", image, "1")
    body = {"source": source.reference("app"), "destination": destination.reference("app"), "dry_run": True}
    job = await done(between, {"plan": (await done(between, body))["id"]})
    assert (job["state"], job["progress"]["images"]["total"]) == ("succeeded", 0)
