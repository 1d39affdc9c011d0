"""Large bodies: checked where they keep no other caller waiting, and read only for callers that are known."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from app.api.errors import MOST_FIELDS
from app.api.schemas import jobs
from tests.api.conftest import Api, Serve

COUNT = 1_000


def rules(count: int = COUNT, **changes: object) -> dict[str, Any]:
    rule = {"destination": "dst.example.com/{name}"} | changes
    return {"rules": [{"source": f"src.example.com/team/app-{number}:v1"} | rule for number in range(count)]}


async def test_many_rules_are_checked_beside_the_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_mixture, threads = jobs._refuse_mixture, set[int]()

    def noted(value: object) -> None:
        if isinstance(value, dict):  # what was checked already comes again, as what it is
            threads.add(threading.get_ident())
        refuse_mixture(value)

    monkeypatch.setattr(jobs, "_refuse_mixture", noted)
    answer = await api.client.post("/v1/jobs", json=rules())
    assert answer.status_code == 202, answer.text
    assert threads
    assert threading.get_ident() not in threads
    job = (await api.client.get(f"/v1/jobs/{answer.json()['id']}")).json()
    assert len(job["request"]["rules"]) == COUNT
    assert (await api.client.post("/v1/jobs", json=rules(1))).status_code == 202
    assert threading.get_ident() in threads


async def test_what_is_wrong_with_many_rules_is_said_of_the_first(api: Api) -> None:
    answer = await api.client.post("/v1/jobs", json=rules(destination=[], colour="red"))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "validation_failed")
    assert 0 < len(problem["errors"]) <= MOST_FIELDS
    assert problem["errors"][0]["pointer"].startswith("/rules/0/")
    assert "things are wrong, among them: /rules/0/" in problem["detail"]
    broken = await api.client.post(
        "/v1/jobs", content=b"{" + b" " * 100_000, headers={"Content-Type": "application/json"}
    )
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_json")
    deep = await api.client.post("/v1/jobs", content=b"[" * 400_000, headers={"Content-Type": "application/json"})
    assert (deep.status_code, deep.json()["code"]) == (400, "malformed_json")
    text = await api.client.post("/v1/jobs", content=b"a" * 100_000, headers={"Content-Type": "text/plain"})
    assert text.status_code == 415


async def test_hosts_that_are_refused_are_said_of_the_first(api: Api) -> None:
    answer = await api.client.post("/v1/jobs", json=rules(destination="127.0.0.1/{name}"))
    assert answer.json()["code"] == "host_not_allowed"
    assert len(answer.json()["errors"]) <= MOST_FIELDS
    assert answer.json()["errors"][0]["pointer"] == "/rules/0/destination"


async def test_who_is_not_known_is_answered_before_the_body_is_read(api: Api) -> None:
    await api.make_key("admin")
    host, port = api.client.base_url.host, api.client.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    lines = (
        "POST /v1/jobs HTTP/1.1",
        "Host: here",
        "Content-Type: application/json",
        "Content-Length: 900000",
        "",
        "{",
    )
    writer.write("\r\n".join(lines).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 401")
    writer.close()


def said_by_kubectl(size: int) -> str:
    """Write pods as `kubectl get pods -A -o json` does, of at least so many bytes, with 50 images in all."""

    def pod(number: int) -> dict[str, Any]:
        variables = [{"name": f"VARIABLE_{place}", "value": f"value {place}"} for place in range(40)]
        container = {"name": "main", "image": f"registry.example.com/app-{number % 50}:v1", "env": variables}
        return {"metadata": {"name": f"pod-{number}", "uid": f"{number:032}"}, "spec": {"containers": [container]}}

    one = len(json.dumps(pod(0), indent=4))
    items = [pod(number) for number in range(size // one + 1)]
    return json.dumps({"apiVersion": "v1", "items": items, "kind": "List"}, indent=4)


IMPORT = {"format": "kubernetes", "destination": "b.example.com", "dry_run": "true"}


@pytest.mark.parametrize("media_type", ["text/plain", "application/json"])
async def test_a_cluster_of_some_thousand_pods_is_imported_beside_the_loop(api: Api, media_type: str) -> None:
    content, waits, is_done = said_by_kubectl(20 * 1024 * 1024), list[float](), asyncio.Event()

    async def beside() -> None:
        while not is_done.is_set():
            began = time.monotonic()
            await asyncio.sleep(0.01)
            waits.append(time.monotonic() - began)

    watch, began = asyncio.create_task(beside()), time.monotonic()
    answer = await api.client.post(
        "/v1/policies/import", params=IMPORT, content=content, headers={"Content-Type": media_type}
    )
    seconds = time.monotonic() - began
    is_done.set()
    await watch
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["policies"][0]["rules"]) == 50
    assert max(waits) < seconds / 2, f"the loop stood for {max(waits):.2f} of {seconds:.2f} seconds"


async def test_imports_take_what_the_settings_allow_and_other_bodies_stay_short(serve: Serve) -> None:
    content = said_by_kubectl(2 * 1024 * 1024)
    headers = {"Content-Type": "text/plain"}

    async def imported(api: Api, text: str = content) -> int:
        return (await api.client.post("/v1/policies/import", params=IMPORT, content=text, headers=headers)).status_code

    async with serve() as api:
        assert await imported(api) == 200
        other = await api.client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
        assert (other.status_code, other.json()["code"]) == (413, "payload_too_large")
    async with serve(max_import_bytes=1024 * 1024) as api:
        assert await imported(api) == 413
    async with serve(max_import_bytes=1024, max_body_bytes=4 * 1024 * 1024) as api:
        assert await imported(api) == 200
