"""GET, edit, PUT: what answers show comes back edited, and nothing of it has to be taken out by hand."""

from typing import Any

import pytest

from tests.api.conftest import Api

REGISTRY = {
    "host": "old.example.com",
    "auth": {"type": "basic", "username": "puller", "password": "open sesame"},
    "hook": {"format": "harbor", "auth": {"type": "header", "secret": "a-long-random-secret"}},
}
POLICY = {"rules": [{"source": "old.example.com/app", "destination": "new.example.com/app"}]}
SUBSCRIPTION = {"url": "https://ci.example.com/hook"}


@pytest.mark.parametrize(
    ("path", "body", "change"),
    [
        ("/v1/registries/old", REGISTRY, {"limits": {"connections": 4}}),
        ("/v1/policies/old", POLICY, {"enabled": False}),
        ("/v1/subscriptions/ci", SUBSCRIPTION, {"enabled": False}),
    ],
    ids=["registry", "policy", "subscription"],
)
async def test_what_is_shown_can_be_put_back_edited(api: Api, path: str, body: Any, change: dict[str, Any]) -> None:
    assert (await api.client.put(path, json=body)).status_code == 201
    shown = (await api.client.get(path)).json()
    back = await api.client.put(path, json=shown | change)
    assert back.status_code == 200, back.text
    now = (await api.client.get(path)).json()
    (name,) = change
    assert now[name] != shown[name]
    assert now["version"] == shown["version"] + 1
    late = await api.client.put(path, json=shown)
    assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    assert (await api.client.put(path, json=shown | {"version": now["version"]})).status_code == 200
    assert (await api.client.put(path, json=shown | {"versoin": 1})).status_code == 422


async def test_a_registry_in_use_stays_unless_it_is_forced(api: Api) -> None:
    await api.client.put("/v1/registries/old", json=REGISTRY)
    await api.client.put("/v1/policies/nightly", json=POLICY)
    answer = await api.client.delete("/v1/registries/old")
    assert (answer.status_code, answer.json()["code"]) == (409, "registry_in_use")
    assert "nightly" in answer.json()["detail"]
    await api.client.put("/v1/registries/part", json={"host": "old.example.com/part"})
    assert (await api.client.delete("/v1/registries/part")).status_code == 204
    assert (await api.client.delete("/v1/registries/old?force=true")).status_code == 204
    assert (await api.client.delete("/v1/registries/old?forse=true")).status_code == 422
