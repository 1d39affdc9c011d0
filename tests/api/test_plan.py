"""What a request would do: asked of real registries, and nothing copied."""

from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import Api, Serve
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
    assert (plan["is_complete"], plan["error"], plan["warnings"]) == (True, None, [])
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

    assert [(image["action"], image["reason"]) for image in plan["images"]] == [("refuse", "reference_not_found")]


async def test_two_sources_of_one_destination_are_told_before_anything_is_copied(
    between: Api, source: Namespace, destination: Namespace
) -> None:
    source.push("a/app", oci_image("a"), "1")
    source.push("b/app", oci_image("b"), "1")
    body = {
        "source": f"{source.host}/{source.prefix}/**",
        "destination": f"{destination.host}/{destination.prefix}/{{name}}",
    }

    plan = (await between.client.post("/v1/plan", json=body)).json()

    assert (plan["error"]["code"], plan["is_complete"]) == ("destination_conflict", False)


async def test_a_registry_that_does_not_answer_is_data(between: Api, destination: Namespace) -> None:
    gone = f"127.0.0.1:{free_port()}"
    await between.client.put("/v1/registries/gone", json={"host": gone, "insecure": True})

    answer = await between.client.post(
        "/v1/plan", json={"source": f"{gone}/app", "destination": destination.reference("app")}
    )

    assert answer.status_code == 200
    error = answer.json()["error"]
    assert (error["code"], error["side"], error["registry"]) == ("registry_unreachable", "source", gone)
