"""What one caller may have open at once: no more plans, waits and streams than leave room for the others."""

import asyncio

import pytest

from app.api.caller_limits import MOST, CallerLimits
from app.domain.access import Caller, Scope
from app.domain.errors import TooManyError
from tests.api.conftest import Api

ONE, OTHER = (Caller(name, frozenset(Scope)) for name in ("one", "other"))


def test_a_caller_has_so_many_open_and_others_as_many() -> None:
    limits = CallerLimits()
    for _ in range(MOST["plan"]):
        limits.take(ONE, "plan")
    with pytest.raises(TooManyError, match="2 plans"):
        limits.take(ONE, "plan")
    limits.take(OTHER, "plan")
    limits.take(ONE, "events")
    limits.give_back(ONE, "plan")
    with limits.hold(ONE, "plan"), pytest.raises(TooManyError), limits.hold(ONE, "plan"):
        pass
    limits.take(ONE, "plan")


async def test_who_has_too_much_open_is_told_when_to_come_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST, "wait", 1)
    monkeypatch.setitem(MOST, "plan", 0)
    monkeypatch.setitem(MOST, "import", 0)
    job = await api.submit(source="src.example.com/app:1")
    url = f"/v1/jobs/{job['id']}"
    asked = {asyncio.create_task(api.client.get(url, params={"wait": "30s"})) for _ in range(2)}
    refused, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    [answer] = [task.result() for task in refused]
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await api.client.get(url)).status_code == 200
    await api.client.post(f"{url}/cancel")
    assert [(await task).json()["state"] for task in waiting] == ["cancelled"]
    body = {"source": "src.example.com/app:1", "destination": "dst.example.com/app"}
    assert (await api.client.post("/v1/plan", json=body)).status_code == 429
    imported = await api.client.post(
        "/v1/policies/import", params={"format": "list"}, json={"config": "a.example.com/x:1"}
    )
    assert imported.status_code == 429


async def test_the_last_key_that_may_do_everything_stays(api: Api) -> None:
    made = (await api.client.post("/v1/keys", json={"name": "root", "scope": "admin"})).json()
    api.client.headers["Authorization"] = f"Bearer {made['key']}"
    await api.client.post("/v1/keys", json={"name": "ci", "scope": "read"})
    answer = await api.client.delete(f"/v1/keys/{made['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "last_admin_key")
    other = (await api.client.post("/v1/keys", json={"name": "other", "scope": "admin"})).json()
    assert (await api.client.delete(f"/v1/keys/{made['id']}")).status_code == 204
    api.client.headers["Authorization"] = f"Bearer {other['key']}"
    assert (await api.client.get("/v1/keys")).status_code == 200
