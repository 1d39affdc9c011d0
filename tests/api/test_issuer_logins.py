"""Registries with logins of issuers and apps over HTTP: what may be entered, what is shown, and what stays."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import Api, Serve, pointers
from tests.support.certificates import make_authority

HOST = "harbor.example.com"
TOKEN_URL = "https://sso.example.com/token"
CLIENT = {"type": "oidc", "token_url": TOKEN_URL, "client_id": "sync"}
APP = {"type": "github_app", "app_id": "12345", "installation_id": 4711}
SECRET = "canary/5f1c0e7a"


async def put(client: httpx.AsyncClient, auth: dict[str, Any], **body: Any) -> httpx.Response:
    return await client.put("/v1/registries/r", json={"host": HOST, "auth": auth} | body)


async def test_a_client_is_shown_without_its_secret_and_put_again_as_it_is_shown(api: Api) -> None:
    entered = await put(api.client, CLIENT | {"client_secret": SECRET, "username": "sync"})
    shown = await api.client.get("/v1/registries/r")
    again = await api.client.put("/v1/registries/r", json=shown.json())

    assert (entered.status_code, again.status_code) == (201, 200), (entered.text, again.text)
    assert SECRET not in entered.text + again.text
    assert again.json()["auth"] == CLIENT | {
        "has_client_secret": True,
        "exchange": "none",
        "exchange_url": None,
        "audience": None,
        "scope": None,
        "resource": None,
        "username": "sync",
    }


async def test_an_app_is_shown_without_its_key_and_put_again_as_it_is_shown(api: Api) -> None:
    key = make_authority("app").key_pem().decode()
    entered = await put(api.client, APP | {"private_key": key}, host="ghcr.io")
    shown = await api.client.get("/v1/registries/r")
    again = await api.client.put("/v1/registries/r", json=shown.json())

    assert (entered.status_code, again.status_code) == (201, 200), (entered.text, again.text)
    assert "PRIVATE KEY" not in entered.text + again.text
    assert again.json()["auth"] == APP | {"has_private_key": True, "api_url": None}


@pytest.mark.parametrize(
    "change",
    [{"token_url": "https://evil.example.com/token"}, {"client_id": "other"}, {"host": "evil.example.com"}],
    ids=str,
)
async def test_a_stored_client_secret_goes_to_no_other_place(api: Api, change: dict[str, str]) -> None:
    await put(api.client, CLIENT | {"client_secret": SECRET})
    body = {"host": change["host"]} if "host" in change else {}

    answer = await put(api.client, CLIENT | {name: one for name, one in change.items() if name != "host"}, **body)

    assert pointers(answer) == {"/auth/client_secret": "secret_required"}


@pytest.mark.parametrize("change", [{"api_url": "https://evil.example.com"}, {"app_id": "6"}, {"installation_id": 1}])
async def test_a_stored_key_of_an_app_goes_to_no_other_place(api: Api, change: dict[str, Any]) -> None:
    key = make_authority("app").key_pem().decode()
    await put(api.client, APP | {"private_key": key}, host="ghcr.io")

    assert pointers(await put(api.client, APP | change, host="ghcr.io")) == {"/auth/private_key": "secret_required"}


@pytest.mark.parametrize(
    ("auth", "wrong"),
    [
        (CLIENT, {"/auth/client_secret": "secret_required"}),
        (CLIENT | {"token_url": "http://sso.example.com/token"}, {"/auth/token_url": "string_pattern_mismatch"}),
        (CLIENT | {"token_url": "https://a:b@sso.example.com/"}, {"/auth/token_url": "string_pattern_mismatch"}),
        (CLIENT | {"exchange": "token_exchange"}, {"/auth/exchange_url": "login_not_allowed"}),
        (CLIENT | {"exchange_url": TOKEN_URL}, {"/auth/exchange_url": "login_not_allowed"}),
        (CLIENT | {"exchange": "quay"}, {"/auth/username": "login_not_allowed"}),
        ({"type": "oidc", "token_url": TOKEN_URL}, {"/auth/client_id": "login_not_allowed"}),
        ({"type": "oidc", "client_id": "a", "client_secret": "b"}, {"/auth/token_url": "login_not_allowed"}),
        ({"type": "oidc"}, {"/auth/token_url": "login_not_allowed"}),
        (APP, {"/auth/api_url": "login_not_allowed"}),
        (APP | {"private_key": "no PEM"}, {"/auth/private_key": "invalid_private_key"}),
        (APP | {"api_url": "https://api.github.com"}, {"/auth/private_key": "secret_required"}),
    ],
)
async def test_a_login_that_can_be_none_is_refused_by_field(
    client: httpx.AsyncClient, auth: dict[str, Any], wrong: dict[str, str]
) -> None:
    answer = await put(client, auth)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == wrong


async def test_a_token_file_is_shown_to_the_hosts_that_the_setting_names_over_tls_only(serve: Serve) -> None:
    files = f"{HOST}=/run/a,sso.example.com=/run/a,quay.io=/run/b"
    exchange = {"type": "oidc", "exchange": "token_exchange"}
    async with serve(token_files=files) as api:
        taken = [
            await put(api.client, {"type": "oidc"}),
            await put(api.client, exchange | {"exchange_url": TOKEN_URL}),
            await put(api.client, {"type": "oidc", "exchange": "quay", "username": "a+b"}, host="quay.io"),
        ]
        refused = [
            await put(api.client, {"type": "oidc"}, host="evil.example.com"),
            await put(api.client, {"type": "oidc"}, host=f"{HOST}:8443"),
            await put(api.client, exchange | {"exchange_url": "https://evil.example.com/token"}),
            await put(api.client, exchange | {"exchange_url": "https://quay.io/token"}),
            await put(api.client, {"type": "oidc"}, insecure=True),
            await put(api.client, {"type": "oidc"}, tls={"verify": False}),
            await put(api.client, {"type": "oidc"}, tls={"ca": make_authority("mine").certificate_pem().decode()}),
        ]
    assert [answer.status_code for answer in taken] == [201, 200, 200], [answer.text for answer in taken]
    places = ["/auth/token_url"] * 2 + ["/auth/exchange_url"] * 2 + ["/insecure", "/tls/verify", "/tls/ca"]
    assert [pointers(answer) for answer in refused] == [{place: "login_not_allowed"} for place in places]


@pytest.mark.parametrize(
    "auth",
    [
        {"type": "alibaba", "access_key_id": "LTAI5t", "instance_id": "cri-a", "region": "cn-north", "api_url": None},
        {"type": "tencent", "secret_id": "AKID", "registry_id": "tcr-a", "region": "ap-guangzhou", "api_url": None},
    ],
    ids=["alibaba", "tencent"],
)
async def test_a_key_of_a_cloud_is_shown_without_its_secret_and_stays_when_left_out(
    api: Api, auth: dict[str, Any]
) -> None:
    field = "access_key_secret" if auth["type"] == "alibaba" else "secret_key"
    entered = await put(api.client, auth | {field: SECRET})
    again = await put(api.client, auth)
    elsewhere = await put(api.client, auth | {"api_url": "https://evil.example.com"})

    assert (entered.status_code, again.status_code) == (201, 200), (entered.text, again.text)
    assert again.json()["auth"] == auth | {f"has_{field}": True}
    assert pointers(elsewhere) == {f"/auth/{field}": "secret_required"}
    wrong = await put(api.client, auth | {field: SECRET, "region": "evil.example.com/"})
    assert pointers(wrong) == {"/auth/region": "string_pattern_mismatch"}
