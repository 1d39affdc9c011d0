"""Jobs beside trouble: what can't be planned or copied is a row of its own, and all the rest arrives."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.conftest import Api, Serve, pointers
from tests.support.fake_registry import FakeRegistry, Respond, TooMany, fake_registry, on
from tests.support.images import oci_image
from tests.support.processes import free_port

IMAGE = oci_image("one")
GOOD = [f"team/app-{number}" for number in range(6)]


@pytest.fixture
async def here() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as registry:
        for name in GOOD:
            registry.load(name, IMAGE, "1")
        yield registry


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as registry:
        yield registry
        registry.check()


@pytest.fixture
async def working(serve: Serve, here: FakeRegistry, there: FakeRegistry) -> AsyncIterator[Api]:
    """Serve the application with a worker and both registries entered."""
    async with serve(is_working=True, registry_attempts=1) as api:
        for name, host in (("here", here.host), ("there", there.host)):
            entered = await api.client.put(f"/v1/registries/{name}", json={"host": host, "insecure": True})
            assert entered.status_code == 201
        yield api


async def run(api: Api, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Submit rules and return the job at its end."""
    submitted = await api.client.post("/v1/jobs", json={"rules": rules, **more})
    assert submitted.status_code == 202, submitted.text
    return await ended(api, submitted.json()["id"])


