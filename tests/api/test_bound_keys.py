"""Keys that are bound: teams on one service neither touch nor see what is another's."""

from typing import Any

import httpx
import pytest

from app.domain.access import Scope
from app.services.api_keys import LOCAL_OPERATOR
from tests.api.conftest import Api, pointers

HOST = "registry.example.com"
ALL = sorted(set(Scope) - {Scope.HOOKS, Scope.AUDIT, Scope.KEYS})
OUTSIDE: list[tuple[str, str, dict[str, str]]] = [
    ("docker.io/library/redis", f"{HOST}/team-b/redis", {"/rules/0/destination/0": "not_granted"}),
    ("docker.io/library/redis", f"{HOST}/team-ab/redis", {"/rules/0/destination/0": "not_granted"}),
    ("docker.io/library/redis", f"{HOST}/team-a", {"/rules/0/destination/0": "not_granted"}),
    ("docker.io/library/redis", f"{HOST}/{{repository}}", {"/rules/0/destination/0": "not_granted"}),
    ("docker.io/library/redis", f"{HOST}/team-a{{tag}}/redis", {"/rules/0/destination/0": "not_granted"}),
    ("docker.io/library/redis", "docker.io/library/redis2", {"/rules/0/destination/0": "not_granted"}),
    ("docker.io/bitnami/redis", f"{HOST}/team-a/redis", {"/rules/0/source": "not_granted"}),
    (f"{HOST}/team-b/app", f"{HOST}/team-a/app", {"/rules/0/source": "not_granted"}),
    (f"{HOST}/**", f"{HOST}/team-a/all", {"/rules/0/source": "not_granted"}),
    (
        f"{HOST}/team-b/app",
        "evil.example.com/loot",
        {"/rules/0/source": "not_granted", "/rules/0/destination/0": "not_granted"},
    ),
]
INSIDE = [
    ("docker.io/library/redis", f"{HOST}/team-a/redis"),
    (f"{HOST}/team-a/**", f"{HOST}/team-a/copy/{{repository}}"),
    ("docker.io/library/redis", f"{HOST}/team-a/{{name}}"),
]


def bound_to(team: str) -> dict[str, Any]:
    """Return what binds a key to a team's repositories and policies."""
    return {
        "scopes": ALL,
        "allow": [
            {"registries": ["docker.io"], "repositories": ["library/*"], "direction": "read"},
            {"registries": [HOST], "repositories": [f"{team}/**"]},
        ],
        "policies": [f"{team}-*"],
    }


