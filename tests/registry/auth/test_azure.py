"""Logins by an Azure identity: against Entra's protocol and a registry with ACR's exchange, over real sockets."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.domain.registry import AzureAuth, RegistryEntry
from app.net.address_guard import AddressRules
from app.registry.auth.azure import AzureIdentity, acr_cloud
from app.registry.auth.credentials import Login
from app.registry.http.client import HttpClient
from app.registry.http.host_trust import Trust
from tests.registry.auth.test_aws import logging_at_debug
from tests.registry.conftest import SETTINGS, Connect, entry_of, upload
from tests.support.certificates import KeyPair, make_authority
from tests.support.clock import SettableClock
from tests.support.entra_server import APP, TENANT, EntraServer
from tests.support.fake_registry import ACR, FakeRegistry, Respond, fake_registry, on
from tests.support.images import blob, oci_image
from tests.support.processes import free_port

HOUR = 3600
SECRET = "canary-5f1c0e7a"
PRINCIPAL: dict[str, Any] = {"type": "azure", "tenant_id": TENANT, "client_id": APP, "client_secret": SECRET}
IMAGE = oci_image("app")
V1 = Tag("v1")


@pytest.fixture
def entra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EntraServer]:
    """Run Entra and a machine's metadata, and point azure-identity at them as an operator would."""
    for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "CLIENT_CERTIFICATE_PATH", "FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(f"AZURE_{name}", raising=False)
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with EntraServer(tmp_path / "entra") as entra:
        entra.add_secret(APP, SECRET)
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", entra.url)
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.imds_url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(entra.ca_file))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield entra


def acr(entra: EntraServer, clock: SettableClock, *, members: tuple[str, ...] = (APP,)) -> Any:
    """Run a registry of ACR whose members may do everything."""
    accounts = dict.fromkeys(members, "no password is good here")
    return fake_registry(ACR, accounts=accounts, entra=entra.owner_of, clock=clock, anonymous_actions=frozenset())


@pytest.fixture
async def registry(entra: EntraServer, clock: SettableClock) -> AsyncIterator[FakeRegistry]:
    """Run a registry of ACR with an image, that the service principal may do everything in."""
    async with acr(entra, clock) as registry:
        registry.load("team/app", IMAGE, "v1")
        yield registry


async def fetched(registry: FakeRegistry, clock: SettableClock, *, proxy: str | None = None, **auth: Any) -> Login:
    """Have an identity ask by itself: the machine's is not shown to the loopback of tests."""
    parsed = AzureAuth.model_validate({"type": "azure"} | auth)
    entry = entry_of(registry, auth=parsed, proxy=proxy)
    http = HttpClient(entry, Trust(entry), rules=AddressRules(), settings=SETTINGS)
    try:
        login = (await AzureIdentity(entry, parsed, http, clock=clock).fetch()).login
    finally:
        http.close()
    assert login.identity_token in registry.site.identity_tokens
    return login


async def refusal(registry: FakeRegistry, clock: SettableClock, **auth: Any) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await fetched(registry, clock, **auth)
    return refused.value


async def test_a_service_principal_reads_lists_and_writes(
    entra: EntraServer, registry: FakeRegistry, connect: Connect
) -> None:
    client = connect(registry, auth=PRINCIPAL)
    assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
    assert [tag async for tag in client.list_tags("team/app")] == ["v1"]
    assert [path async for path in client.list_repositories()] == ["team/app"]
    await upload(client, "team/app", blob("more", size=9))
    assert len(entra.issued) == registry.journal.count("exchange") == 1
    assert registry.journal.count("token") > 2
    registry.check()


async def test_a_service_principal_logs_in_with_a_certificate(entra: EntraServer, clock: SettableClock) -> None:
    pair, other = make_authority("app"), make_authority("other")
    app = "cccccccc-bbbb-cccc-dddd-eeeeeeeeeeee"
    entra.add_key(app, pair.key.public_key())
    async with acr(entra, clock, members=(app,)) as registry:
        auth = {"tenant_id": TENANT, "client_id": app}
        await fetched(registry, clock, **auth, client_certificate=pem(pair))
        assert (await refusal(registry, clock, **auth, client_certificate=pem(other))).code == "unauthorized"


