"""Jobs over HTTP: submit, list, read, wait, stop, run again, forget."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.conftest import SHORT, Api, Serve, pointers
from tests.support.waiting import until

FULL = {
    "rules": [
        {
            "source": "old.example.com/**",
            "destination": ["a.example.com/mirror/{repository}", "b.example.com"],
            "repositories": {"include": ["team-a/**"], "exclude": ["**/scratch"]},
            "tags": {"include": ["v*", r"/^release-\d+$/", "semver:>=1.2 <2"], "exclude": ["*-rc*"], "newest": 10},
            "platforms": ["linux/amd64"],
            "platform_mode": "rewrite",
        },
        {"source": "redis:7", "destination": "c.example.com/redis"},
    ],
    "options": {"overwrite": "never", "max_bytes_per_second": 1000},
    "labels": {"ticket": "OPS-1234"},
    "priority": "high",
}


async def test_a_submitted_request_is_a_job_before_it_is_answered(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/jobs", json=SHORT)

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.text.endswith("}\n")
    assert (await client.get(answer.headers["Location"])).json() == job


async def test_a_job_looks_as_the_contract_says(client: httpx.AsyncClient) -> None:
    job = (await client.post("/v1/jobs", json=SHORT | {"labels": {"ticket": "OPS-1"}})).json()

    created_at = job.pop("created_at")
    assert created_at.endswith("Z")
    assert job == {
        "id": job["id"],
        "kind": "copy",
        "state": "queued",
        "done": False,
        "cancel_requested": False,
        "trigger": {"type": "api", "event_id": None},
        "policy": None,
        "plan": None,
        "retry_of": None,
        "notify": None,
        "priority": "normal",
        "labels": {"ticket": "OPS-1"},
        "created_by": "local",
        "request": {
            "rules": [
                {
                    "source": SHORT["source"],
                    "destination": [SHORT["destination"]],
                    "repositories": {"include": [], "exclude": []},
                    "tags": {
                        "include": [],
                        "exclude": [],
                        "always": [],
                        "newest": None,
                        "newest_by": "version",
                        "min_matches": None,
                    },
                    "platforms": [],
                    "platform_mode": "auto",
                    "artifact_types": {"include": [], "exclude": []},
                    "created_since": None,
                    "min_age": None,
                    "mapping": {"strip_prefix": None, "substitute": []},
                }
            ],
            "options": {
                "referrers": True,
                "digest_tags": True,
                "companions": "always",
                "force": False,
                "overwrite": "always",
                "foreign_layers": "skip",
                "max_bytes_per_second": None,
                "fail_fast": False,
            },
        },
        "progress": {
            "images": {
                "total": 0,
                "queued": 0,
                "running": 0,
                "copied": 0,
                "planned": 0,
                "up_to_date": 0,
                "failed": 0,
                "cancelled": 0,
            },
            "blobs": {"present": 0, "mounted": 0, "transferred": 0},
            "bytes": {"total": 0, "done": 0, "to_send": 0, "transferred": 0, "per_second": 0},
            "planned": False,
        },
        "totals": {"copy": 0, "update": 0, "up_to_date": 0, "refused": 0, "failed": 0, "companions": 0},
        "selection": [],
        "explanation": None,
        "error": None,
        "warnings": [],
        "waiting_for": None,
        "started_at": None,
        "finished_at": None,
        "version": job["version"],
    }


async def test_the_full_form_is_kept_as_written(client: httpx.AsyncClient) -> None:
    job = (await client.post("/v1/jobs", json=FULL)).json()

    first, second = job["request"]["rules"]
    written: dict[str, Any] = FULL["rules"][0]  # type: ignore[index]  # made above
    assert first | written | {"tags": first["tags"] | written["tags"]} == first
    assert (second["source"], second["destination"]) == ("docker.io/library/redis:7", ["c.example.com/redis"])
    assert job["request"]["options"]["overwrite"] == "never"
    assert (job["labels"], job["priority"]) == ({"ticket": "OPS-1234"}, "high")


async def test_the_short_form_takes_everything_a_rule_has(client: httpx.AsyncClient) -> None:
    body = {"source": "a.example.com/app", "destination": "b.example.com", "tags": {"newest": 3}, "options": {}}

    [rule] = (await client.post("/v1/jobs", json=body)).json()["request"]["rules"]

    assert rule["tags"]["newest"] == 3


async def test_who_polls_and_knows_the_job_already_gets_304(client: httpx.AsyncClient) -> None:
    location = (await client.post("/v1/jobs", json=SHORT)).headers["Location"]
    first = await client.get(location)

    again = await client.get(location, headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})

    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Retry-After"] == first.headers["Retry-After"]
    await client.post(f"{location}/cancel")
    changed = await client.get(location, headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert "Retry-After" not in changed.headers


def is_waited_for(api: Api) -> bool:
    """Say whether a request that waits for a job has come."""
    return bool(api.service.database.change_feed._listeners)


async def test_waiting_ends_when_the_job_does(api: Api) -> None:
    job = await api.submit()
    waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{job['id']}", params={"wait": "30s"}))
    await until(lambda: is_waited_for(api))
    assert not waiting.done()

    await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    assert (await waiting).json()["state"] == "cancelled"


@pytest.mark.parametrize(("query", "headers"), [({"wait": "1s"}, {}), ({"wait": "1"}, {}), ({}, {"Prefer": "wait=1"})])
async def test_waiting_ends_at_the_deadline_with_the_job_as_it_is(
    api: Api, query: dict[str, str], headers: dict[str, str]
) -> None:
    job = await api.submit()
    began = asyncio.get_running_loop().time()

    answer = await api.client.get(f"/v1/jobs/{job['id']}", params=query, headers=headers)

    assert answer.json()["state"] == "queued"
    assert asyncio.get_running_loop().time() - began >= 0.9


async def test_submit_waits_too_and_is_202_while_the_job_is_not_done(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/jobs", json=SHORT, params={"wait": "1s"})

    assert answer.status_code == 202


async def test_a_process_that_stops_answers_those_who_wait(serve: Serve) -> None:
    async with serve() as api:
        job = await api.submit()
        waiting = asyncio.create_task(api.client.get(f"/v1/jobs/{job['id']}", params={"wait": "60s"}))
        await until(lambda: is_waited_for(api))
        api.stop()

        assert (await waiting).json()["state"] == "queued"


@pytest.mark.parametrize("wait", ["soon", "-1s", "1w", "1.5s"])
async def test_a_wait_that_is_no_duration_is_refused(client: httpx.AsyncClient, wait: str) -> None:
    answer = await client.get("/v1/jobs/019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708", params={"wait": wait})

    assert answer.status_code == 422
    assert pointers(answer) == {"wait": "invalid_duration"}


async def test_the_same_key_and_body_are_the_same_job(client: httpx.AsyncClient) -> None:
    first = await client.post("/v1/jobs", json=SHORT, headers={"Idempotency-Key": "one"})
    again = await client.post("/v1/jobs", json=dict(reversed(SHORT.items())), headers={"Idempotency-Key": '"one"'})
    other = await client.post("/v1/jobs", json=SHORT, headers={"Idempotency-Key": "two"})

    assert (first.headers["Idempotency-Replayed"], again.headers["Idempotency-Replayed"]) == ("false", "true")
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert again.status_code == 202


async def test_the_same_key_with_another_body_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/v1/jobs", json=SHORT, headers={"Idempotency-Key": "one"})

    answer = await client.post("/v1/jobs", json=SHORT | {"priority": "low"}, headers={"Idempotency-Key": "one"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


async def test_keys_of_two_callers_do_not_meet(api: Api) -> None:
    await api.enter("docker.io", "registry.example.com")
    admin = await api.make_key("admin")
    api.client.headers.update(admin)
    other = await api.make_key("submit")
    named = {"Idempotency-Key": "one"}

    first = await api.client.post("/v1/jobs", json=SHORT, headers=named)
    second = await api.client.post("/v1/jobs", json=SHORT, headers=named | other)

    assert first.json()["id"] != second.json()["id"]
    assert second.json()["created_by"] == "submit"


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, key: str) -> None:
    answer = await client.post("/v1/jobs", json=SHORT, headers={"Idempotency-Key": key})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")


async def test_lists_come_in_pages_newest_first_with_a_link_to_the_next(api: Api) -> None:
    ids = [(await api.submit())["id"] for _ in range(5)]

    seen: list[str] = []
    address: str | None = "/v1/jobs?limit=2"
    pages = 0
    while address:
        answer = await api.client.get(address)
        seen += [job["id"] for job in answer.json()["items"]]
        address = answer.links.get("next", {}).get("url")
        assert (address is None) == (answer.json()["next_cursor"] is None)
        pages += 1

    assert seen == ids[::-1]
    assert pages == 3


async def test_a_page_larger_than_the_largest_is_the_largest(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/jobs", params={"limit": 100_000})).status_code == 200
    refused = await client.get("/v1/jobs", params={"limit": 0})
    assert pointers(refused) == {"limit": "greater_than_equal"}


async def test_a_cursor_belongs_to_its_filter(api: Api) -> None:
    for _ in range(2):
        await api.submit()
    cursor = (await api.client.get("/v1/jobs", params={"limit": 1})).json()["next_cursor"]

    answer = await api.client.get("/v1/jobs", params={"cursor": cursor, "state": "queued"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")
    assert (await api.client.get("/v1/jobs", params={"cursor": "nonsense"})).json()["code"] == "invalid_cursor"


async def test_jobs_are_found_by_state_label_and_time(api: Api) -> None:
    first = await api.submit(labels={"team": "a:b", "tier": "1"})
    second = await api.submit()
    await api.client.post(f"/v1/jobs/{second['id']}/cancel")

    async def found(**query: str | list[str]) -> list[str]:
        answer = await api.client.get("/v1/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["items"]]

    assert await found(state="queued") == [first["id"]]
    assert await found(state="cancelled") == [second["id"]]
    assert await found(label="team:a:b") == [first["id"]]
    assert await found(label="team:other") == []
    assert await found(policy="none") == []
    assert await found(since=first["created_at"]) == [second["id"], first["id"]]
    assert await found(since="2999-01-01T00:00:00Z") == []
    assert await found(since="2999-01-01") == []
    assert await found(since="1h") == [second["id"], first["id"]]
    assert await found(until=second["created_at"]) == [first["id"]]
    assert await found(state=["queued", "cancelled"]) == [second["id"], first["id"]]
    assert await found(label=["team:a:b", "tier:1"]) == [first["id"]]
    assert await found(label=["team:a:b", "tier:2"]) == []
    assert await found(trigger="api", created_by=first["created_by"]) == [second["id"], first["id"]]
    assert await found(trigger="push") == []
    assert await found(source="docker.io/library/redis", destination="registry.example.com/") == [
        second["id"],
        first["id"],
    ]
    assert await found(q=first["id"]) == [first["id"]]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ({"state": "sleeping"}, {"state": "enum"}),
        ({"label": "no-colon"}, {"label": "invalid_label"}),
        ({"since": "yesterday"}, {"since": "invalid_time"}),
        ({"since": "2030-01-32"}, {"since": "invalid_time"}),
        ({"stat": "queued"}, {"stat": "unknown_field"}),
        ({"state": ["queued", "sleeping"]}, {"state": "enum"}),
        ({"label": ["a:b", "no-colon"]}, {"label": "invalid_label"}),
        ({"trigger": "cron"}, {"trigger": "literal_error"}),
        ({"source": ""}, {"source": "string_too_short"}),
        ({"until": "2030-01-32"}, {"until": "invalid_time"}),
        ({"since": "2030-01-02", "until": "2030-01-01"}, {"until": "empty_period"}),
    ],
)
async def test_a_wrong_filter_is_refused_by_name(
    client: httpx.AsyncClient, query: dict[str, str | list[str]], wrong: dict[str, str]
) -> None:
    answer = await client.get("/v1/jobs", params=query)

    assert answer.status_code == 422
    assert pointers(answer) == wrong


async def test_images_are_listed_in_pages_and_by_state(api: Api) -> None:
    job = await api.submit()

    answer = await api.client.get(f"/v1/jobs/{job['id']}/images", params={"state": "failed", "limit": 3})

    assert answer.json() == {"items": [], "next_cursor": None}


async def test_a_job_that_has_not_begun_is_cancelled_at_once_and_only_once(api: Api) -> None:
    job = await api.submit()

    first = await api.client.post(f"/v1/jobs/{job['id']}/cancel")
    second = await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    assert (first.json()["state"], first.json()["cancel_requested"], first.json()["done"]) == ("cancelled", True, True)


async def test_a_job_is_run_again_as_a_new_one(api: Api) -> None:
    job = await api.submit(labels={"a": "b"})
    early = await api.client.post(f"/v1/jobs/{job['id']}/retry")
    await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    answer = await api.client.post(f"/v1/jobs/{job['id']}/retry", json={"only": "all"})

    assert (early.status_code, early.json()["code"]) == (409, "job_not_finished")
    again = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{again['id']}"
    assert (again["retry_of"], again["trigger"]["type"], again["labels"]) == (job["id"], "retry", {"a": "b"})
    assert again["request"] == job["request"]


async def test_only_a_job_that_is_done_is_forgotten(api: Api) -> None:
    job = await api.submit()
    early = await api.client.delete(f"/v1/jobs/{job['id']}")
    await api.client.post(f"/v1/jobs/{job['id']}/cancel")

    answer = await api.client.delete(f"/v1/jobs/{job['id']}")

    assert (early.status_code, early.json()["code"]) == (409, "job_not_finished")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.client.get(f"/v1/jobs/{job['id']}")).status_code == 404


@pytest.mark.parametrize("job_id", ["019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708", "nonsense", "%2e%2e"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("GET", "/images"), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")],
)
async def test_a_job_that_is_not_there_is_a_404(client: httpx.AsyncClient, method: str, path: str, job_id: str) -> None:
    answer = await client.request(method, f"/v1/jobs/{job_id}{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
