"""How the workers are logged in, as a registry's resource and the metrics show it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, Serve
from tests.support.entra_server import APP, TENANT, EntraServer
from tests.support.fake_registry import ACR, Quirks, fake_registry
from tests.support.images import oci_image

IMAGE = oci_image("one")


async def login_of(api: Api, name: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the workers have written a login's state that is looked for."""
    async with asyncio.timeout(60):
        while True:
            shown = (await api.client.get(f"/v1/registries/{name}")).json()["state"]
            if shown and shown["login"] and is_it(shown["login"]):
                login: dict[str, Any] = shown["login"]
                return login
            await asyncio.sleep(0.1)


async def test_an_identitys_login_is_shown_with_its_end_and_never_itself(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EntraServer(tmp_path / "entra") as entra:
        entra.add_secret(APP, "s3cret")
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", entra.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(entra.ca_file))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        auth = {"type": "azure", "tenant_id": TENANT, "client_id": APP, "client_secret": "s3cret"}
        async with (
            fake_registry(ACR, accounts={APP: ""}, entra=entra.owner_of) as here,
            fake_registry() as there,
            serve(is_working=True, registry_attempts=1) as api,
        ):
            here.load("app", IMAGE, "1")
            entry = {"host": here.host, "type": "acr", "insecure": True, "auth": auth}
            await api.client.put("/v1/registries/here", json=entry)
            await api.client.put("/v1/registries/there", json={"host": there.host, "insecure": True})
            job = {"source": here.reference("app", "1"), "destination": there.host}
            done = (await api.client.post("/v1/jobs", json=job, params={"wait": "60s"})).json()
            assert done["state"] == "succeeded"

            login = await login_of(api, "here", lambda login: login["valid_until"] is not None)
            metrics = (await api.client.get("/metrics")).text
            other = (await api.client.get("/v1/registries/there")).json()["state"]

    life = datetime.fromisoformat(login["valid_until"]) - datetime.now(UTC)
    assert timedelta(hours=2) < life <= timedelta(hours=3)
    assert login == {
        "type": "azure",
        "valid_until": login["valid_until"],
        "renewing_since": None,
        "last_error": None,
    }
    assert other["login"] is None
    assert 'registry_login_valid_until_timestamp_seconds{registry="here"} 1' in metrics
    assert 'registry_login_failing{registry="here"} 0.0' in metrics


async def test_a_password_that_is_not_taken_shows_with_its_error_until_it_is(serve: Serve) -> None:
    async with (
        fake_registry(Quirks(auth="token"), accounts={"ann": "right"}) as here,
        fake_registry() as there,
        serve(is_working=True, registry_attempts=1) as api,
    ):
        here.load("app", IMAGE, "1")
        entry = {"host": here.host, "insecure": True, "trusted_hosts": ["127.0.0.1"]}
        auth = {"type": "basic", "username": "ann", "password": "hunter2"}
        await api.client.put("/v1/registries/here", json=entry | {"auth": auth})
        await api.client.put("/v1/registries/there", json={"host": there.host, "insecure": True})
        job = {"source": here.reference("app", "1"), "destination": there.host}
        failed = (await api.client.post("/v1/jobs", json=job, params={"wait": "60s"})).json()
        refused = await login_of(api, "here", lambda login: login["last_error"] is not None)
        failing = (await api.client.get("/metrics")).text

        await api.client.put("/v1/registries/here", json=entry | {"auth": auth | {"password": "right"}})
        copied = (await api.client.post("/v1/jobs", json=job, params={"wait": "60s"})).json()
        taken = await login_of(api, "here", lambda login: login["last_error"] is None)

    assert (failed["state"], copied["state"]) == ("failed", "succeeded")
    assert (refused["type"], refused["valid_until"]) == ("basic", None)
    assert (refused["last_error"]["code"], refused["last_error"]["status"]) == ("unauthorized", 401)
    assert "hunter2" not in str(refused)
    assert 'registry_login_failing{registry="here"} 1.0' in failing
    assert taken["renewing_since"] is None
