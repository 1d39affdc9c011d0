"""Who the registry takes a login for, and what it may do: said by a check, and nothing is made to see."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import Api
from tests.support.fake_registry import Quirks, fake_registry
from tests.support.images import oci_image
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.token_server import Account, TokenServer

IMAGE = oci_image("app")
PASSWORD = "secret"
StartRegistry = Callable[[RegistryOptions], RegistryProcess]


async def checked(api: Api, entry: dict[str, Any], **body: Any) -> dict[str, Any]:
    entered = await api.client.put("/v1/registries/r", json={"insecure": True} | entry)
    assert entered.is_success, entered.text
    answer = await api.client.post("/v1/registries/r/check", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def allowed(found: dict[str, Any]) -> dict[str, bool | None]:
    return {action: one["allowed"] for action, one in found["may"].items()}


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"type": "basic", "username": name, "password": password}


async def test_a_token_says_for_whom_it_is_and_what_it_allows(api: Api, start_registry: StartRegistry) -> None:
    accounts = {
        "reader": Account("pw", {"*": frozenset({"pull"})}, catalog=False),
        "writer": Account("pw", {"*": frozenset({"pull", "push"})}),
    }
    with TokenServer(accounts) as tokens:
        registry = start_registry(RegistryOptions(token_server=tokens))
        entry = {"host": registry.host, "type": "generic"}
        reader = await checked(api, entry | {"auth": basic("reader", "pw")}, repository="team/app")
        writer = await checked(api, entry | {"auth": basic("writer", "pw")}, repository="team/app")
        pushing = await checked(api, entry | {"auth": basic("reader", "pw")}, repository="team/app", push=True)

    assert (reader["identity"], reader["valid_until"]) == ("reader", None)
    assert allowed(reader) == {"list": None, "pull": True, "push": False, "create": False}
    assert allowed(writer) == {"list": None, "pull": True, "push": True, "create": True}
    assert (writer["identity"], "first push" in writer["may"]["create"]["detail"]) == ("writer", True)
    assert allowed(pushing)["push"] is False


async def test_what_tokens_do_not_say_is_said_by_what_was_tried_or_not_at_all(api: Api) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        entry = {"host": registry.host, "type": "generic"}
        looked = await checked(api, entry)
        pushed = await checked(api, entry, repository="team/app", push=True)
        registry.change(catalog_status=404)
        without = await checked(api, entry)
        made = registry.made
    assert looked["identity"] is None
    assert allowed(looked) == {"list": True, "pull": True, "push": None, "create": None}
    assert allowed(pushed) == {"list": True, "pull": True, "push": True, "create": True}
    assert allowed(without) == {"list": None, "pull": None, "push": None, "create": None}
    assert made == {}


async def test_a_list_that_a_registry_is_known_not_to_have_is_no_right_to_list(api: Api) -> None:
    async with fake_registry(Quirks(api="docker_hub")) as registry:
        registry.load("team/app", IMAGE, "v1")
        entry = {"host": registry.host, "type": "docker_hub"}
        whole = await checked(api, entry)
        part = await checked(api, entry, namespace="team")
    [listed] = [step for step in whole["steps"] if step["name"] == "list"]
    assert listed["ok"] is True, "nothing is wrong with the registry for it"
    assert (whole["may"]["list"]["allowed"], whole["may"]["list"]["detail"]) == (None, "it has no such list")
    assert allowed(part)["list"] is True


async def test_a_repository_that_is_not_there_does_not_say_that_it_may_be_listed(api: Api) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        found = await checked(api, {"host": registry.host}, repository="team/new", push=True)
        looked = await checked(api, {"host": registry.host}, repository="team/new")
        state = (await api.client.get("/v1/registries/r")).json()["state"]
    assert allowed(found) == {"list": None, "pull": None, "push": True, "create": True}
    assert "a repository comes with the first push here" in found["may"]["create"]["detail"]
    assert allowed(looked)["create"] is None
    assert "harbor, quay, docker_hub, ecr and gar" in looked["may"]["create"]["detail"]
    assert (state["window"], state["last_error"]) == (0, None)


async def test_a_login_ends_when_it_was_said_to_where_that_is_earlier(api: Api) -> None:
    ends = "2030-06-30T00:00:00Z"
    async with fake_registry() as registry:
        found = await checked(api, {"host": registry.host, "login_expires_at": ends, "auth": basic("ann")})
    assert found["valid_until"] == ends


async def test_nothing_is_said_of_a_login_that_is_not_taken(api: Api) -> None:
    async with fake_registry(Quirks(auth="basic")) as registry:
        found = await checked(api, {"host": registry.host, "auth": basic("ann", "wrong")})
    assert (found["ok"], found["identity"], found["may"]) == (False, None, None)


@pytest.mark.parametrize(
    ("kind", "name", "identity"),
    [
        ("harbor", "ann", "ann"),
        ("harbor", "robot$sync", "robot$sync"),
        ("docker_hub", "ann", "ann"),
        ("gitlab", "by-token", "ann"),
        ("github", "by-token", "ann"),
        ("quay", "$oauthtoken", "$oauthtoken"),
        ("quay", "team+robot", "team+robot"),
    ],
)
async def test_the_registrys_api_says_who_one_is(api: Api, kind: Any, name: str, identity: str) -> None:
    accounts = {"ann": "secret", name: "secret"}
    async with fake_registry(Quirks(auth="token", realm="same_host", api=kind), accounts=accounts) as registry:
        registry.load("team/app", IMAGE, "v1")
        entry = {"host": registry.host, "type": {"github": "ghcr"}.get(kind, kind), "auth": basic(name)}
        found = await checked(api, entry, repository="team/app")
        registry.check()
    assert found["identity"] == identity
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("kind", "name", "switches", "expected"),
    [
        ("harbor", "admin", {}, True),
        ("harbor", "ann", {}, False),
        ("harbor", "ann", {"harbor_makers": "everyone"}, True),
        ("harbor", "robot$sync", {}, None),
        ("quay", "$oauthtoken", {}, True),
        ("quay", "team+robot", {}, None),
        ("gar", "oauth2accesstoken", {}, True),
        ("gar", "oauth2accesstoken", {"creation_refused": True}, False),
        ("gar", "_json_key", {}, None),
        ("docker_hub", "ann", {}, None),
        ("gitlab", "ann", {}, None),
    ],
)
async def test_whether_a_repository_may_be_made_is_asked_without_making_one(
    api: Api, kind: str, name: str, switches: dict[str, Any], expected: Any
) -> None:
    api_of: Any = {"gar": "google"}.get(kind, kind)
    quirks = Quirks(auth="token", realm="same_host", api=api_of, **switches)
    async with fake_registry(quirks, accounts={name: "secret"}) as registry:
        registry.load("team/images/app", IMAGE, "v1")
        entry = {"host": registry.host, "type": kind, "auth": basic(name)}
        found = await checked(api, entry, repository="team/images/app")
        posted = [entry for entry in registry.journal.find("api") if entry.method == "POST"]
        made = registry.made
        registry.check()
    assert (found["ok"], allowed(found)["create"], made) == (True, expected, {})
    assert all(entry.path.endswith(":testIamPermissions") for entry in posted)
    if expected is not True:
        assert len(found["may"]["create"]["detail"]) > 20


async def test_an_organization_of_others_is_none_to_make_repositories_in(api: Api) -> None:
    quirks = Quirks(auth="token", realm="same_host", api="quay")
    async with fake_registry(quirks, accounts={"$oauthtoken": "secret"}) as registry:
        entry = {"host": registry.host, "type": "quay", "auth": basic("$oauthtoken")}
        found = [await checked(api, entry, namespace=name) for name in ("team", "other", "nobodys")]
    assert [allowed(one)["create"] for one in found] == [True, False, False]
