"""Jobs and policies of before a change of what hosts without an entry may be reached: the worker asks them nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.conftest import Serve
from tests.support.fake_registry import FakeRegistry, fake_registry
from tests.support.images import oci_image


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as registry:
        registry.load("team/app", oci_image("one"), "1")
        yield registry


async def test_a_job_of_before_the_setting_changed_is_refused_by_the_worker(
    serve: Serve, registry: FakeRegistry
) -> None:
    body: dict[str, Any] = {"source": f"{registry.host}/team/app:1", "destination": "quay.io/team/app"}
    async with serve(unregistered_hosts=("allow",)) as api:
        (await api.client.put("/v1/registries/here", json={"host": registry.host, "insecure": True})).raise_for_status()
        (await api.client.put("/v1/policies/out", json={"rules": [body]})).raise_for_status()
        jobs = [await api.submit(**body), (await api.client.post("/v1/policies/out/run")).json()]
    async with serve(is_working=True, unregistered_hosts=("deny",), registry_attempts=1) as api:
        run = await api.client.post("/v1/policies/out/run")
        if run.status_code != 422:
            jobs.append(run.json())
        for job in jobs:
            ended = (await api.client.get(f"/v1/jobs/{job['id']}", params={"wait": "60s"})).json()
            [image] = (await api.client.get(f"/v1/jobs/{job['id']}/images")).json()["items"]
            assert (ended["state"], image["error"]["code"]) == ("failed", "host_not_allowed"), image
            assert "quay.io is not registered" in image["error"]["message"]
