"""Who may do what: keys and scopes, and local callers while there is no key."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import Request
from fastapi.routing import iter_route_contexts

from app.api.dependencies import is_local, known_caller, metrics_reader
from app.console.session import known_visitor
from app.domain.access import Scope, ScopePreset
from app.main import create_app
from app.security import _checksum, make_api_key
from app.services.api_keys import LOCAL_OPERATOR
from app.settings import Settings
from tests.api.conftest import SHORT, Api, Serve

JOB = "/v1/jobs/019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708"
NEEDS = {
    ("GET", "/v1/jobs"): Scope.JOBS_READ,
    ("GET", JOB): Scope.JOBS_READ,
    ("GET", f"{JOB}/images"): Scope.JOBS_READ,
    ("GET", f"{JOB}/events"): Scope.JOBS_READ,
    ("POST", "/v1/jobs"): Scope.JOBS_SUBMIT,
    ("POST", "/v1/plan"): Scope.JOBS_SUBMIT,
    ("POST", f"{JOB}/cancel"): Scope.JOBS_CANCEL,
    ("POST", f"{JOB}/retry"): Scope.JOBS_SUBMIT,
    ("DELETE", JOB): Scope.JOBS_CANCEL,
    ("GET", "/v1/policies"): Scope.POLICIES_READ,
    ("PUT", "/v1/policies/p"): Scope.POLICIES_WRITE,
    ("DELETE", "/v1/policies/p"): Scope.POLICIES_WRITE,
    ("POST", "/v1/policies/p/run"): Scope.JOBS_SUBMIT,
    ("POST", "/v1/policies/import?format=list"): Scope.POLICIES_WRITE,
    ("GET", "/v1/registries"): Scope.REGISTRIES_READ,
    ("GET", "/v1/registries/hub"): Scope.REGISTRIES_READ,
    ("GET", "/v1/hook-events"): Scope.REGISTRIES_READ,
    ("PUT", "/v1/registries/hub"): Scope.REGISTRIES_WRITE,
    ("PATCH", "/v1/registries/hub"): Scope.REGISTRIES_WRITE,
    ("DELETE", "/v1/registries/hub"): Scope.REGISTRIES_WRITE,
    ("POST", "/v1/registries/hub/check"): Scope.REGISTRIES_WRITE,
    ("GET", "/v1/subscriptions"): Scope.HOOKS,
    ("PUT", "/v1/subscriptions/s"): Scope.HOOKS,
    ("GET", "/v1/audit"): Scope.AUDIT,
    ("GET", "/v1/keys"): Scope.KEYS,
    ("POST", "/v1/keys"): Scope.KEYS,
    ("DELETE", "/v1/keys/nobody"): Scope.KEYS,
    ("GET", "/metrics"): Scope.JOBS_READ,
}
PUBLIC_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/v1/hooks/{registry}", "/v1/hooks/{registry}/{token}"}
)
"""Hooks prove themselves, each as its registry says."""
BODIES = {"/v1/jobs": SHORT, "/v1/plan": SHORT, "/v1/registries/hub": {"host": "a.example.com"}, "/v1/keys": {}}
OF_PROXIES = (
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Prefix",
    "X-Forwarded-Client-Cert",
    "X-Original-Host",
    "X-Original-Forwarded-For",
    "X-Original-URL",
    "X-Real-IP",
    "Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "True-Client-IP",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "Fly-Region",
    "CF-Connecting-IP",
    "CF-Ray",
    "DO-Connecting-IP",
    "X-ProxyUser-Ip",
    "X-AppEngine-User-IP",
    "X-Envoy-External-Address",
    "X-Amzn-Trace-Id",
    "X-Azure-ClientIP",
    "X-Azure-SocketIP",
    "X-ARR-SSL",
    "X-Remote-Addr",
    "X-Remote-IP",
    "x-vercel-forwarded-for",
)


async def ask(client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    body = BODIES.get(path, {}) if method in {"POST", "PUT", "PATCH"} else None
    return await client.request(method, path, json=body, headers=headers)


async def test_each_scope_opens_what_it_should_and_nothing_more(api: Api) -> None:
    admin = await api.make_key("admin")
    api.client.headers.update(admin)
    keys = {scope: await api.make_key(scope, scopes=[scope]) for scope in Scope}
    del api.client.headers["Authorization"]

    for (method, path), scope in NEEDS.items():
        anonymous = await ask(api.client, method, path, {})
        assert anonymous.status_code == 401, (method, path)
        assert anonymous.json()["code"] == "unauthenticated"
        assert anonymous.headers["WWW-Authenticate"].startswith("Bearer")
        for held, key in keys.items():
            answer = await ask(api.client, method, path, key)
            if scope is held:
                assert answer.status_code not in {401, 403}, (method, path, held, answer.text)
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), (method, path, held)


def test_every_route_names_a_scope_or_is_public_on_purpose() -> None:
    without, public, strangers = set(), set(), set()
    for route in iter_route_contexts(create_app(Settings.model_construct()).routes):
        path = str(route.path)
        if path in PUBLIC_PATHS or path.startswith("/docs/"):
            public.add(path)
        elif path.startswith("/console"):
            calls = {one.call for one in route.dependant.dependencies} if hasattr(route, "dependant") else set()
            if known_visitor not in calls:
                strangers.add(path)
        elif not _scopes(route):
            without.add((path, tuple(route.methods or ())))

    assert without == set()
    assert public >= PUBLIC_PATHS
    assert strangers == {"/console/login", "/console/logout", "/console/static"}


def _scopes(route: object) -> set[str]:
    waiting = list(getattr(getattr(route, "dependant", None), "dependencies", ()))
    found: set[str] = set()
    while waiting:
        inner = waiting.pop()
        waiting += inner.dependencies
        if inner.call in {known_caller, metrics_reader}:
            found.update(inner.own_oauth_scopes or ())
    return found


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/docs"])
async def test_what_is_public_needs_no_key(api: Api, path: str) -> None:
    await api.make_key("admin")

    assert (await api.client.get(path)).status_code == 200


async def test_metrics_are_public_where_the_operator_says_so(serve: Serve) -> None:
    async with serve(metrics_without_key=True) as api:
        await api.make_key("admin")

        assert (await api.client.get("/metrics")).status_code == 200
        assert (await api.client.get("/v1/jobs")).status_code == 401


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer nonsense",
        pytest.param(f"Bearer {make_api_key()}", id="unknown"),
        f"Bearer {'x' * 40}",
        f"Bearer {'x' * 10_000}",
        "Basic dXNlcjpwYXNz",
        "Negotiate abc",
        pytest.param(make_api_key(), id="without scheme"),
    ],
)
async def test_a_key_that_is_not_known_opens_nothing_even_before_there_is_any(api: Api, authorization: str) -> None:
    answer = await api.client.get("/v1/jobs", headers={"Authorization": authorization})

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert authorization.removeprefix("Bearer ") not in answer.text or len(authorization) < 12


async def test_a_key_ends_when_it_expires(api: Api) -> None:
    await api.make_key("admin")
    made = await api.service.keys.create(
        name="brief", scopes=ScopePreset.READ.scopes, expires_seconds=60, caller=LOCAL_OPERATOR
    )
    header = {"Authorization": f"Bearer {made.text}"}
    assert (await api.client.get("/v1/jobs", headers=header)).status_code == 200

    api.service.keys._now = lambda: datetime.now(UTC) + timedelta(seconds=61)

    answer = await api.client.get("/v1/jobs", headers=header)
    assert (answer.status_code, answer.json()["detail"]) == (401, "this API key has expired")


async def test_a_revoked_key_ends_at_once(api: Api) -> None:
    admin = await api.make_key("admin")
    api.client.headers.update(admin)
    reader = await api.make_key("read")
    [key] = [key for key in (await api.client.get("/v1/keys")).json()["items"] if key["name"] == "read"]

    answer = await api.client.delete(f"/v1/keys/{key['id']}")

    assert answer.status_code == 204
    assert (await api.client.get("/v1/jobs", headers=reader)).status_code == 401
    assert (await api.client.delete(f"/v1/keys/{key['id']}")).status_code == 404


async def test_the_first_key_ends_the_time_without_keys(api: Api) -> None:
    assert (await api.client.get("/v1/jobs")).status_code == 200

    await api.make_key("read")

    assert (await api.client.get("/v1/jobs")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "203.0.113.7"} for name in OF_PROXIES),
        {"Host": "attacker.example.com"},
        {"Host": "attacker.example.com:8080"},
        {"Origin": "https://attacker.example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_without_any_key_nobody_is_served_on_behalf_of_somebody_elsewhere(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.get("/v1/jobs", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "local_callers_only")
    assert "create-key" in answer.json()["detail"]


async def test_without_any_key_the_documentation_page_may_try_calls(api: Api) -> None:
    host = api.client.base_url.netloc.decode()

    answer = await api.client.get("/v1/jobs", headers={"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("peer", "host", "is_it"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.8.8.8", "localhost", True),
        ("::1", "[::1]:8080", True),
        ("10.0.0.5", "127.0.0.1:8080", False),
        ("203.0.113.7", "localhost:8080", False),
        ("::ffff:203.0.113.7", "localhost:8080", False),
        ("127.0.0.1", "", False),
        ("not an address", "localhost", False),
    ],
)
def test_a_local_caller_is_told_by_both_ends_of_the_connection(peer: str, host: str, *, is_it: bool) -> None:
    scope = {"type": "http", "client": (peer, 1), "headers": [(b"host", host.encode())]}

    assert is_local(Request(scope)) is is_it
    assert not is_local(Request(scope | {"client": None}))


async def test_a_failed_login_says_nothing_about_why(api: Api) -> None:
    admin = await api.make_key("admin")
    known_id = admin["Authorization"].split("_")[1]

    unknown = await api.client.get("/v1/jobs", headers={"Authorization": f"Bearer {make_api_key()}"})
    same_id = make_api_key()
    forged = await api.client.get("/v1/jobs", headers={"Authorization": f"Bearer {_with_id(same_id, known_id)}"})

    assert unknown.json()["detail"] == forged.json()["detail"]


def _with_id(key: str, key_id: str) -> str:
    body = f"rsk_{key_id}_{key.split('_')[2][:-6]}"
    return body + _checksum(body)


def test_presets_imply_those_before_them() -> None:
    assert ScopePreset.READ.scopes < ScopePreset.SUBMIT.scopes < ScopePreset.ADMIN.scopes == frozenset(Scope)
    assert ScopePreset.READ.scopes == {Scope.JOBS_READ, Scope.POLICIES_READ, Scope.REGISTRIES_READ}
    assert Scope.JOBS_PRIORITY not in ScopePreset.SUBMIT.scopes
