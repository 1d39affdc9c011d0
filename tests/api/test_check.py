"""Can a registry be reached, logged in to, listed, pushed to? Asked of real ones."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, Serve, pointers
from tests.conftest import Namespace
from tests.support.entra_server import APP, TENANT, EntraServer
from tests.support.fake_registry import ACR, Quirks, fake_registry
from tests.support.images import oci_image, oci_index
from tests.support.processes import free_port
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.token_server import Account, TokenServer

StartRegistry = Callable[[RegistryOptions], RegistryProcess]


@pytest.fixture
async def patient(serve: Serve) -> AsyncIterator[Api]:
    """Serve the application, which tries each request to a registry once."""
    async with serve(registry_attempts=1, registry_connect_timeout="2s") as api:
        yield api


async def check(api: Api, entry: dict[str, Any], **body: Any) -> dict[str, Any]:
    entered = await api.client.put("/v1/registries/r", json={"insecure": True} | entry)
    assert entered.is_success, entered.text
    answer = await api.client.post("/v1/registries/r/check", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def told(found: dict[str, Any]) -> list[tuple[str, bool, str | None]]:
    return [(step["name"], step["ok"], step["error"] and step["error"]["code"]) for step in found["steps"]]


async def test_a_registry_that_is_well_is_told_so(patient: Api, source: Namespace) -> None:
    source.push("app", oci_image("a"), "1.0")

    listed = await check(patient, {"host": source.host})
    pushed = await check(patient, {"host": source.host}, repository=source.repository("app"), push=True)
    new = await check(patient, {"host": source.host}, repository=source.repository("new"), push=True)

    assert listed["ok"] is pushed["ok"] is new["ok"] is True
    walked = [("reach", True, None), ("list", True, None), ("read", True, None)]
    assert told(listed) == walked
    assert told(pushed) == [*walked, ("push", True, None)]
    assert told(new) == [("reach", True, None), ("list", True, None), ("push", True, None)]
    assert "1.0" in pushed["steps"][1]["detail"]
    assert source.host in pushed["steps"][2]["detail"]
    assert source.repository("new") not in source.client.list_repositories()


async def test_a_password_that_is_wrong_is_told_apart_from_a_host_that_is_not_there(
    patient: Api, start_registry: StartRegistry
) -> None:
    registry = start_registry(RegistryOptions(users={"ann": "right"}))

    def basic(password: str) -> dict[str, Any]:
        return {"host": registry.host, "auth": {"type": "basic", "username": "ann", "password": password}}

    right, wrong = await check(patient, basic("right")), await check(patient, basic("wrong"))
    without = await check(patient, {"host": registry.host, "auth": {"type": "none"}})
    gone = await check(patient, {"host": f"127.0.0.1:{free_port()}"})

    assert told(right) == [("reach", True, None), ("log_in", True, None), ("list", True, None)]
    assert told(wrong) == [("reach", True, None), ("log_in", False, "unauthorized")]
    assert told(without)[0] == ("reach", True, None)
    assert without["ok"] is False
    assert told(gone) == [("reach", False, "registry_unreachable")]
    assert not wrong["ok"]
    assert not gone["ok"]


async def test_who_may_only_read_is_told_so(patient: Api, start_registry: StartRegistry) -> None:
    reads = {"*": frozenset({"pull"})}
    with TokenServer({"ann": Account("pw", reads, catalog=False)}) as tokens:
        registry = start_registry(RegistryOptions(token_server=tokens))
        auth = {"type": "basic", "username": "ann", "password": "pw"}

        found = await check(patient, {"host": registry.host, "auth": auth}, repository="team/app", push=True)

    assert told(found)[:2] == [("reach", True, None), ("log_in", True, None)]
    assert told(found)[-1][:2] == ("push", False)
    assert found["ok"] is False


@pytest.mark.parametrize("kind", ["docker_hub", "harbor", "quay", "gitlab"])
async def test_repositories_are_listed_by_the_registrys_own_api(patient: Api, kind: Any) -> None:
    quirks = Quirks(auth="token", realm="same_host", catalog_status=404, api=kind, gitlab_projects=("team/app",))
    async with fake_registry(quirks) as registry:
        registry.load("team/app", oci_image("a"), "1.0")
        entry = {"host": f"{registry.host}/team", "type": kind}

        found = await check(patient, entry)
        registry.change(api_status=403)
        refused = await check(patient, entry)

    assert told(found)[-2:] == [("list", True, None), ("read", True, None)]
    assert "team/app" in found["steps"][-2]["detail"]
    assert told(refused)[-1] == ("list", False, "denied")
    assert (refused["steps"][-1]["is_needed"], refused["ok"]) == (True, False)


async def test_a_robot_that_may_not_list_everything_is_well(patient: Api) -> None:
    quirks = Quirks(auth="token", realm="same_host", catalog_status=401, api="harbor", api_status=403)
    async with fake_registry(quirks, accounts={"robot$sync": "secret"}) as registry:
        registry.load("team/app", oci_image("a"), "1.0")
        auth = {"type": "basic", "username": "robot$sync", "password": "secret"}
        everything = await check(patient, {"host": registry.host, "type": "harbor", "auth": auth})
        named = await check(patient, {"host": registry.host, "type": "harbor", "auth": auth}, repository="team/app")

    assert told(everything)[-1] == ("list", False, "denied")
    assert (everything["steps"][-1]["is_needed"], everything["ok"]) == (False, True)
    assert (told(named)[-1], named["ok"]) == (("read", True, None), True)


@pytest.mark.parametrize("kind", ["docker_hub", "ghcr", "quay"])
async def test_a_registry_that_is_made_without_such_a_list_is_well_and_says_what_to_do(patient: Api, kind: str) -> None:
    async with fake_registry(Quirks(auth="token", realm="same_host", catalog_status=404)) as registry:
        found = await check(patient, {"host": registry.host, "type": kind})

    assert told(found) == [("reach", True, None), ("list", True, None)]
    assert "in the rule" in found["steps"][-1]["detail"]


async def test_a_catalog_that_is_missing_is_told_with_what_may_help(patient: Api) -> None:
    async with fake_registry(Quirks(catalog_status=404)) as registry:
        found = await check(patient, {"host": registry.host})

    assert told(found) == [("reach", True, None), ("list", False, "listing_unsupported")]
    assert "set the type of its entry" in found["steps"][-1]["detail"]


async def test_a_login_that_is_not_taken_is_told_with_what_the_type_takes(patient: Api) -> None:
    async with fake_registry(Quirks(auth="basic")) as registry:
        auth = {"type": "basic", "username": "ann", "password": "hunter2"}
        found = await check(patient, {"host": registry.host, "type": "ecr", "auth": auth})

    assert told(found)[-1] == ("log_in", False, "unauthorized")
    assert "the user AWS" in found["steps"][-1]["detail"]
    assert "hunter2" not in str(found)


async def test_an_identity_is_told_with_when_its_login_ends_and_a_refused_one_with_why(
    patient: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EntraServer(tmp_path / "entra") as entra:
        entra.add_secret(APP, "s3cret")
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", entra.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(entra.ca_file))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        auth = {"type": "azure", "tenant_id": TENANT, "client_id": APP, "client_secret": "s3cret"}
        async with fake_registry(ACR, accounts={APP: ""}, entra=entra.owner_of) as registry:
            entry = {"host": registry.host, "type": "acr", "auth": auth}
            found = await check(patient, entry)
            refused = await check(patient, entry | {"auth": auth | {"client_secret": "wrong"}})

    assert ("log_in", True, None) in told(found)
    assert "lasts until 20" in found["steps"][1]["detail"]
    assert told(refused)[-1] == ("log_in", False, "unauthorized")
    assert "AADSTS7000215" in refused["steps"][-1]["detail"]
    assert "0000-0000" not in refused["steps"][-1]["detail"]


async def test_an_upload_that_was_opened_to_see_is_taken_back(patient: Api) -> None:
    async with fake_registry() as registry:
        found = await check(patient, {"host": registry.host}, repository="team/app", push=True)
        registry.check()

    assert told(found)[-1] == ("push", True, None)


async def test_the_way_to_the_storage_is_walked(patient: Api) -> None:
    quirks = Quirks(auth="token", realm="same_host", blob_redirect="stranger")
    async with fake_registry(quirks, hostnames={"stranger": "localhost"}) as registry:
        registry.load("team/app", oci_index([oci_image("a")]), "1.0")
        auth = {"type": "basic", "username": "ann", "password": "secret"}
        entry = {"host": registry.host, "auth": auth}
        for body in ({}, {"repository": "team/app"}, {"namespace": "team"}):
            refused = await check(patient, entry, **body)
            assert told(refused)[-1] == ("read", False, "host_not_allowed")
            assert "add localhost to trusted_hosts of the entry r" in refused["steps"][-1]["detail"]
            assert refused["ok"] is False
        walked = await check(patient, entry | {"trusted_hosts": ["localhost"]}, repository="team/app", push=True)
        registry.check()
    assert told(walked) == [(name, True, None) for name in ("reach", "log_in", "list", "read", "push")]
    assert "localhost" in walked["steps"][3]["detail"]


@pytest.mark.parametrize("with_login", [True, False])
async def test_a_token_server_that_is_not_asked_is_no_registry_that_is_not_there(
    patient: Api,
    *,
    with_login: bool,
) -> None:
    async with fake_registry(Quirks(auth="token", realm_url="https://localhost:1/token")) as registry:
        auth = {"auth": {"type": "basic", "username": "ann", "password": "secret"}} if with_login else {}
        found = await check(patient, {"host": registry.host} | auth)
    assert told(found) == [("reach", True, None), ("log_in", False, "realm_not_trusted")]


async def test_a_namespace_is_listed(patient: Api) -> None:
    async with fake_registry(Quirks(catalog_status=None)) as registry:
        registry.load("team/app", oci_image("a"), "1.0")
        found = await check(patient, {"host": registry.host}, namespace="team")
        none = await check(patient, {"host": registry.host}, namespace="nobody")
        registry.change(catalog_status=403)
        refused = await check(patient, {"host": registry.host}, namespace="team")
    assert (told(found)[-1], found["ok"]) == (("read", True, None), True)
    assert (told(none)[-1], "below nobody" in none["steps"][-1]["detail"]) == (("list", True, None), True)
    assert (told(refused)[-1], refused["ok"]) == (("list", False, "denied"), False)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"namespace": "elsewhere"}, {"/namespace": "invalid_repository"}),
        ({"namespace": "team/x", "repository": "team/app"}, {"/namespace": "conflicting_fields"}),
        ({"push": True}, {"/repository": "missing"}),
        ({"repository": "UP"}, {"/repository": "invalid_repository"}),
        ({"repository": "elsewhere/app"}, {"/repository": "invalid_repository"}),
        ({"repo": "x"}, {"/repo": "unknown_field"}),
    ],
)
async def test_a_wrong_check_is_refused_by_field(patient: Api, body: dict[str, Any], wrong: dict[str, str]) -> None:
    await patient.client.put("/v1/registries/r", json={"host": "a.example.com/team"})

    answer = await patient.client.post("/v1/registries/r/check", json=body)

    assert answer.status_code == 422
    assert pointers(answer) == wrong
