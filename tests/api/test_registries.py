"""Registries over HTTP: entered, changed, seen without their secrets, removed."""

from typing import Any

import httpx
import pytest

from app.store.registries import RegistryStore
from tests.api.conftest import Api, pointers
from tests.support.certificates import make_authority

AUTHORITY = make_authority("another")
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
AWS = {"type": "aws", "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "marker"}
AWS_SECRET_REQUIRED = {"/auth/secret_access_key": "secret_required"}
HUB = {"host": "hub.example.com", "auth": {"type": "basic", "username": "ann", "password": "first"}}


async def put(client: httpx.AsyncClient, body: dict[str, Any], name: str = "hub", **headers: str) -> httpx.Response:
    return await client.put(f"/v1/registries/{name}", json=body, headers=headers)


async def stored_password(api: Api, name: str = "hub") -> str:
    async with api.service.database.reading() as session:
        entry = await RegistryStore(session, api.service.registries._sealer).get(name)
    return entry.auth.password.get_secret_value()  # type: ignore[union-attr]  # another kind of login fails the test as well


async def test_a_registry_is_entered_and_seen_without_its_secrets(client: httpx.AsyncClient) -> None:
    entered = await put(client, HUB)
    seen = await client.get("/v1/registries/hub")

    assert entered.status_code == 201
    assert entered.headers["Location"] == "/v1/registries/hub"
    assert entered.json() == seen.json()
    body = seen.json()
    assert body["auth"] == {"type": "basic", "username": "ann", "has_password": True}
    assert body["tls"] == {"ca": None, "client_certificate": None, "has_client_key": False, "verify": True}
    assert body["limits"] == {"connections": 16, "requests_per_second": None, "bytes_per_second": None}
    assert (body["name"], body["host"], body["type"], body["insecure"]) == ("hub", "hub.example.com", "auto", False)
    assert seen.headers["ETag"].startswith(f'"{body["version"]}-')
    assert (await client.get("/v1/registries")).json()["items"] == [body]


@pytest.mark.parametrize(
    ("auth", "seen"),
    [
        ({"type": "none"}, {"type": "none"}),
        ({"type": "bearer", "token": "t"}, {"type": "bearer", "has_token": True}),
        (
            {"type": "identity_token", "username": "<token>", "token": "t"},
            {"type": "identity_token", "username": "<token>", "has_token": True},
        ),
    ],
)
async def test_each_way_to_log_in_is_shown_without_what_opens(
    client: httpx.AsyncClient, auth: dict[str, str], seen: dict[str, Any]
) -> None:
    answer = await put(client, {"host": "a.example.com", "auth": auth})

    assert answer.status_code == 201, answer.text
    assert answer.json()["auth"] == seen


@pytest.mark.parametrize(
    ("host", "existing"),
    [
        ("Registry.Example.COM:5000", "registry.example.com:5000"),
        ("a.example.com/team/x", "a.example.com/team/x"),
        ("index.docker.io", "docker.io"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("localhost", "localhost"),
        ("[::1]:5000", "[::1]:5000"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
async def test_an_operator_may_enter_hosts_inside(client: httpx.AsyncClient, host: str, existing: str) -> None:
    answer = await put(client, {"host": host, "insecure": True})

    assert answer.status_code == 201, answer.text
    assert answer.json()["host"] == existing


async def test_an_entered_host_may_be_named_in_requests(client: httpx.AsyncClient) -> None:
    body = {"source": "127.0.0.1:5000/app:1", "destination": "registry.example.com/x"}
    assert (await client.post("/v1/jobs", json=body)).status_code == 422

    await put(client, {"host": "127.0.0.1:5000", "insecure": True})

    assert (await client.post("/v1/jobs", json=body)).status_code == 202


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"/host": "missing"}),
        ({"host": "https://a.example.com"}, None),
        ({"host": "a.example.com/UP"}, {"/host": "invalid_repository"}),
        ({"host": "user:pw@a.example.com"}, None),
        ({"host": "169.254.169.254"}, {"/host": "host_not_allowed"}),
        ({"host": "metadata.google.internal"}, {"/host": "host_not_allowed"}),
        ({"host": "a.example.com", "name": "other"}, {"/name": "name_mismatch"}),
        ({"host": "a.example.com", "type": "mine"}, {"/type": "literal_error"}),
        ({"host": "a.example.com", "user": "x"}, {"/user": "unknown_field"}),
        ({"host": "a.example.com", "is_registered": False}, {"/is_registered": "unknown_field"}),
        ({"host": "a.example.com", "auth": {"type": "magic"}}, {"/auth": "union_tag_invalid"}),
        ({"host": "a.example.com", "auth": {"username": "x"}}, {"/auth": "union_tag_not_found"}),
        ({"host": "a.example.com", "auth": {"type": "basic"}}, {"/auth/username": "missing"}),
        ({"host": "a.example.com", "auth": {"type": "basic", "username": "x"}}, {"/auth/password": "secret_required"}),
        ({"host": "a.example.com", "auth": {"type": "bearer"}}, {"/auth/token": "secret_required"}),
        ({"host": "a.example.com", "auth": {"type": "none", "password": "x"}}, {"/auth/password": "unknown_field"}),
        ({"host": "a.example.com", "auth": AWS}, {"/auth/region": "login_not_allowed"}),
        ({"host": ECR, "auth": {"type": "aws"}}, {"/auth/access_key_id": "login_not_allowed"}),
        ({"host": ECR, "auth": {"type": "aws", "access_key_id": "AKIAIOSFODNN7EXAMPLE"}}, AWS_SECRET_REQUIRED),
        (
            {"host": ECR, "auth": AWS | {"role_arn": "http://169.254.169.254/"}},
            {"/auth/role_arn": "string_pattern_mismatch"},
        ),
        ({"host": ECR, "auth": AWS | {"region": "x.example.com/#"}}, {"/auth/region": "string_pattern_mismatch"}),
        ({"host": "a.example.com", "trusted_hosts": ["ftp://x"]}, {"/trusted_hosts/0": "invalid_host"}),
        ({"host": "a.example.com", "limits": {"connections": 0}}, {"/limits/connections": "greater_than_equal"}),
        ({"host": "a.example.com", "proxy": "ftp://x"}, {"/proxy": "invalid_proxy"}),
        ({"host": "a.example.com", "proxy": "http://me:pw@x:1"}, {"/proxy": "secret_in_url"}),
        ({"host": "old.azurecr.io", "create_missing": True}, {"/create_missing": "creation_unsupported"}),
        (
            {"host": "quay.io", "create_missing": {"quota_bytes": 1}},
            {"/create_missing/quota_bytes": "creation_unsupported"},
        ),
        ({"host": "a.example.com", "tls": {"ca": "no certificate"}}, {"/tls/ca": "invalid_certificate"}),
    ],
)
async def test_a_wrong_entry_is_refused_by_field(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: dict[str, str] | None
) -> None:
    answer = await put(client, body)

    assert answer.status_code == 422, answer.text
    assert wrong is None or pointers(answer) == wrong
    assert (await client.get("/v1/registries")).json()["items"] == []


@pytest.mark.parametrize("name", ["UP", "-x", "a b", "x" * 64, "a%2Fb"])
async def test_a_name_that_is_none_is_refused(client: httpx.AsyncClient, name: str) -> None:
    assert (await put(client, {"host": "a.example.com"}, name)).status_code in {404, 422}


async def test_a_secret_that_is_left_out_stays(api: Api) -> None:
    await put(api.client, HUB)

    again = await put(api.client, HUB | {"auth": {"type": "basic", "username": "ann"}, "limits": {"connections": 2}})

    assert again.status_code == 200, again.text
    assert again.json()["limits"]["connections"] == 2
    assert await stored_password(api) == "first"
    await put(api.client, HUB | {"auth": {"type": "basic", "username": "ann", "password": "second"}})
    assert await stored_password(api) == "second"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"host": "evil.example.com"}, "/host"),
        ({"host": "hub.example.com:5000"}, "/host"),
        ({"host": "hub.example.com/team"}, "/host"),
        ({"insecure": True}, "/insecure"),
        ({"auth": {"username": "bob"}}, "user"),
        ({"proxy": "http://evil.example.com:3128"}, "/proxy"),
        ({"tls": {"verify": False}}, "/tls/verify"),
        ({"tls": {"ca": AUTHORITY.certificate_pem().decode()}}, "/tls/ca"),
        ({"trusted_hosts": ["evil.example.com"]}, "/trusted_hosts"),
        ({"type": "harbor"}, "/type"),
    ],
)
async def test_a_stored_secret_goes_to_no_other_place(api: Api, change: dict[str, Any], named: str) -> None:
    await put(api.client, HUB)
    without = HUB | {"auth": {"type": "basic", "username": "ann"}}

    replaced = await put(api.client, without | change | {"auth": without["auth"] | change.get("auth", {})})
    patched = await api.client.patch("/v1/registries/hub", json=change)

    for answer in (replaced, patched):
        assert (answer.status_code, answer.json()["code"]) == (422, "secret_required"), answer.text
        assert pointers(answer) == {"/auth/password": "secret_required"}
        assert named in answer.json()["detail"]
    assert (await api.client.get("/v1/registries/hub")).json()["host"] == "hub.example.com"
    secret = {"auth": {"password": "second"}}
    again = await api.client.patch(
        "/v1/registries/hub", json=change | {"auth": change.get("auth", {}) | secret["auth"]}
    )
    assert again.status_code == 200, again.text


