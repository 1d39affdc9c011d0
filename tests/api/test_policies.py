"""Policies over HTTP: kept, changed, paused, run, removed."""

import asyncio
from typing import Any

import httpx
import pytest

from app.domain.access import Caller, ScopePreset
from tests.api.conftest import SHORT, Api, Serve, pointers
from tests.conftest import Namespace
from tests.support.images import oci_image

RULE = {"source": "docker.io/library/redis", "destination": "registry.example.com/mirror/redis"}
BODY = {"rules": [RULE], "schedule": {"cron": "17 */6 * * *"}, "on_push": True, "labels": {"team": "a"}}


async def put(client: httpx.AsyncClient, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return await client.put("/v1/policies/redis", json=body or BODY, headers=headers)


async def test_a_policy_is_kept_and_shown_with_its_next_run(client: httpx.AsyncClient) -> None:
    existing = await put(client)
    seen = await client.get("/v1/policies/redis")

    assert (existing.status_code, existing.headers["Location"]) == (201, "/v1/policies/redis")
    assert existing.json() == seen.json()
    body = seen.json()
    assert (body["name"], body["enabled"], body["on_push"], body["version"]) == ("redis", True, True, 1)
    assert body["schedule"] == {"cron": "17 */6 * * *", "timezone": "UTC", "jitter": "0s", "catch_up": "once"}
    assert body["rules"][0]["destination"] == ["registry.example.com/mirror/redis"]
    assert ":17:00Z" in body["next_run_at"]
    assert body["last_job"] is None
    assert (await client.get("/v1/policies")).json() == {"items": [body], "next_cursor": None}


async def test_a_put_replaces_all_of_it(client: httpx.AsyncClient) -> None:
    await put(client)
    replaced = await put(client, {"name": "redis", "rules": [RULE]})
    assert replaced.status_code == 200
    body = replaced.json()
    assert (body["schedule"], body["on_push"], body["labels"], body["next_run_at"]) == (None, False, {}, None)
    assert body["version"] == 2


async def test_a_dry_run_answers_what_would_be_stored_and_stores_nothing(client: httpx.AsyncClient) -> None:
    dry = {"dry_run": "true"}
    new = await client.put("/v1/policies/redis", json=BODY, params=dry)
    assert (new.status_code, new.json()["version"], "Location" in new.headers) == (200, 1, False)
    assert (await client.get("/v1/policies/redis")).status_code == 404
    existing = (await put(client)).json()
    assert {**new.json(), "created_at": "", "updated_at": ""} == {**existing, "created_at": "", "updated_at": ""}

    change = await client.put("/v1/policies/redis", json={"rules": [RULE]}, params=dry, headers={"If-Match": '"1"'})
    assert (change.json()["version"], change.json()["schedule"], change.json()["next_run_at"]) == (2, None, None)
    assert (await client.get("/v1/policies/redis")).json() == existing
    late = await client.put("/v1/policies/redis", json=BODY, params=dry, headers={"If-Match": '"7"'})
    assert late.json()["code"] == "precondition_failed"
    assert (await client.put("/v1/policies/redis", json={"rules": []}, params=dry)).status_code == 422
    assert (await client.put("/v1/policies/redis", json={**BODY, "name": "x"}, params=dry)).status_code == 422


async def test_a_patch_pauses_goes_on_and_takes_back(client: httpx.AsyncClient) -> None:
    await put(client)
    paused = await client.patch("/v1/policies/redis", json={"enabled": False})
    assert (paused.status_code, paused.json()["enabled"], paused.json()["next_run_at"]) == (200, False, None)
    goes_on = await client.patch("/v1/policies/redis", json={"enabled": True, "schedule": {"timezone": "Asia/Tokyo"}})
    assert goes_on.json()["schedule"]["cron"] == "17 */6 * * *"
    assert goes_on.json()["next_run_at"]
    taken_back = await client.patch("/v1/policies/redis", json={"schedule": None, "labels": {"team": None, "x": "y"}})
    assert (taken_back.json()["schedule"], taken_back.json()["labels"]) == (None, {"x": "y"})


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"rules": []}, "/rules"),
        ({"rules": [{**RULE, "source": "a.example.com/**/x"}]}, "/rules/0/source"),
        ({"schedule": {"cron": "61 * * * *"}}, "/schedule/cron"),
        ({"schedule": {"cron": "1 * * * * *"}}, "/schedule/cron"),
        ({"schedule": {"cron": "1 * * * *", "timezone": "Mars/Olympus"}}, "/schedule/timezone"),
        ({"schedule": {"cron": "1 * * * *", "jitter": "2w"}}, "/schedule/jitter"),
        ({"shedule": {"cron": "1 * * * *"}}, "/shedule"),
        ({"name": "other"}, "/name"),
        ({"rules": [{"source": "127.0.0.1:5000/x", "destination": "a.example.com/x"}]}, "/rules/0/source"),
        ({"rules": [{**RULE, "source": "a:1"}, {**RULE, "source": "b:1"}]}, "/rules/1/destination"),
    ],
)
async def test_what_is_wrong_with_a_policy_is_named(
    client: httpx.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    answer = await put(client, BODY | change)
    assert answer.status_code == 422, answer.text
    assert pointer in pointers(answer)
    if "rules" in change:
        return
    await put(client)
    patched = await client.patch("/v1/policies/redis", json=change)
    assert patched.status_code == 422, patched.text
    assert pointer in pointers(patched)


@pytest.mark.parametrize("name", ["Upper", "-x", "x" * 64, "a b"])
async def test_a_name_is_one_that_fits_an_address(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.put(f"/v1/policies/{name}", json=BODY)).status_code == 422


async def test_if_match_changes_the_version_that_was_read_or_none(client: httpx.AsyncClient) -> None:
    first = (await put(client)).headers["ETag"]
    await client.post("/v1/policies/redis/run")
    shown = (await client.get("/v1/policies/redis")).headers["ETag"]
    assert shown != first, "what is shown has changed"

    changed = await put(client, {"rules": [RULE]}, **{"If-Match": first})
    assert changed.status_code == 200, "a job is no change of the policy"
    for answer in (
        await put(client, BODY, **{"If-Match": first}),
        await client.patch("/v1/policies/redis", json={"enabled": False}, headers={"If-Match": shown}),
        await client.delete("/v1/policies/redis", headers={"If-Match": first}),
        await put(client, BODY, **{"If-Match": "nonsense"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
    deleted = await client.delete("/v1/policies/redis", headers={"If-Match": changed.headers["ETag"]})
    assert deleted.status_code == 204


async def test_who_has_a_policy_as_it_is_is_told_no_more(client: httpx.AsyncClient) -> None:
    etag = (await put(client)).headers["ETag"]
    assert (await client.get("/v1/policies/redis", headers={"If-None-Match": etag})).status_code == 304
    await client.post("/v1/policies/redis/run")
    assert (await client.get("/v1/policies/redis", headers={"If-None-Match": etag})).status_code == 200


async def test_a_run_is_a_job_and_the_policy_shows_it(client: httpx.AsyncClient) -> None:
    await put(client)
    answer = await client.post("/v1/policies/redis/run")
    job = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{job['id']}")
    assert (job["policy"], job["trigger"]["type"], job["labels"]) == ("redis", "api", {"team": "a"})
    last = (await client.get("/v1/policies/redis")).json()["last_job"]
    assert (last["id"], last["state"], last["trigger"]) == (job["id"], "queued", "api")
    again = (await client.post("/v1/policies/redis/run")).json()
    assert again["id"] == job["id"], "it has not begun, so it does what was asked for"
    assert len((await client.get("/v1/jobs", params={"policy": "redis"})).json()["items"]) == 1


async def test_a_run_asked_for_again_with_its_key_is_the_same_job(serve: Serve) -> None:
    named = {"Idempotency-Key": '"nightly"'}
    async with serve() as api:
        client = api.client
        await put(client)
        await client.put("/v1/policies/other", json=BODY)
        answers = await asyncio.gather(*(client.post("/v1/policies/redis/run", headers=named) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {202}
        [job_id] = {answer.json()["id"] for answer in answers}
        assert sorted(answer.headers["Idempotency-Replayed"] for answer in answers) == ["false"] + ["true"] * 9
        assert "Idempotency-Replayed" not in (await client.post("/v1/policies/redis/run")).headers

        await client.post(f"/v1/jobs/{job_id}/cancel")
        again = await client.post("/v1/policies/redis/run", headers=named)
        assert (again.json()["id"], again.headers["Location"]) == (job_id, f"/v1/jobs/{job_id}")
        waited = await client.post("/v1/policies/redis/run", params={"wait": "1s"}, headers=named)
        assert (again.status_code, waited.status_code) == (202, 200), "as of any other job that is submitted again"
        for path, body in (("/v1/policies/other/run", None), ("/v1/jobs", SHORT)):
            refused = await client.post(path, json=body, headers=named)
            assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
        wrong = await client.post("/v1/policies/redis/run", headers={"Idempotency-Key": "x" * 256})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_idempotency_key")


async def test_a_run_may_be_waited_for(serve: Serve, source: Namespace, destination: Namespace) -> None:
    image = oci_image("waited for")
    source.push("app", image, "1")
    async with serve(is_working=True) as api:
        for name, side in (("source", source), ("destination", destination)):
            await api.client.put(f"/v1/registries/{name}", json={"host": side.host, "insecure": True})
        rule = {"source": source.reference("app"), "destination": destination.reference("app")}
        await api.client.put("/v1/policies/p", json={"rules": [rule]})
        answer = await api.client.post("/v1/policies/p/run", params={"wait": "60s"})
        assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert destination.tags("app") == {"1": image.digest}


async def test_a_policy_that_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("PATCH", ""),
        ("POST", "/run"),
    ):
        answer = await client.request(method, f"/v1/policies/none{path}", json={})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_policies_come_in_pages(client: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await client.put(f"/v1/policies/{name}", json={"rules": [RULE]})
    first = await client.get("/v1/policies", params={"limit": 2})
    second = await client.get(first.links["next"]["url"])
    assert [item["name"] for item in first.json()["items"] + second.json()["items"]] == ["a", "b", "c"]
    assert second.json()["next_cursor"] is None


WITH_A_REGISTRY = """
version: 1
creds: [{registry: registry.example.com, user: ci, pass: secret}]
sync: [{source: registry.example.com/a, target: registry.example.com/b, type: repository}]
"""


async def test_readers_look_and_submitters_change_and_run(api: Api) -> None:
    await api.enter("docker.io", "registry.example.com")
    await api.make_key("admin")
    assert (await api.client.get("/v1/policies")).status_code == 401
    reader = await _key(api, "read")
    submitter = await _key(api, "submit")
    assert (await api.client.put("/v1/policies/p", json=BODY, headers=submitter)).status_code == 201
    assert (await api.client.get("/v1/policies/p", headers=reader)).status_code == 200
    for answer in (
        await api.client.put("/v1/policies/p", json=BODY, headers=reader),
        await api.client.patch("/v1/policies/p", json={}, headers=reader),
        await api.client.delete("/v1/policies/p", headers=reader),
        await api.client.post("/v1/policies/p/run", headers=reader),
        await api.client.post("/v1/policies/import?format=regsync", json={"config": WITH_A_REGISTRY}, headers=reader),
        await api.client.post(
            "/v1/policies/import?format=regsync", json={"config": WITH_A_REGISTRY}, headers=submitter
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")


async def _key(api: Api, scope: str) -> dict[str, str]:
    caller = Caller("tests", ScopePreset.ADMIN.scopes)
    made = await api.service.keys.create(
        name=scope, scopes=ScopePreset(scope).scopes, expires_seconds=None, caller=caller
    )
    return {"Authorization": f"Bearer {made.text}"}
