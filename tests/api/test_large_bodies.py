"""Large bodies: checked where they keep no other caller waiting, and read only for callers that are known."""

import asyncio
import threading
from typing import Any

import pytest

from app.api.errors import MOST_FIELDS
from app.api.schemas import jobs
from tests.api.conftest import Api

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
