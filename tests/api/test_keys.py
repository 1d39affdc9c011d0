"""API keys over HTTP: made, shown once, listed, revoked."""

from datetime import datetime

import httpx
import pytest

from app.security import read_api_key
from tests.api.conftest import SHORT, Api, pointers


async def test_a_key_is_shown_once_and_never_again(api: Api) -> None:
    made = await api.client.post("/v1/keys", json={"name": "ci", "scope": "admin", "expires": "90d"})

    assert made.status_code == 201
    key = made.json()
    assert made.headers["Location"] == f"/v1/keys/{key['id']}"
    assert made.headers["Cache-Control"] == "no-store"
    assert read_api_key(key["key"]).id == key["id"]
    lasts = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert (key["name"], key["scope"], lasts.days) == ("ci", "admin", 90)
    listed = await api.client.get("/v1/keys", headers={"Authorization": f"Bearer {key['key']}"})
    [seen] = listed.json()["items"]
    assert {name: value for name, value in key.items() if name != "key"} == {**seen, "last_used_at": None}
    assert seen["last_used_at"] is not None
    assert key["key"] not in listed.text


async def test_two_keys_do_not_share_a_name(api: Api) -> None:
    api.client.headers.update(await api.make_key("admin", name="ci"))

    answer = await api.client.post("/v1/keys", json={"name": "ci", "scope": "read"})

    assert (answer.status_code, answer.json()["code"]) == (409, "name_conflict")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"/name": "missing"}),
        ({"name": "", "scope": "read"}, {"/name": "string_pattern_mismatch"}),
        ({"name": "a\nb", "scope": "read"}, {"/name": "string_pattern_mismatch"}),
        ({"name": "ci", "scope": "root"}, {"/scope": "enum"}),
        ({"name": "ci", "scope": "read", "expires": "soon"}, {"/expires": "invalid_duration"}),
        ({"name": "ci", "scope": "read", "expires": "999999999d"}, {"/expires": "invalid_duration"}),
        ({"name": "ci", "scope": "read", "key": "mine"}, {"/key": "unknown_field"}),
    ],
)
async def test_a_wrong_key_is_refused_by_field(
    client: httpx.AsyncClient, body: dict[str, str], wrong: dict[str, str]
) -> None:
    answer = await client.post("/v1/keys", json=body)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == wrong


async def test_what_is_stored_of_a_key_does_not_open_anything(api: Api) -> None:
    header = await api.make_key("admin")
    secret = header["Authorization"].removeprefix("Bearer ")

    file = api.settings.database_url.partition(":///")[2]
    for name in (file, f"{file}-wal"):
        with open(name, "rb") as database:  # noqa: ASYNC230, PTH123 — small, and only here
            assert secret.split("_")[2].encode() not in database.read()


async def test_the_bootstrap_key_follows_its_setting(api: Api) -> None:
    first, second = "a" * 40, "b" * 40

    async def opens(text: str) -> bool:
        return (await api.client.get("/v1/keys", headers={"Authorization": f"Bearer {text}"})).is_success

    await api.service.keys.ensure_bootstrap(first)
    await api.service.keys.ensure_bootstrap(first)
    assert await opens(first)

    await api.service.keys.ensure_bootstrap(second)
    assert await opens(second)
    assert not await opens(first)


@pytest.mark.parametrize("name", ["local", "command-line", "Bootstrap", "settings", "registry-sync"])
async def test_a_name_that_stands_for_others_is_refused(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/v1/keys", json={"name": name, "scope": "read"})

    assert (answer.status_code, pointers(answer)) == (422, {"/name": "reserved_name"})


async def test_a_name_that_is_a_part_of_addresses_is_refused(client: httpx.AsyncClient) -> None:
    policy = await client.put("/v1/policies/import", json={"rules": [SHORT]})
    registry = await client.put("/v1/registries/import", json={"host": "a.example.com"})

    for answer in (policy, registry):
        assert (answer.status_code, pointers(answer)) == (422, {"/name": "reserved_name"})