async def test_the_managed_identity_of_the_machine_logs_in(entra: EntraServer, clock: SettableClock) -> None:
    other = "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee"
    entra.machine = {APP}
    async with acr(entra, clock, members=(APP, other)) as registry:
        await fetched(registry, clock)
        missing = await refusal(registry, clock, client_id=other)
        assert (missing.code, missing.temporary) == ("unauthorized", False)
        assert "no such identity" in missing.message
        entra.machine = {APP, other}
        login = await fetched(registry, clock, client_id=other)
        assert registry.site.identity_tokens[login.identity_token] == other


async def test_the_workload_identity_of_a_pod_logs_in(
    entra: EntraServer, clock: SettableClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = "dddddddd-bbbb-cccc-dddd-eeeeeeeeeeee"
    entra.trust_projected(app, "a.projected.token")
    (tmp_path / "token").write_text("a.projected.token")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", app)
    async with acr(entra, clock, members=(app,)) as registry:
        await fetched(registry, clock)


async def test_a_principal_in_the_environment_is_an_identity_of_the_machine(
    registry: FakeRegistry, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TENANT_ID": TENANT, "CLIENT_ID": APP, "CLIENT_SECRET": SECRET}.items():
        monkeypatch.setenv(f"AZURE_{name}", value)
    await fetched(registry, clock)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"client_secret": "wrong"}, "AADSTS7000215: Invalid client secret provided"),
        ({"client_id": "ffffffff-bbbb-cccc-dddd-eeeeeeeeeeee"}, "AADSTS700016"),
        ({"tenant_id": "nowhere.example.com"}, "AADSTS90002"),
    ],
    ids=["secret", "application", "tenant"],
)
async def test_an_identity_that_entra_does_not_take_is_unauthorized(
    registry: FakeRegistry, clock: SettableClock, change: dict[str, str], words: str
) -> None:
    error = await refusal(registry, clock, **PRINCIPAL | change)
    assert (error.code, error.temporary) == ("unauthorized", False)
    assert words in error.message
    assert "Trace ID" not in error.message
    assert registry.journal.count() == 0


async def test_an_identity_without_a_role_is_denied_with_what_to_assign(
    entra: EntraServer, clock: SettableClock
) -> None:
    async with acr(entra, clock, members=("somebody",)) as registry:
        error = await refusal(registry, clock, **PRINCIPAL)
        assert (error.code, error.temporary) == ("denied", False)
        assert "AcrPull" in error.message


async def test_a_registry_that_exchanges_nothing_is_told(entra: EntraServer, clock: SettableClock) -> None:
    async with fake_registry() as registry:
        error = await refusal(registry, clock, **PRINCIPAL)
        assert (error.code, error.temporary) == ("unauthorized", False)
        assert "is it a registry of ACR?" in error.message


@pytest.mark.parametrize("auth", [PRINCIPAL, {}], ids=["principal", "machine"])
async def test_an_outage_of_azure_is_temporary(
    registry: FakeRegistry, clock: SettableClock, monkeypatch: pytest.MonkeyPatch, auth: dict[str, Any]
) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{free_port()}")
    error = await refusal(registry, clock, **auth)
    assert (error.code, error.temporary) == ("registry_unreachable", True)
    assert SECRET not in f"{error!r} {error.message}"


async def test_a_failure_of_entra_is_temporary(
    entra: EntraServer, registry: FakeRegistry, clock: SettableClock
) -> None:
    entra.fails_with = 503
    error = await refusal(registry, clock, **PRINCIPAL)
    assert (error.code, error.temporary) == ("registry_unreachable", True)


