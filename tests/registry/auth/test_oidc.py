"""Logins by OpenID Connect: against an issuer over TLS, and a registry that takes what was issued."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Tag
from app.domain.registry import RegistryEntry
from app.domain.registry_logins import LoginRules, OidcAuth
from app.net.address_guard import AddressRules
from app.registry.auth.oidc import OidcIdentity
from app.registry.auth.renewal import RenewableLogin
from app.registry.http.client import HttpClient
from app.registry.http.host_trust import Trust
from tests.registry.auth.test_aws import logging_at_debug
from tests.registry.conftest import SETTINGS, Connect, basic
from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.support.images import oci_image
from tests.support.issuer_server import EXCHANGE, IssuerServer

IMAGE = oci_image("app")
V1 = Tag("v1")
SECRET = "s3cret: with/odd+signs"
CLIENT = {"client_id": "sync@corp", "client_secret": SECRET}


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[IssuerServer]:
    """Run an issuer that knows one client and one robot."""
    with IssuerServer(tmp_path / "issuer") as issuer:
        issuer.clients[CLIENT["client_id"]] = SECRET
        issuer.robots.add("team+sync")
        yield issuer


def client_of(issuer: IssuerServer, **more: Any) -> dict[str, Any]:
    return {"type": "oidc", "token_url": f"{issuer.url}/token", **CLIENT, **more}


def private(**accounts: str) -> Any:
    """Run a registry that nobody reads anonymously."""
    return fake_registry(Quirks(auth="token"), accounts=accounts, anonymous_actions=frozenset())


def trusting(issuer: IssuerServer) -> dict[str, Any]:
    """Trust an issuer at a private address, with an authority of its own."""
    return {"trusted_hosts": [issuer.host], "tls": {"ca": issuer.ca}}


async def fetched(
    issuer: IssuerServer, clock: SettableClock, *, file: Path | None = None, trusts: bool = True, **auth: Any
) -> RenewableLogin:
    """Have an identity ask by itself; the registry is at the issuer's address too, as Quay is."""
    parsed = OidcAuth.model_validate({"type": "oidc"} | auth)
    given = trusting(issuer) if trusts else {"tls": {"ca": issuer.ca}}
    host = issuer.host if trusts else "registry.example.com"
    entry = RegistryEntry.model_validate({"name": "r", "host": host, "auth": parsed, **given})
    rules = LoginRules(token_files=((host, str(file)),) if file else ())
    http = HttpClient(entry, Trust(entry), rules=AddressRules(), settings=replace(SETTINGS, logins=rules))
    try:
        return await OidcIdentity(entry, parsed, http, clock=clock).fetch()
    finally:
        http.close()


async def refusal(issuer: IssuerServer, clock: SettableClock, **given: Any) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        await fetched(issuer, clock, **given)
    return refused.value


async def issued_to(connect: Connect, registry: FakeRegistry) -> str:
    """Have the registry make a token that it takes, as one that trusts the issuer does."""
    registry.load("team/app", IMAGE, "v1")
    await connect(registry, auth=basic(("ann", "secret"))).head_manifest("team/app", V1)
    return registry.auth.tokens[-1].value


async def test_a_client_is_asked_for_once_and_its_token_is_a_password(connect: Connect, issuer: IssuerServer) -> None:
    async with private(sync="issued-1") as registry:
        registry.load("team/app", IMAGE, "v1")
        issuer.next_token = "issued-1"
        auth = client_of(issuer, username="sync", scope="registry", audience="harbor")
        client = connect(registry, auth=auth, **trusting(issuer))
        await asyncio.gather(*(client.get_manifest("team/app", V1) for _ in range(5)))
    assert issuer.forms == [{"grant_type": "client_credentials", "scope": "registry", "audience": "harbor"}]


async def test_a_bearer_token_is_renewed_before_it_ends_and_when_it_is_refused(
    connect: Connect, issuer: IssuerServer, clock: SettableClock
) -> None:
    async with private(ann="secret") as registry:
        issuer.next_token = await issued_to(connect, registry)
        client = connect(registry, host=f"{registry.host}/team", auth=client_of(issuer), **trusting(issuer))
        await client.get_manifest("team/app", V1)
        registry.auth.revoke_all()
        clock.advance(6)
        other = connect(registry, auth=basic(("ann", "secret")))
        await other.get_manifest("team/app", V1)
        issuer.next_token = registry.auth.tokens[-1].value
        assert (await client.get_manifest("team/app", V1)).digest == IMAGE.digest
    assert len(issuer.issued) == 2


async def test_a_projected_token_is_shown_as_it_is_and_lasts_as_it_says(
    issuer: IssuerServer, clock: SettableClock, tmp_path: Path
) -> None:
    token = issuer.project(seconds=600)
    (tmp_path / "token").write_text(f"{token}\n")
    got = await fetched(issuer, clock, file=tmp_path / "token")
    assert got.login.bearer == token
    assert got.ends_at is not None
    assert got.shortest.total_seconds() < 60
    named = await fetched(issuer, clock, file=tmp_path / "token", username="sync")
    assert (named.login.username, named.login.password) == ("sync", token)


