"""A sealed secret that no key opens: its entry's images fail, readiness and metrics say so, and all else goes on."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.clock import now
from app.domain.push_event import HookSettings
from app.domain.registry import BasicAuth, RegistryEntry
from app.security import Sealer
from app.store.registries import RegistryStore
from tests.api.conftest import Api, Serve
from tests.support.fake_registry import FakeRegistry, fake_registry
from tests.support.images import oci_image

SECRET = "s3cret-of-a-hook"
LOST = Sealer([Sealer.make_key()])
HOOK = HookSettings.model_validate({"format": "distribution", "auth": {"type": "header", "secret": SECRET}})


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as registry:
        registry.load("team/app", oci_image("one"), "1")
        yield registry


@pytest.fixture
async def api(serve: Serve, registry: FakeRegistry) -> AsyncIterator[Api]:
    """Serve the application with a worker, one good registry, and one with a secret that no key opens."""
    async with serve(is_working=True, registry_attempts=1) as api:
        (await api.client.put("/v1/registries/good", json={"host": registry.host, "insecure": True})).raise_for_status()
        auth = BasicAuth(username="ann", password=SecretStr("password"))
        lost = RegistryEntry(name="lost", host="lost.example.com", auth=auth, hook=HOOK)
        async with api.service.database.transaction() as session:
            await RegistryStore(session, LOST).put(lost, now=now())
        yield api


async def run(api: Api, source: str, destination: str) -> tuple[str, list[dict[str, Any]]]:
    body = {"source": source, "destination": destination}
    job = (await api.client.post("/v1/jobs", params={"wait": "60s"}, json=body)).json()
    return job["state"], (await api.client.get(f"/v1/jobs/{job['id']}/images")).json()["items"]


async def test_an_entry_that_cant_be_opened_stops_no_job_of_others(api: Api, registry: FakeRegistry) -> None:
    state, (image,) = await run(api, f"{registry.host}/team/app:1", f"{registry.host}/mirror/app")
    assert (state, image["state"]) == ("succeeded", "copied")

    for source, destination in (
        (f"{registry.host}/team/app:1", "lost.example.com/team/app"),
        ("lost.example.com/team/app:1", f"{registry.host}/mirror/app"),
    ):
        state, (image,) = await run(api, source, destination)
        assert (state, image["error"]["code"]) == ("failed", "secret_unreadable"), image
        assert "lost" in image["error"]["message"]


async def test_readiness_and_a_metric_say_so_until_it_is_entered_again(api: Api) -> None:
    assert (await api.client.get("/readyz")).json() == {"status": "ready", "unreadable_secrets": 1}
    assert 'registry_sync_secret_unreadable{registry="lost"} 1.0' in (await api.client.get("/metrics")).text
    (step,) = (await api.client.post("/v1/registries/lost/check")).json()["steps"]
    assert step["error"]["code"] == "secret_unreadable"

    auth = {"type": "basic", "username": "ann", "password": "again"}
    (await api.client.put("/v1/registries/lost", json={"host": "lost.example.com", "auth": auth})).raise_for_status()

    assert (await api.client.get("/readyz")).json() == {"status": "ready", "unreadable_secrets": 0}
    assert "registry_sync_secret_unreadable{" not in (await api.client.get("/metrics")).text


async def test_a_hook_needs_no_more_than_its_own_secret(api: Api) -> None:
    async def push() -> httpx.Response:
        return await api.client.post("/v1/hooks/half", json={"events": []}, headers={"Authorization": SECRET})

    sealer = api.service.registries._sealer
    half = RegistryEntry(
        name="half", host="half.example.com", auth=BasicAuth(username="ann", password=SecretStr("x")), hook=HOOK
    )
    async with api.service.database.transaction() as session:
        store = RegistryStore(session, sealer)
        await store.put(half, now=now())
        assert await store.list_unreadable() == ("lost",)
    assert (await push()).status_code in {200, 202}
    await make_password_unreadable(api)
    assert (await push()).status_code in {200, 202}


async def make_password_unreadable(api: Api) -> None:
    """Put a password in place that another key has sealed."""
    token = LOST.seal("x", context="registry/half/auth.password")
    statement = "UPDATE registries SET secrets = json_set(secrets, '$.\"auth.password\"', ?) WHERE name = 'half'"
    async with api.service.database.transaction() as session:
        await (await session.connection()).exec_driver_sql(statement, (token,))
    async with api.service.database.reading() as session:
        store = RegistryStore(session, api.service.registries._sealer)
        assert await store.list_unreadable() == ("half", "lost")
