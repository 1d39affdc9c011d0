"""What a request would do: asked of real registries, and nothing copied."""

from collections.abc import AsyncIterator

import pytest

from app.services import plans
from tests.api.conftest import Api, Serve, pointers
from tests.conftest import Namespace
from tests.support.images import oci_image, oci_index
from tests.support.processes import free_port


@pytest.fixture
async def between(serve: Serve, source: Namespace, destination: Namespace) -> AsyncIterator[Api]:
    """Serve the application with both registries entered."""
    async with serve(registry_attempts=1) as api:
        for name, side in (("old", source), ("new", destination)):
            entry = {"host": side.host, "insecure": True}
            assert (await api.client.put(f"/v1/registries/{name}", json=entry)).status_code == 201
        yield api


async def test_a_plan_says_what_would_happen_to_each_image_and_copies_nothing(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    index = oci_index([oci_image("new", platform="linux/amd64"), oci_image("new", platform="linux/arm64")])
    same, other = oci_image("same"), oci_image("other")
    source.push("app", index, "new")
    source.push("app", same, "same")
    source.push("app", oci_image("changed"), "changed")
    destination.push("app", same, "same")
    destination.push("app", other, "changed")
    body = {"source": source.reference("app"), "destination": destination.reference("app")}

    answer = await between.client.post("/v1/plan", json=body)
    never = await between.client.post("/v1/plan", json=body | {"options": {"overwrite": "never"}})

    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert (plan["is_complete"], plan["warnings"]) == (True, [])
    images = {image["destination"].rpartition(":")[2]: image for image in plan["images"]}
    assert {tag: image["action"] for tag, image in images.items()} == {
        "new": "copy",
        "same": "up_to_date",
        "changed": "update",
    }
    assert images["new"]["digest"] == index.digest
    assert images["changed"]["previous_digest"] == other.digest
    assert images["new"]["source"] == source.reference("app", "new")
    reasons = {image["destination"].rpartition(":")[2]: image["reason"] for image in never.json()["images"]}
    assert reasons["changed"] == "exists_different_digest"
    assert destination.tags("app") == {"same": same.digest, "changed": other.digest}
    assert (await between.client.get("/v1/jobs")).json()["items"] == []


async def test_a_rule_that_matches_nothing_is_a_warning(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("a"), "1")
    body = {
        "source": source.reference("app"),
        "destination": destination.reference("app"),
        "tags": {"include": ["nothing-*"]},
    }

    plan = (await between.client.post("/v1/plan", json=body)).json()

    assert (plan["images"], [warning["code"] for warning in plan["warnings"]]) == ([], ["no_match"])


async def test_a_tag_that_is_not_there_is_told_with_the_image(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("a"), "1")
    body = {"source": source.reference("app", "2"), "destination": destination.reference("app")}

    plan = (await between.client.post("/v1/plan", json=body)).json()

    assert [(image["action"], image["error"]["code"]) for image in plan["images"]] == [
        ("failed", "reference_not_found")
    ]


async def test_what_cant_be_planned_is_a_row_beside_what_can(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    for name in ("a/app", "b/app"):
        source.push(name, oci_image(name), "1")
    flat = f"{destination.host}/{destination.prefix}/{{name}}"
    rules = [
        {"source": f"{source.host}/{source.prefix}/**", "destination": flat},
        {"source": source.reference("renamed/away"), "destination": flat},
    ]

    plan = (await between.client.post("/v1/plan", json={"rules": rules})).json()

    assert plan["is_complete"]
    first, second, third = plan["images"]
    assert (first["action"], first["kind"], first["source"]) == ("copy", "image", source.reference("a/app", "1"))
    assert (second["action"], second["kind"], second["error"]["code"]) == (
        "refused",
        "refused",
        "destination_conflict",
    )
    assert [row["reason"] for row in plan["images"]] == [None] * 3, "as in the rows of jobs: why is what the error says"
    assert second["error"]["message"].startswith(f"{first['source']} and {second['source']} would both become")
    assert (third["action"], third["kind"], third["source"]) == ("failed", "listing", source.reference("renamed/away"))
    assert third["error"]["code"] == "repository_missing"

    strict = {"rules": rules, "options": {"fail_fast": True}}
    failed_fast = (await between.client.post("/v1/plan", json=strict)).json()
    assert [row["error"]["code"] for row in failed_fast["images"]] == ["destination_conflict"], "nothing else is copied"


async def test_a_plan_that_runs_out_of_room_says_so(
    between: Api, source: Namespace, destination: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.push("app", oci_image("a"), *"123")
    body = {"source": source.reference("app"), "destination": destination.reference("app")}
    monkeypatch.setattr(plans, "MAX_IMAGES", 2)
    too_large = (await between.client.post("/v1/plan", json=body)).json()
    monkeypatch.setattr(plans, "MAX_SECONDS", 0.0)
    too_long = (await between.client.post("/v1/plan", json=body)).json()
    for plan, images, why in ((too_large, 2, "after 2 images"), (too_long, 0, "after 0 seconds")):
        assert (len(plan["images"]), plan["is_complete"]) == (images, False)
        [warning] = plan["warnings"]
        assert (warning["code"], warning["first"]) == ("plan_incomplete", [why])


async def test_a_registry_that_does_not_answer_is_data(between: Api, destination: Namespace) -> None:
    gone = f"127.0.0.1:{free_port()}"
    await between.client.put("/v1/registries/gone", json={"host": gone, "insecure": True})

    answer = await between.client.post(
        "/v1/plan", json={"source": f"{gone}/app", "destination": destination.reference("app")}
    )

    assert answer.status_code == 200
    [image] = answer.json()["images"]
    error = image["error"]
    assert (error["code"], error["side"], error["registry"]) == ("registry_unreachable", "source", gone)


async def test_one_tag_is_explained_at_once_and_not_by_a_job(between: Api, source: Namespace) -> None:
    body = {"source": source.reference("app"), "destination": "b.example.com/x", "as_job": True}
    both = await between.client.post("/v1/plan", params={"explain": "1"}, json=body)
    twice = await between.client.post("/v1/plan?explain=1&explain=2", json=body | {"as_job": False})
    assert (both.status_code, pointers(both)) == (422, {"/as_job": "as_job_with_explain"})
    assert (twice.status_code, twice.json()["errors"][0]["parameter"]) == (422, "explain")
    assert (await between.client.get("/v1/jobs")).json()["items"] == []