@pytest.mark.parametrize("subject", ["projected", "client"])
async def test_a_token_is_exchanged_for_one_of_the_registrys(
    issuer: IssuerServer, clock: SettableClock, tmp_path: Path, subject: str
) -> None:
    (tmp_path / "token").write_text(issuer.project())
    client = {} if subject == "projected" else {name: client_of(issuer)[name] for name in ("token_url", *CLIENT)}
    got = await fetched(
        issuer,
        clock,
        file=tmp_path / "token",
        exchange="token_exchange",
        exchange_url=f"{issuer.url}/token",
        audience="harbor",
        resource="urn:quay:robot:team+sync",
        **client,
    )
    form = issuer.forms[-1]
    assert got.login.bearer == issuer.issued[-1]
    assert (form["grant_type"], form["audience"], form["resource"]) == (EXCHANGE, "harbor", "urn:quay:robot:team+sync")
    kind = "jwt" if subject == "projected" else "access_token"
    assert form["subject_token_type"] == f"urn:ietf:params:oauth:token-type:{kind}"
    assert len(issuer.forms) == (1 if subject == "projected" else 2)


async def test_a_robot_of_quay_gets_its_token_for_one_of_the_issuer(
    issuer: IssuerServer, clock: SettableClock, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(issuer.project())
    got = await fetched(issuer, clock, file=tmp_path / "token", exchange="quay", username="team+sync")
    assert (got.login.username, got.login.password) == ("team+sync", issuer.issued[-1])
    other = await refusal(issuer, clock, file=tmp_path / "token", exchange="quay", username="team+other")
    assert (other.code, other.temporary) == ("unauthorized", False)
    assert "federation" in other.message


@pytest.mark.parametrize(
    ("said", "code", "temporary"),
    [
        ((503, {}), "registry_unreachable", True),
        ((429, {"error": "slow down"}), "rate_limited", True),
        ((400, {"error": "temporarily_unavailable"}), "rate_limited", True),
        ((403, {"message": "You have exceeded a secondary rate limit"}), "rate_limited", True),
        ((401, {"error": "invalid_client", "error_description": "no such client"}), "unauthorized", False),
        ((302, {}), "unauthorized", False),
        ((200, {"access_token": "two words"}), "unauthorized", False),
        ((200, {"access_token": 5}), "unauthorized", False),
        ((200, {}), "unauthorized", False),
    ],
)
async def test_what_may_pass_is_temporary_and_the_rest_is_about_the_identity(
    issuer: IssuerServer, clock: SettableClock, said: Any, code: str, *, temporary: bool
) -> None:
    issuer.fails = said
    error = await refusal(issuer, clock, **client_of(issuer))
    assert (error.code, error.temporary) == (code, temporary)
    if said[0] == 401:
        assert "invalid_client: no such client" in error.message
        assert "client_secret" in error.message


@pytest.mark.parametrize("seconds", [-1, 0, True, "soon", None, 10**30])
async def test_a_lying_expiry_is_not_believed(issuer: IssuerServer, clock: SettableClock, seconds: Any) -> None:
    issuer.seconds = seconds
    got = await fetched(issuer, clock, **client_of(issuer))
    assert got.ends_at is not None
    assert 0 < (got.ends_at - clock()).total_seconds() <= 300


async def test_an_issuer_at_a_private_address_is_asked_only_where_it_is_trusted(
    issuer: IssuerServer, clock: SettableClock
) -> None:
    error = await refusal(issuer, clock, trusts=False, **client_of(issuer))
    assert error.code == "host_not_allowed"
    assert issuer.forms == []


async def test_a_token_file_that_can_not_be_read_says_nothing_of_the_machine(
    issuer: IssuerServer, clock: SettableClock, tmp_path: Path
) -> None:
    messages = set()
    for content in (None, "", "two words", "é", "x" * 20_000):
        if content is not None:
            (tmp_path / "token").write_text(content)
        error = await refusal(issuer, clock, file=tmp_path / "token")
        assert error.code == "unauthorized"
        messages.add(error.message)
    assert str(tmp_path) not in " ".join(messages)


async def test_a_token_that_its_exchange_repeats_is_in_no_error(
    issuer: IssuerServer, clock: SettableClock, tmp_path: Path
) -> None:
    token = issuer.project()
    (tmp_path / "token").write_text(token)
    issuer.fails = (400, {"error": "invalid_request", "error_description": f"can't use {token} here"})
    with logging_at_debug() as logged:
        error = await refusal(
            issuer, clock, file=tmp_path / "token", exchange="token_exchange", exchange_url=f"{issuer.url}/token"
        )
    assert "invalid_request: can't use" in error.message
    assert token not in error.message + logged.getvalue()


async def test_nothing_secret_is_in_the_log(issuer: IssuerServer, clock: SettableClock, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(issuer.project())
    with logging_at_debug() as logged:
        await fetched(issuer, clock, **client_of(issuer))
        await fetched(issuer, clock, file=tmp_path / "token", exchange="quay", username="team+sync")
        await refusal(issuer, clock, **client_of(issuer, client_secret="wrong-canary"))
    for secret in (SECRET, "canary", (tmp_path / "token").read_text()):
        assert secret not in logged.getvalue()