async def test_a_failure_of_the_exchange_is_temporary(registry: FakeRegistry, clock: SettableClock) -> None:
    registry.faults.add(Respond(503), matching=on("exchange"))
    assert (await refusal(registry, clock, **PRINCIPAL)).temporary


async def test_a_login_is_renewed_before_its_three_hours_end(
    registry: FakeRegistry, connect: Connect, clock: SettableClock
) -> None:
    client = connect(registry, auth=PRINCIPAL)
    await client.head_manifest("team/app", V1)
    clock.advance(2 * HOUR)
    await client.head_manifest("team/app", V1)
    assert registry.journal.count("exchange") == 1
    clock.advance(0.8 * HOUR)
    await asyncio.gather(*(client.head_manifest("team/app", V1) for _ in range(5)))
    async with asyncio.timeout(20):
        while registry.journal.count("exchange") < 2:  # noqa: ASYNC110 — a thread of azure-identity is in between
            await asyncio.sleep(0.01)
    await client.head_manifest("team/app", V1)
    assert registry.journal.count("exchange") == 2


async def test_a_refresh_token_that_is_revoked_is_replaced_in_the_middle_of_a_job(
    registry: FakeRegistry, connect: Connect, clock: SettableClock
) -> None:
    client = connect(registry, auth=PRINCIPAL)
    await client.head_manifest("team/app", V1)
    clock.advance(HOUR)  # the access token is over, and the refresh token does not last its three hours
    registry.site.identity_tokens.clear()
    assert await client.head_manifest("team/app", V1)
    assert registry.journal.count("exchange") == 2


async def test_a_new_refresh_token_that_is_refused_is_not_asked_for_again(
    registry: FakeRegistry, connect: Connect
) -> None:
    registry.faults.add(Respond(401), matching=on("token"), times=None)
    client = connect(registry, auth=PRINCIPAL)
    for _ in range(3):
        with pytest.raises(RegistryError) as refused:
            await client.head_manifest("team/app", V1)
        assert refused.value.code == "unauthorized"
    assert registry.journal.count("exchange") == 1


async def test_nothing_secret_is_in_the_log(
    entra: EntraServer, registry: FakeRegistry, connect: Connect, clock: SettableClock
) -> None:
    with logging_at_debug() as logged:
        client = connect(registry, auth=PRINCIPAL)
        await client.head_manifest("team/app", V1)
        await refusal(registry, clock, **PRINCIPAL | {"client_secret": f"{SECRET}-wrong"})
    secrets = [SECRET, *entra.issued, *registry.site.identity_tokens, *(t.value for t in registry.auth.tokens)]
    assert len(secrets) > 3
    assert not [secret for secret in secrets if secret in logged.getvalue()]


async def test_entra_is_asked_through_the_proxy_of_the_entry(
    entra: EntraServer, registry: FakeRegistry, clock: SettableClock
) -> None:
    error = await refusal(registry, clock, proxy=f"http://127.0.0.1:{free_port()}", **PRINCIPAL)
    assert error.code == "registry_unreachable"
    assert entra.issued == []


async def test_without_the_extra_the_refusal_names_it(
    registry: FakeRegistry, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)  # as where it was never installed
    assert "registry-sync[azure]" in (await refusal(registry, clock, **PRINCIPAL)).message


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        ("old.azurecr.io", "io"),
        ("old-abc123.azurecr.io", "io"),
        ("old.azurecr.cn", "cn"),
        ("old.azurecr.us", "us"),
        ("old.azurecr.io:8443", None),
        ("old.azurecr.io.example.com", None),
        ("azurecr.io", None),
        ("evil-azurecr.io", None),
    ],
)
def test_the_cloud_is_in_the_host(host: str, cloud: str | None) -> None:
    assert acr_cloud(RegistryEntry(name="a", host=host).registry) == cloud


def pem(pair: KeyPair) -> str:
    return (pair.certificate_pem() + pair.key_pem()).decode()