async def test_a_stored_secret_stays_where_a_place_becomes_narrower(api: Api) -> None:
    await put(api.client, HUB | {"tls": {"verify": False}, "trusted_hosts": ["a.example.com", "b.example.com"]})

    narrower = await api.client.patch(
        "/v1/registries/hub", json={"tls": {"verify": True}, "trusted_hosts": ["b.example.com"]}
    )

    assert narrower.status_code == 200, narrower.text
    assert await stored_password(api) == "first"


async def test_a_patch_changes_what_it_names_and_null_is_the_default(api: Api) -> None:
    await put(
        api.client, HUB | {"limits": {"connections": 4, "bytes_per_second": 100}, "trusted_hosts": ["b.example.com"]}
    )

    answer = await api.client.patch(
        "/v1/registries/hub",
        json={"limits": {"connections": None}, "trusted_hosts": None},
        headers={"Content-Type": "application/merge-patch+json"},
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["limits"] == {"connections": 16, "requests_per_second": None, "bytes_per_second": 100}
    assert answer.json()["trusted_hosts"] == []
    assert await stored_password(api) == "first"


async def test_a_patch_may_change_the_way_to_log_in(client: httpx.AsyncClient) -> None:
    await put(client, HUB)

    without = await client.patch("/v1/registries/hub", json={"auth": {"type": "bearer"}})
    answer = await client.patch("/v1/registries/hub", json={"auth": {"type": "bearer", "token": "t"}})

    assert pointers(without) == {"/auth/token": "secret_required"}
    assert answer.json()["auth"] == {"type": "bearer", "has_token": True}
    assert (await client.patch("/v1/registries/hub", json={"auth": None})).json()["auth"] == {"type": "none"}


@pytest.mark.parametrize(
    ("patch", "wrong"),
    [
        ({"limits": {"connections": "many"}}, {"/limits/connections": "int_parsing"}),
        ({"auth": {"pasword": "x"}}, {"/auth/pasword": "unknown_field"}),
        ({"host": None}, {"/host": "missing"}),
        ({"version": 3}, {"/version": "unknown_field"}),
    ],
)
async def test_a_wrong_patch_is_refused_by_field(
    client: httpx.AsyncClient, patch: dict[str, Any], wrong: dict[str, str]
) -> None:
    await put(client, HUB)

    answer = await client.patch("/v1/registries/hub", json=patch)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == wrong


async def test_who_names_a_version_changes_that_one_or_none(client: httpx.AsyncClient) -> None:
    etag = (await put(client, HUB)).headers["ETag"]
    second = await put(client, HUB, **{"If-Match": etag})
    assert second.status_code == 200
    assert second.headers["ETag"] != etag

    for answer in (
        await put(client, HUB, **{"If-Match": etag}),
        await client.patch("/v1/registries/hub", json={"insecure": False}, headers={"If-Match": etag}),
        await client.delete("/v1/registries/hub", headers={"If-Match": etag}),
        await put(client, {"host": "new.example.com"}, "new", **{"If-Match": '"1"'}),
        await put(client, HUB, **{"If-Match": "nonsense"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
    assert (
        await client.get("/v1/registries/hub", headers={"If-None-Match": second.headers["ETag"]})
    ).status_code == 304


async def test_one_host_and_prefix_is_entered_once(client: httpx.AsyncClient) -> None:
    await put(client, {"host": "a.example.com"})

    taken = await put(client, {"host": "A.example.com"}, "other")
    below = await put(client, {"host": "a.example.com/team"}, "below")

    assert (taken.status_code, taken.json()["code"]) == (409, "host_taken")
    assert below.status_code == 201


async def test_a_removed_registry_is_gone(client: httpx.AsyncClient) -> None:
    await put(client, HUB)

    assert (await client.delete("/v1/registries/hub")).status_code == 204

    for answer in (
        await client.get("/v1/registries/hub"),
        await client.delete("/v1/registries/hub"),
        await client.patch("/v1/registries/hub", json={}),
        await client.post("/v1/registries/hub/check"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_registries_are_seen_and_repaired_even_when_the_secret_key_was_lost(api: Api) -> None:
    await put(api.client, HUB)
    api.service.registries._sealer = type(api.service.registries._sealer)(
        [type(api.service.registries._sealer).make_key()]
    )

    assert (await api.client.get("/v1/registries")).json()["items"][0]["auth"]["has_password"] is True
    existing = await api.client.patch("/v1/registries/hub", json={"limits": {"connections": 2}})
    assert (existing.status_code, existing.json()["code"]) == (503, "secret_unreadable")
    assert (await put(api.client, HUB)).status_code == 200
    assert await stored_password(api) == "first"


async def test_what_repositories_are_made_like_is_shown_and_can_be_put_again(client: httpx.AsyncClient) -> None:
    entry = {"host": "harbor.example.com", "type": "harbor", "create_missing": True}
    made = {"public": False, "description": "", "scan_on_push": False, "quota_bytes": None}
    made |= {"immutable_tags": False, "encryption_key": None, "tags": [], "lifecycle": None}
    shown = (await put(client, entry)).json()
    assert shown["create_missing"] == made
    assert (await put(client, shown | {"create_missing": made | {"public": True}})).json()["create_missing"]["public"]
    assert (await put(client, shown | {"create_missing": False, "version": 2})).json()["create_missing"] is None
