"""When certificates and passwords end: in a registry's resource, on the console's page, in the metrics."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.console.formatting import days_left
from tests.api.conftest import Api, Serve, pointers
from tests.support.fake_registry import Quirks, fake_registry
from tests.support.images import oci_image


async def certificate_end(api: Api, name: str) -> datetime:
    """Wait until a worker has written when a certificate ends."""
    async with asyncio.timeout(60):
        while True:
            state = (await api.client.get(f"/v1/registries/{name}")).json()["state"]
            if state and state["certificate_ends_at"]:
                return datetime.fromisoformat(state["certificate_ends_at"])
            await asyncio.sleep(0.1)


async def test_days_left_are_shown_of_a_certificate_and_a_password(serve: Serve) -> None:
    ends_at = datetime.now(UTC) + timedelta(days=30, hours=1)
    async with fake_registry(Quirks(), tls=True) as here, fake_registry() as there, serve(is_working=True) as api:
        here.load("app", oci_image("one"), "1")
        entry = {
            "host": here.host,
            "tls": {"ca": here.ca_file.read_text() if here.ca_file else ""},
            "login_expires_at": ends_at.isoformat(),
        }
        put = await api.client.put("/v1/registries/here", json=entry)
        assert datetime.fromisoformat(put.json()["login_expires_at"]) == ends_at
        await api.client.put("/v1/registries/there", json={"host": there.host, "insecure": True})
        job = {"source": here.reference("app", "1"), "destination": there.host}
        done = (await api.client.post("/v1/jobs", json=job, params={"wait": "60s"})).json()
        assert done["state"] == "succeeded"
        certificate = await certificate_end(api, "here")
        page = (await api.client.get("/console/registries", headers={"Accept": "text/html"})).text
        metrics = (await api.client.get("/metrics")).text
        plain = (await api.client.get("/v1/registries/there")).json()
    left = certificate - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(days=1)
    assert "certificate in 0 days" in page
    assert "login in 30 days" in page
    assert (plain["login_expires_at"], plain["state"]["certificate_ends_at"]) == (None, None)
    for name in ("certificate_expires", "login_expires"):
        assert f'registry_sync_registry_{name}_timestamp_seconds{{registry="here"}} 1' in metrics


async def test_an_end_needs_a_zone_and_goes_with_what_is_put(client: httpx.AsyncClient) -> None:
    entry = {"host": "r.example.com"}
    wrong = await client.put("/v1/registries/r", json=entry | {"login_expires_at": "2030-01-01T00:00:00"})
    assert (wrong.status_code, set(pointers(wrong))) == (422, {"/login_expires_at"})
    ended = entry | {"login_expires_at": "2020-01-01T00:00:00Z"}
    assert (await client.put("/v1/registries/r", json=ended)).status_code == 201
    assert "login ended" in (await client.get("/console/registries")).text
    again = await client.put("/v1/registries/r", json=(await client.get("/v1/registries/r")).json())
    assert again.json()["login_expires_at"] == "2020-01-01T00:00:00Z"
    gone = await client.put("/v1/registries/r", json=entry)
    assert gone.json()["login_expires_at"] is None


@pytest.mark.parametrize(("hours", "days"), [(49, 2), (23, 0), (0.1, 0), (-1, -1), (-25, -2)])
def test_days_are_whole_and_below_zero_once_passed(hours: float, days: int) -> None:
    assert days_left(datetime.now(UTC) + timedelta(hours=hours)) == days