async def ended(api: Api, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = (await api.client.get(f"/v1/jobs/{job_id}", params={"wait": "60s"})).json()
    assert job["done"], job
    return job


async def images(api: Api, job: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.client.get(f"/v1/jobs/{job['id']}/images", params=query)).json()["items"]
    return found


def arrived(there: FakeRegistry, *names: str) -> bool:
    return all(there.content.tags(name) == {"1": IMAGE.digest} for name in names)


async def test_a_repository_that_was_renamed_upstream_is_a_row_and_a_retry_lists_it_again(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    rules = [{"source": here.reference(name), "destination": there.host} for name in (*GOOD, "renamed/away")]
    job = await run(working, *rules)
    assert (job["state"], job["progress"]["images"]["copied"], job["progress"]["images"]["failed"]) == ("failed", 6, 1)
    assert arrived(there, *GOOD)
    [row] = await images(working, job, state="failed")
    assert (row["kind"], row["rule"], row["source"]) == ("listing", 6, here.reference("renamed/away"))
    assert (row["error"]["code"], row["error"]["side"]) == ("repository_missing", "source")
    assert job["error"]["code"] == "images_failed"
    assert [(count["kind"], count["code"], count["count"]) for count in job["error"]["failures"]] == [
        ("listing", "repository_missing", 1)
    ]

    here.load("renamed/away", IMAGE, "1")
    asked = len(here.journal)
    retried = (await working.client.post(f"/v1/jobs/{job['id']}/retry")).json()
    again = await ended(working, retried["id"])
    assert (again["state"], again["progress"]["images"]["total"]) == ("succeeded", 1)
    assert arrived(there, "renamed/away")
    assert here.journal.table(since=asked)["GET tags"] == 1


async def test_one_repository_without_rights_does_not_keep_the_others(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.faults.add(Respond(403), matching=on("tags", repository="team/app-3"), times=None)
    job = await run(working, {"source": f"{here.host}/**", "destination": there.host})
    assert job["state"] == "failed"
    assert arrived(there, *(name for name in GOOD if name != "team/app-3"))
    [row] = await images(working, job, state="failed")
    assert (row["kind"], row["source"], row["error"]["code"]) == ("listing", here.reference("team/app-3"), "denied")


async def test_a_second_host_that_is_dead_does_not_keep_the_first(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    await working.client.put("/v1/registries/dead", json={"host": dead, "insecure": True})
    job = await run(
        working,
        {"source": f"{dead}/team/**", "destination": there.host},
        {"source": f"{here.host}/**", "destination": there.host},
    )
    assert arrived(there, *GOOD)
    [row] = await images(working, job, state="failed")
    assert (row["source"], row["error"]["code"]) == (f"{dead}/team/**", "registry_unreachable")
    assert row["error"]["temporary"]


async def test_a_flattened_name_that_collides_is_refused_and_the_first_arrives(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("team/other/app-0", oci_image("other"), "1", "2")
    job = await run(working, {"source": f"{here.host}/**", "destination": f"{there.host}/flat/{{name}}"})
    assert arrived(there, *(f"flat/{name.partition('/')[2]}" for name in GOOD[1:]))
    assert there.content.tags("flat/app-0") == {"1": IMAGE.digest, "2": oci_image("other").digest}
    [row] = await images(working, job, state="failed")
    assert (row["kind"], row["rule"], row["error"]["code"]) == ("refused", 0, "destination_conflict")
    assert (row["source"], row["destination"]) == (
        here.reference("team/other/app-0", "1"),
        there.reference("flat/app-0", "1"),
    )


async def test_with_fail_fast_nothing_is_copied_of_what_cant_be_planned_whole(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    rules = [{"source": here.reference(name), "destination": there.host} for name in (*GOOD, "renamed/away")]
    job = await run(working, *rules, options={"fail_fast": True})
    assert (job["state"], job["error"]["code"]) == ("failed", "repository_missing")
    assert there.content.repositories == {}


async def test_what_lists_hold_and_images_lack_is_told_in_warnings(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("Team/App", IMAGE, "1")
    job = await run(
        working,
        {"source": f"{here.host}/**", "destination": there.host},
        {"source": f"{here.host}/nothing/**", "destination": there.host},
    )
    assert job["state"] == "succeeded"
    assert [(told["code"], told["count"], told["first"], told["rule"]) for told in job["warnings"]] == [
        ("repository_unusable", 1, [f"{here.host}/Team/App"], 0),
        ("no_match", 1, [f"{here.host}/nothing/**"], 1),
    ]
    assert "Team/App" in job["warnings"][0]["message"]


async def test_an_hours_pause_is_waited_for_shown_everywhere_and_ended_by_a_cancel(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.faults.add(TooMany("3600"), matching=on("manifest", repository="team/app-3"), times=None)
    submitted = await working.client.post("/v1/jobs", json={"source": f"{here.host}/**", "destination": there.host})
    job = submitted.json()
    async with asyncio.timeout(60):
        while job["waiting_for"] is None:
            job = (await working.client.get(f"/v1/jobs/{job['id']}", params={"wait": "1s"})).json()
    assert (job["state"], job["progress"]["images"]["failed"]) == ("running", 0)
    assert job["waiting_for"]["registry"] == here.host
    assert "429" in job["waiting_for"]["reason"] or "3600" in job["waiting_for"]["reason"]

    state = None
    async with asyncio.timeout(60):
        while state is None or state["paused_until"] is None:
            shown = await working.client.get("/v1/registries/here")
            state = shown.json()["state"]
            await asyncio.sleep(0.1)
    paused = datetime.fromisoformat(state["paused_until"]) - datetime.now(UTC)
    assert timedelta(minutes=55) < paused <= timedelta(hours=1)
    assert (state["last_error"]["code"], state["in_flight"]) == ("rate_limited", 0)
    assert "429" in state["reason"]
    assert (await working.client.get("/v1/registries")).json()["items"][0]["state"]["reason"] == state["reason"]
    etag = shown.headers["ETag"]
    changed = await working.client.patch(
        "/v1/registries/here", json={"limits": {"connections": 3}}, headers={"If-Match": etag}
    )
    assert changed.status_code == 200
    metrics = (await working.client.get("/metrics")).text
    assert 'registry_sync_registry_paused_until_timestamp_seconds{registry="here"} 1' in metrics
    assert 'registry_sync_registry_last_error_timestamp_seconds{code="rate_limited",registry="here"} 1' in metrics

    await working.client.post(f"/v1/jobs/{job['id']}/cancel")
    cancelled = await ended(working, job["id"])
    assert (cancelled["state"], cancelled["waiting_for"]) == ("cancelled", None)


async def test_a_failed_image_tells_what_was_done_step_by_step(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.faults.add(Respond(400), matching=on("manifest", method="PUT"), times=None)
    job = await run(working, {"source": here.reference(GOOD[0], "1"), "destination": there.host})
    [image] = await images(working, job)
    answer = await working.client.get(f"/v1/jobs/{job['id']}/images/{image['id']}/log")
    assert answer.status_code == 200, answer.text
    steps = answer.json()["steps"]
    assert [step["event"] for step in steps] == [
        "compared",
        *["blob_transferred"] * (len(steps) - 2),
        "attempt_failed",
    ]
    assert {step["details"]["digest"] for step in steps[1:-1]} == {blob.digest for blob in IMAGE.blobs}
    assert steps[-1]["details"]["code"] == "manifest_rejected"
    for unknown in (f"{job['id']}-7", "nothing", f"{job['id']}-²"):
        assert (await working.client.get(f"/v1/jobs/{job['id']}/images/{unknown}/log")).status_code == 404


async def test_an_image_that_arrived_has_an_empty_log(working: Api, here: FakeRegistry, there: FakeRegistry) -> None:
    job = await run(working, {"source": here.reference(GOOD[0], "1"), "destination": there.host})
    [image] = await images(working, job)
    assert (await working.client.get(f"/v1/jobs/{job['id']}/images/{image['id']}/log")).json() == {"steps": []}


async def refusals(api: Api, *rules: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Return which rule's sources are refused and for what, as a preview, a plan and then a job say alike."""
    preview = await api.client.post("/v1/plan", json={"rules": rules})
    assert preview.status_code == 200, preview.text
    plan, job = await run(api, *rules, dry_run=True), await run(api, *rules)
    assert (plan["error"] or job["error"])["code"] == "images_failed"
    said = [
        [(row["rule"], row["source"], row["error"]["code"]) for row in rows if row["kind"] == "refused"]
        for rows in (preview.json()["images"], await images(api, plan), await images(api, job))
    ]
    assert said[0] == said[1] == said[2]
    return said[0]


async def test_names_that_grow_too_long_on_the_way_are_rows_and_the_rest_arrives(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("team/long", IMAGE, "1")
    growing = [
        {"pattern": "^(team/long)$", "replacement": r"\1" * 256},
        {"pattern": "^team/long.*", "replacement": "x"},
    ]
    rule = {"source": f"{here.host}/**", "destination": there.host, "mapping": {"substitute": growing}}
    assert await refusals(working, rule) == [(0, here.reference("team/long", "1"), "invalid_destination")]
    assert arrived(there, *GOOD)


async def test_a_tag_of_which_nothing_is_left_is_a_row_and_the_rest_arrives(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("team/app-0", IMAGE, "2")
    emptied = [{"on": "tag", "pattern": "2", "replacement": ""}]
    rule = {"source": f"{here.host}/**", "destination": there.host, "mapping": {"substitute": emptied}}
    assert await refusals(working, rule) == [(0, here.reference("team/app-0", "2"), "invalid_destination")]
    assert arrived(there, *GOOD)
    named = await working.client.post("/v1/jobs", json={**rule, "source": here.reference("team/app-0", "2")})
    assert pointers(named) == {"/mapping/substitute": "invalid_tag"}


async def test_where_a_word_comes_to_nothing_the_place_is_the_first_sources_all_the_same(
    working: Api, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("a", IMAGE, "1")
    here.load("nons", oci_image("two"), "1")
    first, second = (
        {"source": f"{here.host}/**", "destination": destination, "repositories": {"include": [name]}}
        for name, destination in (("a", there.host), ("nons", f"{there.host}/a/{{namespace}}"))
    )
    assert await refusals(working, first, second) == [(1, here.reference("nons", "1"), "destination_conflict")]
    assert arrived(there, "a")
