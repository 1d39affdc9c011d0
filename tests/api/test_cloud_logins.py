"""Registries with the login of a cloud over HTTP: what may be entered, what is shown, and what stays."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.domain.registry import AwsAuth, AzureAuth, GoogleAuth
from app.store.registries import RegistryStore
from tests.api.conftest import Api, Serve, pointers
from tests.support.certificates import make_authority

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
ACR = "old.azurecr.io"
KEY = {"type": "aws", "access_key_id": "AKIA0123456789ABCDEF"}
PRINCIPAL = {"type": "azure", "tenant_id": "corp.example.com", "client_id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"}
SECRET = "canary/5f1c0e7a"


async def put(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.put("/v1/registries/ecr", json={"host": ECR, **body})


async def stored(api: Api) -> AwsAuth:
    async with api.service.database.reading() as session:
        entry = await RegistryStore(session, api.service.registries._sealer).get("ecr")
    assert isinstance(entry.auth, AwsAuth)
    return entry.auth


@pytest.fixture
async def allowing(serve: Serve) -> AsyncIterator[Api]:
    """Serve where the machine's identities may be used."""
    async with serve(machine_identities="aws,azure,google") as api:
        yield api


async def test_the_identity_of_the_machine_needs_no_more_than_the_type(allowing: Api) -> None:
    api = allowing
    answer = await put(api.client, auth={"type": "aws"})

    assert answer.status_code == 201, answer.text
    assert answer.json()["auth"] == {
        "type": "aws",
        "access_key_id": None,
        "has_secret_access_key": False,
        "profile": None,
        "role_arn": None,
        "external_id": None,
        "region": None,
    }
    assert (await stored(api)).secret_access_key is None
    shown = await api.client.get("/v1/registries/ecr")
    assert (await api.client.put("/v1/registries/ecr", json=shown.json())).status_code == 200


async def test_a_secret_access_key_is_sealed_and_stays_when_left_out(api: Api) -> None:
    await put(api.client, auth=KEY | {"secret_access_key": SECRET})
    role = "arn:aws:iam::123456789012:role/images/pull"

    again = await put(api.client, auth=KEY | {"role_arn": role})
    patched = await api.client.patch("/v1/registries/ecr", json={"auth": {"region": "eu-west-1"}})

    assert (again.status_code, patched.status_code) == (200, 200), (again.text, patched.text)
    auth = await stored(api)
    assert auth.secret_access_key is not None
    assert (auth.secret_access_key.get_secret_value(), auth.role_arn, auth.region) == (SECRET, role, "eu-west-1")
    async with api.service.database.reading() as session:
        rows = await session.execute(text("SELECT entry, secrets FROM registries"))
        assert SECRET not in "\n".join(str(row) for row in rows)


@pytest.mark.parametrize(
    "change",
    [{"host": "evil.example.com", "auth": KEY | {"region": "eu-west-1"}}, {"auth": KEY | {"access_key_id": "B" * 20}}],
    ids=["another host", "another key"],
)
async def test_a_stored_secret_access_key_goes_to_no_other_place(api: Api, change: dict[str, Any]) -> None:
    await put(api.client, auth=KEY | {"secret_access_key": SECRET})

    answer = await put(api.client, **change)

    assert pointers(answer) == {"/auth/secret_access_key": "secret_required"}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"auth": KEY}, {"/auth/secret_access_key": "secret_required"}),
        ({"auth": {"type": "aws", "secret_access_key": "s"}}, {"/auth/access_key_id": "login_not_allowed"}),
        ({"auth": {"type": "aws", "region": "Europe"}}, {"/auth/region": "string_pattern_mismatch"}),
        (
            {"auth": {"type": "aws", "region": "eu-central-1.evil.example.com/"}},
            {"/auth/region": "string_pattern_mismatch"},
        ),
        ({"auth": {"type": "aws", "role_arn": "pull"}}, {"/auth/role_arn": "string_pattern_mismatch"}),
        ({"auth": KEY | {"secret_access_key": "s", "profile": "p"}}, {"/auth/profile": "login_not_allowed"}),
        ({"host": "a.example.com", "auth": KEY | {"secret_access_key": "s"}}, {"/auth/region": "login_not_allowed"}),
        ({"host": "public.ecr.aws", "auth": {"type": "aws"}}, {"/auth/access_key_id": "login_not_allowed"}),
        ({"auth": {"type": "aws"}}, {"/auth/access_key_id": "login_not_allowed"}),
    ],
)
async def test_a_login_that_can_be_none_is_refused_by_field(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: dict[str, str]
) -> None:
    answer = await put(client, **body)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == wrong


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"host": "evil.example.com", "auth": {"type": "aws", "region": "eu-central-1"}}, "/auth/access_key_id"),
        ({"host": f"{ECR}:8443", "auth": {"type": "aws", "region": "eu-central-1"}}, "/auth/access_key_id"),
        ({"auth": {"type": "aws"}, "insecure": True}, "/insecure"),
        ({"auth": {"type": "aws"}, "tls": {"verify": False}}, "/tls/verify"),
        ({"auth": {"type": "aws"}, "tls": {"ca": make_authority("mine").certificate_pem().decode()}}, "/tls/ca"),
        ({"auth": {"type": "aws", "profile": "images"}, "insecure": True}, "/insecure"),
    ],
)
async def test_the_identity_of_the_machine_is_shown_to_its_clouds_registries_over_tls_only(
    allowing: Api, body: dict[str, Any], field: str
) -> None:
    answer = await put(allowing.client, **body)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == {field: "login_not_allowed"}


