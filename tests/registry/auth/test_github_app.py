"""Logins by a GitHub App: against GitHub's protocol over TLS, with the app's proof really checked."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.registry.auth.github_app import github_api
from tests.registry.auth.test_aws import logging_at_debug
from tests.registry.conftest import Connect
from tests.support.certificates import KeyPair, make_authority
from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.images import oci_image
from tests.support.issuer_server import INSTALLATION, IssuerServer

IMAGE = oci_image("app")
V1 = Tag("v1")
APP = "Iv23liABCDEFGHIJKLMN"
TOKENS = ("ghs_canary-1", "ghs_canary-2")


@pytest.fixture
def key() -> KeyPair:
    return make_authority("app")


@pytest.fixture
def github(tmp_path: Path, key: KeyPair) -> Iterator[IssuerServer]:
    """Run a GitHub with one app."""
    with IssuerServer(tmp_path / "github") as github:
        github.apps[APP] = key.key.public_key()
        github.next_token = TOKENS[0]
        yield github


def entered(github: IssuerServer, key: KeyPair, **more: Any) -> dict[str, Any]:
    """Return what an operator enters beside the host."""
    auth = {
        "type": "github_app",
        "app_id": APP,
        "installation_id": INSTALLATION,
        "private_key": key.key_pem().decode(),
        "api_url": github.url,
    }
    return {"auth": auth | more, "trusted_hosts": [github.host], "tls": {"ca": github.ca}}


def ghcr(**accounts: str) -> Any:
    taken = accounts or {"x-access-token": TOKENS[0]}
    return fake_registry(Quirks(auth="token", token_expires_in=4000), accounts=taken, anonymous_actions=frozenset())


async def refusal(connect: Connect, registry: FakeRegistry, **fields: Any) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await connect(registry, **fields).get_manifest("team/app", V1)
    return refused.value


async def test_an_installation_logs_in_once_for_all_that_wait_and_is_renewed_ahead_of_time(
    connect: Connect, github: IssuerServer, key: KeyPair, clock: SettableClock
) -> None:
    async with ghcr() as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, **entered(github, key))
        await asyncio.gather(*(client.get_manifest("team/app", V1) for _ in range(5)))
        assert github.issued == [TOKENS[0]]
        ends_at = client.executor.login_ends_at
        assert ends_at is not None
        assert timedelta(minutes=58) < ends_at - clock() <= timedelta(hours=1)
        clock.advance(58 * 60)
        await client.get_manifest("team/app", V1)
        while len(github.issued) < 2:  # noqa: ASYNC110 — the server is in a thread
            await asyncio.sleep(0.01)


async def test_an_outage_of_github_is_temporary_and_is_waited_for(
    connect: Connect, github: IssuerServer, key: KeyPair, clock: SettableClock
) -> None:
    async with ghcr() as registry:
        registry.load("team/app", IMAGE, "v1")
        github.fails = (502, {"message": "Server Error"})
        error = await refusal(connect, registry, **entered(github, key))
        assert (error.code, error.temporary) == ("registry_unreachable", True)
        github.fails = None
        clock.advance(6)
        client = connect(registry, **entered(github, key))
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest


@pytest.mark.parametrize("wrong", [{"app_id": "other"}, {"installation_id": 1}, {"private_key": "another"}])
async def test_an_app_that_github_does_not_take_is_unauthorized(
    connect: Connect, github: IssuerServer, key: KeyPair, wrong: dict[str, Any]
) -> None:
    if "private_key" in wrong:
        wrong = {"private_key": make_authority("app").key_pem().decode()}
    async with ghcr() as registry:
        error = await refusal(connect, registry, **entered(github, key, **wrong))
    assert (error.code, error.temporary) == ("unauthorized", False)
    assert "installation_id" in error.message


async def test_nothing_secret_is_in_the_log(connect: Connect, github: IssuerServer, key: KeyPair) -> None:
    async with ghcr() as registry:
        registry.load("team/app", IMAGE, "v1")
        with logging_at_debug() as logged:
            await connect(registry, **entered(github, key)).get_manifest("team/app", V1)
            await refusal(connect, registry, host=f"{registry.host}/b", **entered(github, key, private_key="no PEM"))
    assert "canary" not in logged.getvalue()
    assert key.key_pem().decode()[100:160] not in logged.getvalue()


@pytest.mark.parametrize(
    ("registry", "api"),
    [
        ("ghcr.io", "https://api.github.com"),
        ("containers.github.example.com", "https://github.example.com/api/v3"),
        ("containers.corp.ghe.com", "https://api.corp.ghe.com"),
        ("registry.example.com", None),
        ("containers.example.com:8443", None),
    ],
)
def test_the_api_of_a_github_follows_from_its_registrys_host(registry: str, api: str | None) -> None:
    assert github_api(registry) == api
