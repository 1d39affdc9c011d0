"""The service itself: health, metrics, headers, the documentation page, and problems nobody asked for."""

import asyncio
import json
import re
import sqlite3
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.store.db.database import Database
from tests.api.conftest import SHORT, Api, Serve
from tests.conftest import Namespace
from tests.support.images import oci_image


async def test_alive_and_ready_are_two_things(api: Api) -> None:
    file = api.settings.database_url.partition(":///")[2]
    assert (await api.client.get("/readyz")).json() == {"status": "ready", "unreadable_secrets": 0}

    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
        database.execute("DELETE FROM alembic_version")
    database.close()

    unready = await api.client.get("/readyz")
    assert (unready.status_code, unready.json()["code"]) == (503, "schema_outdated")
    assert "registry-sync migrate" in unready.json()["detail"]
    assert (await api.client.get("/healthz")).json() == {"status": "alive"}


async def test_a_database_that_is_gone_is_a_503_that_says_no_more_than_that(serve: Serve) -> None:
    gone = "postgresql+asyncpg://me:hunter22@127.0.0.1:1/x"
    async with serve(database_url=gone) as api:
        for path in ("/readyz", "/v1/jobs", "/v1/registries", "/metrics"):
            answer = await api.client.get(path)

            assert (answer.status_code, answer.json()["code"]) == (503, "database_unreachable"), path
            assert answer.headers["Retry-After"]
            assert "127.0.0.1" not in answer.text
            assert "hunter22" not in answer.text
        assert (await api.client.get("/healthz")).status_code == 200