async def teams(api: Api) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Make a key that may do everything and one for each of two teams, and return the headers that show them."""
    await api.enter("docker.io", HOST)
    admin = await api.make_key("admin")
    api.client.headers.update(admin)
    first, second = (
        await api.make_key("team-a", **bound_to("team-a")),
        await api.make_key("team-b", **bound_to("team-b")),
    )
    del api.client.headers["Authorization"]
    return admin, first, second


async def submitted(api: Api, key: dict[str, str], team: str, **changes: Any) -> str:
    body = {"source": "docker.io/library/redis:7", "destination": f"{HOST}/{team}/redis"} | changes
    answer = await api.client.post("/v1/jobs", json=body, headers=key)
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    return job


async def test_a_bound_key_copies_from_and_to_its_own_repositories_only(api: Api) -> None:
    _, mine, _ = await teams(api)

    for source, destination, expected in OUTSIDE:
        for path in ("/v1/jobs", "/v1/plan"):
            body = {"rules": [{"source": source, "destination": [destination]}]}
            answer = await api.client.post(path, json=body, headers=mine)
            assert (answer.status_code, answer.json()["code"]) == (403, "not_granted"), (source, destination)
            assert pointers(answer) == expected, (source, destination)
    for source, destination in INSIDE:
        answer = await api.client.post("/v1/jobs", json={"source": source, "destination": destination}, headers=mine)
        assert answer.status_code == 202, (source, destination, answer.text)


async def test_a_policy_or_an_import_is_no_way_around_what_a_key_is_bound_to(api: Api) -> None:
    _, mine, _ = await teams(api)
    stolen = {"rules": [{"source": f"{HOST}/team-b/app", "destination": f"{HOST}/team-a/app"}]}
    fine = {"rules": [{"source": "docker.io/library/redis", "destination": f"{HOST}/team-a/redis"}]}
    config = {"as": "job", "destination": f"{HOST}/team-a", "config": f"{HOST}/team-b/app\n"}

    for name, body, field in (("team-a-x", stolen, "/rules/0/source"), ("other", fine, "/name")):
        answer = await api.client.put(f"/v1/policies/{name}", json=body, headers=mine)
        assert (answer.status_code, pointers(answer)) == (403, {field: "not_granted"})
    assert (await api.client.put("/v1/policies/team-a-x", json=fine, headers=mine)).status_code == 201
    patched = await api.client.patch("/v1/policies/team-a-x", json=stolen, headers=mine)
    assert (patched.status_code, patched.json()["code"]) == (403, "not_granted")
    imported = await api.client.post("/v1/policies/import?format=list", json=config, headers=mine)
    assert (imported.status_code, imported.json()["code"]) == (403, "not_granted"), imported.text


async def test_what_another_team_has_is_not_found_and_not_listed(api: Api) -> None:
    admin, mine, theirs = await teams(api)
    job = await submitted(api, theirs, "team-b")
    policy = {"rules": [{"source": "docker.io/library/redis", "destination": f"{HOST}/team-b/redis"}]}
    (await api.client.put("/v1/policies/team-b-x", json=policy, headers=theirs)).raise_for_status()
    run = (await api.client.post("/v1/policies/team-b-x/run", headers=theirs)).json()["id"]
    entry = {"host": f"{HOST}/team-b"}
    (await api.client.put("/v1/registries/b", json=entry, headers=theirs)).raise_for_status()

    for method, path in (
        *(
            (method, f"/v1/jobs/{one}{rest}")
            for one in (job, run)
            for method, rest in (
                ("GET", ""),
                ("DELETE", ""),
                ("GET", "/images"),
                ("GET", "/events"),
                ("POST", "/cancel"),
                ("POST", "/retry"),
                ("GET", "?wait=1s"),
                ("GET", "/images/1/log"),
            )
        ),
        ("GET", "/v1/policies/team-b-x"),
        ("PATCH", "/v1/policies/team-b-x"),
        ("DELETE", "/v1/policies/team-b-x"),
        ("POST", "/v1/policies/team-b-x/run"),
        ("GET", "/v1/registries/b"),
        ("DELETE", "/v1/registries/b"),
        ("POST", "/v1/registries/b/check"),
    ):
        body: dict[str, Any] | None = {} if method == "PATCH" else None
        answer = await api.client.request(method, path, json=body, headers=mine)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path, answer.text)
        streamed = await api.client.request(method, path, json=body, headers=mine | {"Accept": "text/event-stream"})
        assert streamed.status_code == 404, (method, path)
    assert await listed(api, mine) == ([], [], ["docker.io", HOST])
    assert await listed(api, theirs) == ([run, job], ["team-b-x"], ["b", "docker.io", HOST])
    assert await listed(api, admin) == ([run, job], ["team-b-x"], ["b", "docker.io", HOST])
    assert (await api.client.get(f"/v1/jobs/{job}", headers=admin)).json()["state"] == "queued"


async def listed(api: Api, key: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """Return the jobs, policies and registries that a key is shown."""

    async def of(kind: str, field: str) -> list[str]:
        return [one[field] for one in (await api.client.get(f"/v1/{kind}", headers=key)).json()["items"]]

    return await of("jobs", "id"), await of("policies", "name"), await of("registries", "name")


async def test_the_jobs_of_a_bound_key_are_its_own_unless_it_may_see_all(api: Api) -> None:
    admin, mine, _ = await teams(api)
    job = await submitted(api, mine, "team-a")
    seeing = bound_to("team-b") | {"jobs": "all", "name": "watcher"}
    watcher = {
        "Authorization": f"Bearer {(await api.client.post('/v1/keys', json=seeing, headers=admin)).json()['key']}"
    }

    assert (await api.client.get(f"/v1/jobs/{job}", headers=watcher)).status_code == 200
    retried = await api.client.post(f"/v1/jobs/{job}/cancel", headers=watcher)
    assert retried.status_code == 202
    # What it may see it still may not copy again.
    again = await api.client.post(f"/v1/jobs/{job}/retry", json={"only": "all"}, headers=watcher)
    assert (again.status_code, again.json()["code"]) == (403, "not_granted")


async def test_a_policy_that_a_key_may_see_it_may_run_whatever_that_copies(api: Api) -> None:
    admin, _, _ = await teams(api)
    policy = {"rules": [{"source": f"{HOST}/team-b/app", "destination": f"{HOST}/prod/app"}]}
    (await api.client.put("/v1/policies/release", json=policy, headers=admin)).raise_for_status()
    body = {"name": "releaser", "scope": "submit", "policies": ["release"]}
    key = {"Authorization": f"Bearer {(await api.client.post('/v1/keys', json=body, headers=admin)).json()['key']}"}

    ran = await api.client.post("/v1/policies/release/run", headers=key)
    assert ran.status_code == 202
    assert (await api.client.get(f"/v1/jobs/{ran.json()['id']}", headers=key)).status_code == 200
    changed = await api.client.patch("/v1/policies/release", json={"enabled": False}, headers=key)
    copied = await api.client.post("/v1/jobs", json=policy, headers=key)
    assert [changed.json()["code"], copied.json()["code"]] == ["not_granted", "not_granted"]


async def test_a_registry_is_entered_changed_and_checked_where_all_of_it_is_ones_own(api: Api) -> None:
    admin, mine, _ = await teams(api)

    whole = await api.client.put("/v1/registries/all", json={"host": HOST}, headers=mine)
    shared = await api.client.patch(f"/v1/registries/{HOST}", json={"insecure": True}, headers=mine)
    checked = await api.client.post(f"/v1/registries/{HOST}/check", headers=mine)
    own = await api.client.put("/v1/registries/a", json={"host": f"{HOST}/team-a"}, headers=mine)

    assert [whole.json()["code"], shared.json()["code"], checked.json()["code"]] == ["not_granted"] * 3
    assert own.status_code == 201
    assert not (await api.client.get(f"/v1/registries/{HOST}", headers=admin)).json()["insecure"]


async def test_high_priority_is_a_right_of_its_own(api: Api) -> None:
    admin, mine, _ = await teams(api)
    body = {"name": "plain", "scope": "submit"}
    plain = {"Authorization": f"Bearer {(await api.client.post('/v1/keys', json=body, headers=admin)).json()['key']}"}
    job = {"source": "docker.io/library/redis:7", "destination": f"{HOST}/team-a/redis", "priority": "high"}

    refused = await api.client.post("/v1/jobs", json=job, headers=plain)

    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert (await api.client.post("/v1/jobs", json=job | {"priority": "normal"}, headers=plain)).status_code == 202
    assert (await api.client.post("/v1/jobs", json=job, headers=mine)).status_code == 202


@pytest.mark.parametrize(("address", "status"), [("127.0.0.0/8", 200), ("203.0.113.0/24", 403)])
async def test_a_key_works_from_the_addresses_it_is_bound_to(api: Api, address: str, status: int) -> None:
    key = await api.make_key("read", addresses=[address])

    answer = await api.client.get("/v1/jobs", headers=key)

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "address_not_allowed"
        origin = {"Origin": str(api.client.base_url).rstrip("/")}
        text = key["Authorization"].removeprefix("Bearer ")
        assert (await api.client.post("/console/login", data={"key": text}, headers=origin)).status_code == 401


async def test_metrics_are_about_everything(api: Api) -> None:
    _, mine, _ = await teams(api)

    answer = await api.client.get("/metrics", headers=mine)

    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"": "scope_or_scopes"}),
        ({"scope": "read", "scopes": ["jobs:read"]}, {"": "scope_or_scopes"}),
        ({"scopes": ["jobs:all"]}, {"/scopes/0": "enum"}),
        ({"scope": "admin", "policies": ["a"]}, {"/scopes": "indivisible_scope"}),
        ({"scope": "read", "allow": [{"registries": []}]}, {"/allow/0/registries": "too_short"}),
        ({"scope": "read", "allow": [{"registries": ["a b"]}]}, {"/allow/0/registries/0": "invalid_pattern"}),
        (
            {"scope": "read", "allow": [{"registries": ["docker.io"], "repositories": ["a/**/b"]}]},
            {"/allow/0/repositories/0": "invalid_pattern"},
        ),
        ({"scope": "read", "policies": ["*-x"]}, {"/policies/0": "invalid_pattern"}),
        ({"scope": "read", "addresses": ["10.0.0.1/8"]}, {"/addresses/0": "ip_any_network"}),
    ],
)
async def test_what_a_key_is_bound_to_is_checked_field_by_field(
    api: Api, body: dict[str, Any], expected: dict[str, str]
) -> None:
    answer = await api.client.post("/v1/keys", json={"name": "ci", **body})

    assert (answer.status_code, pointers(answer)) == (422, expected)


async def test_a_key_gives_no_scope_that_it_does_not_have(api: Api) -> None:
    await api.make_key("admin")
    keys = api.service.keys
    made = await keys.create(name="keys", scopes={Scope.KEYS}, expires_seconds=None, caller=LOCAL_OPERATOR)

    answer = await api.client.post(
        "/v1/keys", json={"name": "root", "scope": "admin"}, headers={"Authorization": f"Bearer {made.text}"}
    )

    assert (answer.status_code, pointers(answer)) == (403, {"/scopes": "not_granted"})


async def test_a_key_is_shown_with_all_that_binds_it(api: Api) -> None:
    body = {"name": "team-a", **bound_to("team-a"), "addresses": ["192.0.2.0/24"]}

    made = await api.client.post("/v1/keys", json=body)

    shown = made.json()
    assert made.status_code == 201
    assert {name: shown[name] for name in body if name != "allow"} == {k: v for k, v in body.items() if k != "allow"}
    assert [one["repositories"] for one in shown["allow"]] == [["library/*"], ["team-a/**"]]
    assert shown["scope"] is None


async def test_the_console_shows_and_does_what_the_key_may(api: Api) -> None:
    admin, mine, theirs = await teams(api)
    job = await submitted(api, theirs, "team-b")
    policy = {"rules": [{"source": "docker.io/library/redis", "destination": f"{HOST}/team-b/redis"}]}
    (await api.client.put("/v1/policies/team-b-x", json=policy, headers=theirs)).raise_for_status()
    origin = {"Origin": str(api.client.base_url).rstrip("/")}
    async with httpx.AsyncClient(base_url=api.client.base_url, trust_env=False, headers=origin) as browser:
        login = await browser.post("/console/login", data={"key": mine["Authorization"].removeprefix("Bearer ")})
        assert login.status_code == 303

        for path in ("/console/", "/console/jobs", "/console/policies"):
            text = (await browser.get(path)).text
            assert job[-12:] not in text, path
            assert "team-b-x" not in text, path
        for path in (f"/console/jobs/{job}", f"/console/jobs/{job}/images.csv", f"/console/jobs/{job}/job.json"):
            assert (await browser.get(path)).status_code == 404
        assert (await browser.post(f"/console/jobs/{job}/cancel")).status_code == 404
        assert (await browser.get("/console/policies/team-b-x")).status_code == 404
        form = {"source": f"{HOST}/team-b/redis", "destination": f"{HOST}/team-a/redis"}
        for action in ("plan", "run"):
            answer = await browser.post("/console/submit", data=form | {"action": action})
            assert (answer.status_code, "may not copy from" in answer.text) == (422, True)
    assert (await api.client.get(f"/v1/jobs/{job}", headers=admin)).json()["state"] == "queued"
