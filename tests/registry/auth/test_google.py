"""Logins by a Google identity: against its token endpoint and a machine's metadata, over real sockets."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.compute_engine import _metadata

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.domain.registry import GoogleAuth, RegistryEntry
from app.registry.auth.google import GoogleIdentity, is_google
from app.registry.auth.renewal import RenewableLogin
from tests.registry.auth.test_aws import logging_at_debug
from tests.registry.conftest import Connect
from tests.support.fake_registry import Quirks, fake_registry
from tests.support.google_server import TOKEN, USERNAME, GoogleServer
from tests.support.images import oci_image
from tests.support.processes import free_port

GAR = "europe-docker.pkg.dev"
ACCOUNT = "puller@project.iam.gserviceaccount.com"
IMAGE = oci_image("app")
V1 = Tag("v1")


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleServer]:
    """Run Google, and lead google-auth to it as an operator's proxy would."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with GoogleServer(tmp_path / "google") as google:
        monkeypatch.setenv("HTTPS_PROXY", google.proxy_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(google.ca_file))
        # What GCE_METADATA_HOST says, which is read when the library is imported.
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", google.metadata_host)
        yield google


async def fetched(key: str | None = None, *, proxy: str | None = None) -> RenewableLogin:
    account = json.loads(key)["client_email"] if key else None
    auth = GoogleAuth.model_validate({"type": "google", "service_account": account, "service_account_key": key})
    got = await GoogleIdentity(RegistryEntry(name="gar", host=GAR, auth=auth, proxy=proxy), auth).fetch()
    assert (got.login.username, got.login.password) == (USERNAME, TOKEN)
    return got


async def refusal(key: str | None = None, *, proxy: str | None = None) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await fetched(key, proxy=proxy)
    return refused.value


async def test_a_key_of_a_service_account_logs_in_and_reads(google: GoogleServer, connect: Connect) -> None:
    auth = {"type": "google", "service_account": ACCOUNT, "service_account_key": google.make_key(ACCOUNT)}
    quirks = Quirks(auth="token", realm="same_host")
    async with fake_registry(quirks, accounts={USERNAME: TOKEN}, anonymous_actions=frozenset()) as registry:
        registry.load("project/app", IMAGE, "v1")
        client = connect(registry, auth=auth)
        assert (await client.get_manifest("project/app", V1)).digest == IMAGE.digest
        assert google.issued == 1
        registry.check()


async def test_the_machines_service_account_logs_in(google: GoogleServer) -> None:
    await fetched()
    google.has_machine = False
    error = await refusal()
    assert (error.code, error.temporary) == ("registry_unreachable", True)
    assert "is a service account attached" in error.message


async def test_a_file_of_the_environment_is_an_identity_of_the_machine(
    google: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    google.has_machine = False
    (tmp_path / "key.json").write_text(google.make_key(ACCOUNT))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    await fetched()
    (tmp_path / "key.json").write_text("{}")
    assert (await refusal()).code == "unauthorized"


async def test_a_key_that_google_does_not_take_is_unauthorized(google: GoogleServer) -> None:
    key = google.make_key(ACCOUNT)
    google.make_key(ACCOUNT)
    replaced = await refusal(key)
    google.forget(ACCOUNT)
    gone = await refusal(key)
    assert (replaced.code, replaced.temporary, gone.code) == ("unauthorized", False, "unauthorized")
    assert "Invalid JWT Signature" in replaced.message
    assert "account not found" in gone.message


async def test_an_outage_of_google_is_temporary(google: GoogleServer) -> None:
    away = await refusal(google.make_key(ACCOUNT), proxy=f"http://127.0.0.1:{free_port()}")
    assert (away.code, away.temporary) == ("registry_unreachable", True)


async def test_a_key_does_not_say_where_tokens_are_asked_for(google: GoogleServer) -> None:
    stranger = f"https://127.0.0.1:{free_port()}/token"
    await fetched(google.make_key(ACCOUNT, token_uri=stranger, universe_domain="evil.example.com"))


async def test_google_is_asked_through_the_proxy_of_the_entry(
    google: GoogleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HTTPS_PROXY")
    await fetched(google.make_key(ACCOUNT), proxy=google.proxy_url)
    assert google.issued == 1


async def test_nothing_secret_is_in_the_log(google: GoogleServer) -> None:
    key = google.make_key(ACCOUNT)
    with logging_at_debug() as logged:
        await fetched(key)
        await fetched()
        google.forget(ACCOUNT)
        await refusal(key)
    assert TOKEN not in logged.getvalue()
    assert json.loads(key)["private_key"][100:160] not in logged.getvalue()


async def test_without_the_extra_the_refusal_names_it(google: GoogleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)  # as where it was never installed
    assert "registry-sync[google]" in (await refusal()).message


@pytest.mark.parametrize("host", [GAR, "gcr.io", "eu.gcr.io"])
def test_hosts_of_google_are_known(host: str) -> None:
    assert is_google(RegistryEntry(name="a", host=host).registry)


@pytest.mark.parametrize("host", ["gcr.io.example.com", "evilgcr.io", "docker.pkg.dev", f"{GAR}:8443"])
def test_other_hosts_are_not_googles(host: str) -> None:
    assert not is_google(RegistryEntry(name="a", host=host).registry)