async def test_what_nobody_foresaw_is_a_500_with_an_id_to_find_it_by(
    api: Api, logged: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("canary in the cellar")

    monkeypatch.setattr(api.service.database, "check_schema", broken)

    answer = await api.client.get("/readyz", headers={"X-Request-Id": "find-me"})

    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "find-me"
    assert "canary" not in answer.text
    [event] = [event for event in events(logged) if event["event"] == "unexpected_error"]
    assert event["request_id"] == "find-me"
    assert "canary in the cellar" in event["exception"]


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", "ä"])
async def test_a_request_id_that_is_none_is_replaced(api: Api, given: str) -> None:
    answer = await api.client.get("/healthz", headers={b"X-Request-Id": given.encode()})

    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-Id"])


async def test_metrics_are_labelled_by_route_and_never_by_repository(api: Api) -> None:
    await api.submit(source="canary.example.com/canary/app:1")
    await api.client.get("/v1/jobs/019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708")
    await api.client.request("CANARY", "/canary")

    answer = await api.client.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "canary" not in answer.text.lower()
    assert 'registry_sync_http_requests_total{code="202",method="POST",route="/v1/jobs"}' in answer.text
    assert 'route="/v1/jobs/{job_id}"' in answer.text
    assert 'registry_sync_jobs{state="queued"} 1.0' in answer.text
    assert "registry_sync_queue_depth 1.0" in answer.text


async def test_what_a_job_came_to_is_counted_once(serve: Serve, source: Namespace, destination: Namespace) -> None:
    image = oci_image("counted")
    source.push("app", image, "1")
    async with serve(is_working=True) as api:
        for name, side in (("counted-from", source), ("counted-to", destination)):
            await api.client.put(f"/v1/registries/{name}", json={"host": side.host, "insecure": True})
        before = metrics((await api.client.get("/metrics")).text)

        job = await api.client.post(
            "/v1/jobs",
            params={"wait": "30s"},
            json={"source": source.reference("app", "1"), "destination": destination.reference("app")},
        )

        assert (job.status_code, job.json()["state"]) == (200, "succeeded"), job.text
        after = metrics((await api.client.get("/metrics")).text)
    progress = job.json()["progress"]
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['registry_sync_jobs_finished_total{state="succeeded"}'] == 1
    assert grown['registry_sync_job_duration_seconds_count{state="succeeded"}'] == 1
    assert grown['registry_sync_images_total{state="copied"}'] == 1
    assert grown['registry_sync_blobs_total{result="transferred"}'] == progress["blobs"]["transferred"] > 0
    assert grown["registry_sync_transferred_bytes_total"] == progress["bytes"]["transferred"] > 0
    assert grown['registry_sync_registry_requests_total{code="201",method="PUT",registry="counted-to"}'] > 0
    assert grown['registry_sync_registry_requests_total{code="200",method="GET",registry="counted-from"}'] > 0
    assert grown['registry_sync_registry_bytes_total{direction="received",registry="counted-from"}'] > 0
    assert (
        grown['registry_sync_registry_bytes_total{direction="sent",registry="counted-to"}']
        == (progress["bytes"]["transferred"])
    )
    assert grown['registry_sync_registry_request_seconds_total{method="PUT",registry="counted-to"}'] > 0


async def test_how_policies_stand_is_told_and_no_more_once_they_are_gone(
    serve: Serve, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("drift"), "1")
    async with serve(is_working=True) as api:
        for name, side in (("drift-from", source), ("drift-to", destination)):
            await api.client.put(f"/v1/registries/{name}", json={"host": side.host, "insecure": True})
        for name, tag in (("good", "1"), ("bad", "2")):
            rules = [{"source": source.reference("app", tag), "destination": destination.reference("app")}]
            await api.client.put(f"/v1/policies/{name}", json={"rules": rules})
            job = (await api.client.post(f"/v1/policies/{name}/run")).json()
            await api.client.get(f"/v1/jobs/{job['id']}", params={"wait": "30s"})
        told = metrics((await api.client.get("/metrics")).text)
        await api.client.delete("/v1/policies/bad")
        after = metrics((await api.client.get("/metrics")).text)
    assert told['registry_sync_policy_last_run_state{policy="good",state="succeeded"}'] == 1
    assert told['registry_sync_policy_last_run_state{policy="bad",state="failed"}'] == 1
    assert told['registry_sync_policy_drift_images{policy="good"}'] == 0
    assert told['registry_sync_policy_drift_images{policy="bad"}'] == 1
    assert told['registry_sync_policy_last_success_timestamp_seconds{policy="good"}'] > 0
    assert 'registry_sync_policy_last_success_timestamp_seconds{policy="bad"}' not in told
    assert told["registry_sync_workers"] == 1
    assert told["registry_sync_queue_oldest_seconds"] == told["registry_sync_deliveries_pending"] == 0
    assert not [name for name in after if 'policy="bad"' in name]


async def test_the_access_log_has_the_route_and_no_query(api: Api, logged: StringIO) -> None:
    await api.client.get("/v1/jobs?label=canary:canary")
    await api.client.get("/canary?canary=1")

    requests = [event for event in events(logged) if event["event"] == "http_request"]

    assert [event["route"] for event in requests] == ["/v1/jobs", "(none)"]
    assert requests[0]["status"] == 200
    assert requests[0]["caller"] == "local"
    assert "canary" not in json.dumps(requests)


async def test_health_checks_do_not_fill_the_log(api: Api, logged: StringIO) -> None:
    await api.client.get("/healthz")

    assert [event["level"] for event in events(logged) if event["event"] == "http_request"] == ["debug"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/healthz", "/docs", "/nothing"])
async def test_every_answer_keeps_browsers_careful(api: Api, path: str) -> None:
    headers = (await api.client.get(path, headers={"Origin": f"http://{api.client.base_url.netloc.decode()}"})).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src" in headers["Content-Security-Policy"]
    assert not [name for name in headers if name.startswith("access-control-")]
    assert "server" not in headers


async def test_nothing_is_cached_by_accident(api: Api) -> None:
    job = await api.submit()

    assert (await api.client.get("/v1/jobs")).headers["Cache-Control"] == "no-store"
    assert (await api.client.get(f"/v1/jobs/{job['id']}")).headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs", "/v1/registries", "/openapi.json", "/docs"])
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    get, head = await api.client.get(path), await api.client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/jobs", "GET, HEAD, POST"),
        ("POST", "/v1/registries/hub", "DELETE, GET, HEAD, PATCH, PUT"),
        ("OPTIONS", "/v1/jobs", "GET, HEAD, POST"),
        ("QUERY", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("HEAD", "/v1/jobs/019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708/events", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_there_is_told_with_those_that_are(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await api.client.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == allowed
    assert method == "HEAD" or answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/jobs/", "/v2/jobs", "/docs/static/../../etc/passwd"])
async def test_a_path_that_is_not_there_is_a_404_and_never_a_redirect(api: Api, path: str) -> None:
    answer = await api.client.post(path, json=SHORT)

    assert answer.status_code in {404, 405}
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_the_documentation_page_loads_nothing_from_elsewhere(api: Api) -> None:
    page = (await api.client.get("/docs")).text

    loaded = re.findall(r"(?:src|href|url)\s*[=:]\s*['\"]([^'\"]+)", page)
    assert loaded
    for address in loaded:
        assert address.startswith("/"), address
        assert (await api.client.get(address)).status_code == 200, address
    assert "://" not in re.sub(r"https?://(www\.)?w3\.org\S*", "", page)


async def test_the_contract_is_served(api: Api, project: Path) -> None:
    assert (await api.client.get("/openapi.json")).json() == json.loads(
        (project / "openapi" / "openapi.json").read_text()
    )


async def test_the_contract_is_sent_again_only_where_it_is_another(api: Api) -> None:
    first = await api.client.get("/openapi.json")
    again = await api.client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await api.client.head("/openapi.json")).headers["Content-Length"] == str(len(first.content))


async def test_a_caller_that_leaves_does_no_harm(api: Api) -> None:
    job = await api.submit()

    with pytest.raises(httpx.ReadTimeout):
        await api.client.get(f"/v1/jobs/{job['id']}", params={"wait": "30s"}, timeout=0.2)
    await asyncio.sleep(0.1)

    assert (await api.client.get(f"/v1/jobs/{job['id']}")).status_code == 200
    assert isinstance(api.service.database, Database)


def metrics(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def events(logged: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged.getvalue().splitlines()]
