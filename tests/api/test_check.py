"""Can a registry be reached, logged in to, listed, pushed to? Asked of real ones."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.api.conftest import Api, Serve, pointers
from tests.conftest import Namespace
from tests.support.images import oci_image
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
    assert told(listed) == [("reach", True, None), ("list", True, None)]
    assert told(pushed) == [("reach", True, None), ("list", True, None), ("push", True, None)]
    assert "1.0" in pushed["steps"][1]["detail"]
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


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
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
