"""Canaries: a secret that goes in comes out nowhere: no answer, no log line, no error, no metric."""

import sqlite3
from contextlib import closing
from io import StringIO
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.security import make_api_key
from tests.api.conftest import SHORT, Api
from tests.support.certificates import make_authority

CANARY = "canary-5f1c0e7a"
AUTHS: list[dict[str, Any]] = [
    {"type": "basic", "username": "ann", "password": CANARY},
    {"type": "bearer", "token": CANARY},
    {"type": "identity_token", "token": CANARY},
    {"type": "aws", "region": "eu-central-1", "access_key_id": "AKIA0123456789ABCDEF", "secret_access_key": CANARY},
    {"type": "azure", "tenant_id": "a.example.com", "client_id": str(UUID(int=1)), "client_secret": CANARY},
]
WRONG: list[dict[str, Any]] = [
    {"host": "a.example.com", "auth": {"type": "basic", "username": "ann", "password": [CANARY]}},
    {"host": "a.example.com", "auth": {"type": "basic", "username": "ann", "password": CANARY, "extra": 1}},
    {"host": "a.example.com", "auth": {"type": "none", "password": CANARY}},
    {"host": "a.example.com", "auth": {"type": "aws", "region": "eu-central-1", "secret_access_key": CANARY}},
    {"host": "a.example.com", "auth": {"type": "azure", "client_secret": CANARY}},
    {"host": "a.example.com", "auth": {"type": "google", "service_account_key": CANARY}},
    {"host": "a.example.com", "auth": {"type": "azure", "tenant_id": "a.example.com", "client_certificate": CANARY}},
    {"host": "169.254.169.254", "auth": {"type": "bearer", "token": CANARY}},
    {"host": f"https://ann:{CANARY}@a.example.com"},
    {"host": "a.example.com", "proxy": f"http://ann:{CANARY}@proxy:3128"},
    {"host": "a.example.com", "password": CANARY},
    {"host": "a.example.com", "tls": {"client_key": {"pem": CANARY}}},
]


def assert_nowhere(logged: StringIO, *answers: httpx.Response) -> None:
    for answer in answers:
        assert CANARY not in answer.text, answer.request.url
        assert CANARY not in str(answer.headers), answer.request.url
    assert CANARY not in logged.getvalue()


@pytest.mark.parametrize("auth", AUTHS, ids=lambda auth: auth["type"])
async def test_what_a_registry_is_logged_in_to_with_stays_inside(
    api: Api, logged: StringIO, auth: dict[str, Any]
) -> None:
    client, body = api.client, {"host": "a.example.com", "auth": auth}

    assert_nowhere(
        logged,
        await client.put("/v1/registries/a", json=body),
        await client.put("/v1/registries/a", json=body | {"limits": {"connections": 2}}),
        await client.patch("/v1/registries/a", json={"auth": auth, "insecure": True}),
        await client.patch("/v1/registries/a", json={"host": "b.example.com"}),
        await client.get("/v1/registries/a"),
        await client.get("/v1/registries"),
        await client.put("/v1/registries/b", json=body),
        await client.post("/v1/jobs", json={"source": "a.example.com/x:1", "destination": "b.example.com/x"}),
        await client.get("/v1/jobs"),
        await client.get("/metrics"),
        await client.get("/openapi.json"),
        await client.delete("/v1/registries/a"),
    )


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
async def test_a_refusal_does_not_repeat_what_was_refused(api: Api, logged: StringIO, body: dict[str, Any]) -> None:
    answer = await api.client.put("/v1/registries/a", json=body)

    assert answer.status_code == 422
    assert_nowhere(logged, answer)


async def test_a_password_in_a_reference_is_refused_and_not_repeated(api: Api, logged: StringIO) -> None:
    answer = await api.client.post("/v1/jobs", json=SHORT | {"source": f"https://ann:{CANARY}@a.example.com/x:1"})

    assert answer.status_code == 422
    assert_nowhere(logged, answer)


async def test_a_client_key_stays_inside(api: Api, logged: StringIO) -> None:
    authority = make_authority("test")
    tls = {"client_certificate": authority.certificate_pem().decode(), "client_key": f"-----{CANARY}-----"}

    entered = await api.client.put("/v1/registries/a", json={"host": "a.example.com", "tls": tls})
    without = await api.client.patch("/v1/registries/a", json={"limits": {"connections": 2}})
    unchecked = await api.client.patch("/v1/registries/a", json={"tls": {"verify": False}})
    elsewhere = await api.client.patch("/v1/registries/a", json={"host": "b.example.com"})

    assert entered.json()["tls"]["has_client_key"] is without.json()["tls"]["has_client_key"] is True
    for refused in (unchecked, elsewhere):
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/tls/client_key")
    assert_nowhere(logged, entered, without, unchecked, elsewhere)


async def test_a_callers_key_stays_inside(api: Api, logged: StringIO) -> None:
    key = f"{CANARY}-{'x' * 40}"
    await api.service.keys.ensure_bootstrap(key)
    header = {"Authorization": f"Bearer {key}"}

    assert_nowhere(
        logged,
        await api.client.get("/v1/keys", headers=header),
        await api.client.post("/v1/jobs", json=SHORT, headers=header),
        await api.client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}y"}),
        await api.client.get("/v1/jobs", headers={"Authorization": f"Basic {key}"}),
        await api.client.get(f"/v1/jobs?key={key}", headers=header),
        await api.client.get(f"/{key}"),
        await api.client.post("/v1/jobs", content=f"{{{key}", headers=header | {"Content-Type": "application/json"}),
    )


async def test_a_key_given_where_its_id_belongs_is_not_repeated(api: Api, logged: StringIO) -> None:
    key = make_api_key()

    answer = await api.client.delete(f"/v1/keys/{key}")

    assert answer.status_code == 404
    assert key not in answer.text
    assert key not in logged.getvalue()


async def test_a_proxys_cookie_or_a_strangers_header_is_not_logged(api: Api, logged: StringIO) -> None:
    headers = {"Cookie": f"session={CANARY}", "X-Api-Key": CANARY, "X-Request-Id": f"Bearer {CANARY}"}

    assert_nowhere(logged, await api.client.get("/v1/jobs", headers=headers))


async def test_a_statement_that_fails_is_logged_without_its_values(api: Api, logged: StringIO) -> None:
    with closing(sqlite3.connect(api.settings.database_url.partition(":///")[2])) as database:
        database.execute("DROP TABLE job_labels")

    answer = await api.client.post("/v1/jobs", json=SHORT | {"labels": {"a": CANARY}})

    assert answer.status_code == 500
    assert "unexpected_error" in logged.getvalue()
    assert_nowhere(logged, answer)