async def test_a_change_can_not_turn_the_machines_identity_elsewhere(allowing: Api) -> None:
    await put(allowing.client, auth={"type": "aws", "region": "eu-central-1"})

    for change in ({"host": "evil.example.com"}, {"insecure": True}, {"tls": {"verify": False}}):
        answer = await allowing.client.patch("/v1/registries/ecr", json=change)
        assert answer.status_code == 422, answer.text


async def put_acr(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.put("/v1/registries/acr", json={"host": ACR} | body)


async def stored_azure(api: Api) -> AzureAuth:
    async with api.service.database.reading() as session:
        entry = await RegistryStore(session, api.service.registries._sealer).get("acr")
    assert isinstance(entry.auth, AzureAuth)
    return entry.auth


async def test_a_service_principal_is_shown_without_its_secret_and_put_again_as_it_is_shown(api: Api) -> None:
    entered = await put_acr(api.client, auth=PRINCIPAL | {"client_secret": SECRET})

    shown = await api.client.get("/v1/registries/acr")
    again = await api.client.put("/v1/registries/acr", json=shown.json())

    assert (entered.status_code, again.status_code) == (201, 200), (entered.text, again.text)
    assert again.json()["auth"] == PRINCIPAL | {"has_client_secret": True, "has_client_certificate": False}
    auth = await stored_azure(api)
    assert auth.client_secret is not None
    assert auth.client_secret.get_secret_value() == SECRET


async def test_a_certificate_of_a_principal_stays_until_a_secret_takes_its_place(api: Api) -> None:
    pair = make_authority("app")
    pem = (pair.certificate_pem() + pair.key_pem()).decode()
    await put_acr(api.client, auth=PRINCIPAL | {"client_certificate": pem})

    left_out = await put_acr(api.client, auth=PRINCIPAL)
    auth = await stored_azure(api)
    replaced = await put_acr(api.client, auth=PRINCIPAL | {"client_secret": SECRET})

    assert (left_out.status_code, replaced.status_code) == (200, 200), (left_out.text, replaced.text)
    assert auth.client_certificate is not None
    assert (auth.client_certificate.get_secret_value(), auth.client_secret) == (pem, None)
    assert (await stored_azure(api)).client_certificate is None


async def test_the_machines_identity_at_azure_needs_no_more_than_the_type(allowing: Api) -> None:
    answer = await put_acr(allowing.client, auth={"type": "azure"})

    assert answer.status_code == 201, answer.text
    assert answer.json()["auth"]["has_client_secret"] is False
    named = await put_acr(allowing.client, auth={"type": "azure", "client_id": PRINCIPAL["client_id"]})
    assert named.status_code == 200, named.text


@pytest.mark.parametrize(
    ("auth", "wrong"),
    [
        (PRINCIPAL, {"/auth/client_secret": "secret_required"}),
        ({"type": "azure"}, {"/auth/tenant_id": "login_not_allowed"}),
        ({"type": "azure", "client_secret": "s"}, {"/auth/tenant_id": "login_not_allowed"}),
        ({"type": "azure", "tenant_id": "a", "client_secret": "s"}, {"/auth/client_id": "login_not_allowed"}),
        (PRINCIPAL | {"tenant_id": "a/../b"}, {"/auth/tenant_id": "string_pattern_mismatch"}),
        (PRINCIPAL | {"client_id": "me"}, {"/auth/client_id": "string_pattern_mismatch"}),
        (PRINCIPAL | {"client_certificate": "no PEM"}, {"/auth/client_certificate": "invalid_certificate"}),
    ],
)
async def test_a_login_of_azure_that_can_be_none_is_refused_by_field(
    client: httpx.AsyncClient, auth: dict[str, Any], wrong: dict[str, str]
) -> None:
    answer = await put_acr(client, auth=auth)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == wrong


@pytest.mark.parametrize(
    "change", [{"host": "new.azurecr.io"}, {"auth": PRINCIPAL | {"tenant_id": "evil.example.com"}}]
)
async def test_a_stored_client_secret_goes_to_no_other_registry_or_tenant(api: Api, change: dict[str, Any]) -> None:
    await put_acr(api.client, auth=PRINCIPAL | {"client_secret": SECRET})

    answer = await put_acr(api.client, **{"auth": PRINCIPAL} | change)

    assert pointers(answer) == {"/auth/client_secret": "secret_required"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"host": "old.azurecr.io.example.com"}, "/auth/tenant_id"),
        ({"insecure": True}, "/insecure"),
        ({"tls": {"verify": False}}, "/tls/verify"),
    ],
)
async def test_the_machines_identity_at_azure_is_shown_to_acr_over_tls_only(
    allowing: Api, body: dict[str, Any], field: str
) -> None:
    answer = await put_acr(allowing.client, auth={"type": "azure"}, **body)

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == {field: "login_not_allowed"}


async def test_a_docker_configuration_lies_in_an_allowed_folder(api: Api, serve: Serve) -> None:
    body = {"host": "a.example.com", "auth": {"type": "docker_config", "path": "/etc/docker/config.json"}}
    refused = await api.client.put("/v1/registries/a", json=body)
    async with serve(docker_config_folders="/etc/docker,/run/secrets") as other:
        taken = await other.client.put("/v1/registries/a", json=body)
        body["auth"] = {"type": "docker_config", "path": "/etc/docker/../shadow"}
        outside = await other.client.put("/v1/registries/a", json=body)

    assert pointers(refused) == pointers(outside) == {"/auth/path": "login_not_allowed"}
    assert refused.json()["detail"] == outside.json()["detail"]
    assert taken.status_code == 201, taken.text
    assert taken.json()["auth"] == {"type": "docker_config", "path": "/etc/docker/config.json"}


def key_of(account: str) -> str:
    pem = make_authority("google").key_pem().decode()
    return json.dumps({"type": "service_account", "client_email": account, "private_key": pem})


async def test_a_key_of_google_says_whose_it_is_and_stays_when_left_out(api: Api) -> None:
    account, path = "puller@project.iam.gserviceaccount.com", "/v1/registries/gar"
    key, body = key_of(account), {"host": "europe-docker.pkg.dev"}
    entered = await api.client.put(path, json=body | {"auth": {"type": "google", "service_account_key": key}})
    shown = await api.client.get(path)
    again = await api.client.put(path, json=shown.json())
    moved = {"host": "us-docker.pkg.dev", "auth": {"type": "google", "service_account": account}}
    elsewhere = await api.client.put(path, json=moved)
    other = {"type": "google", "service_account": "other@project.iam.gserviceaccount.com"}

    assert (entered.status_code, again.status_code) == (201, 200), (entered.text, again.text)
    assert again.json()["auth"] == {"type": "google", "service_account": account, "has_service_account_key": True}
    assert "PRIVATE KEY" not in entered.text + shown.text
    assert pointers(elsewhere) == {"/auth/service_account_key": "secret_required"}
    assert pointers(await api.client.put(path, json=body | {"auth": other})) == pointers(elsewhere)
    async with api.service.database.reading() as session:
        entry = await RegistryStore(session, api.service.registries._sealer).get("gar")
    assert isinstance(entry.auth, GoogleAuth)
    assert entry.auth.service_account_key is not None
    assert entry.auth.service_account_key.get_secret_value() == key


@pytest.mark.parametrize(
    ("auth", "wrong"),
    [
        ({"type": "google"}, {"/auth/service_account_key": "login_not_allowed"}),
        ({"type": "google", "service_account_key": "{}"}, {"/auth/service_account_key": "invalid_service_account_key"}),
        (
            # Of another kind, which names files, addresses and programs to ask: none of a caller's business here.
            {
                "type": "google",
                "service_account_key": json.dumps({"type": "external_account", "token_url": "http://x"}),
            },
            {"/auth/service_account_key": "invalid_service_account_key"},
        ),
        (
            {"type": "google", "service_account": "a@b.example.com", "service_account_key": key_of("c@b.example.com")},
            {"/auth": "invalid_service_account_key"},
        ),
    ],
    ids=["machine", "empty", "external", "other"],
)
async def test_a_login_of_google_that_can_be_none_is_refused_by_field(
    client: httpx.AsyncClient, auth: dict[str, Any], wrong: dict[str, str]
) -> None:
    answer = await client.put("/v1/registries/gar", json={"host": "gcr.io", "auth": auth})

    assert answer.status_code == 422, answer.text
    assert pointers(answer) == wrong


async def test_the_machines_identity_at_google_is_shown_to_its_registries_only(allowing: Api) -> None:
    auth = {"type": "google"}
    entered = await allowing.client.put("/v1/registries/gar", json={"host": "gcr.io", "auth": auth})
    elsewhere = await allowing.client.put("/v1/registries/evil", json={"host": "gcr.io.example.com", "auth": auth})

    assert entered.status_code == 201, entered.text
    assert pointers(elsewhere) == {"/auth/service_account_key": "login_not_allowed"}
