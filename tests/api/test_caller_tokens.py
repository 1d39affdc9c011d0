"""Callers with OpenID Connect tokens: who is believed, what claims allow, and that nothing else gets in."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from app.bootstrap.startup import load_token_issuers
from app.domain.errors import SettingsError
from app.settings import Settings
from tests.api.conftest import SHORT, Api, Serve
from tests.support.token_issuer import TokenIssuerServer, token_issuer

ALLOW = [{"registries": ["docker.io"], "direction": "read"}, {"registries": ["registry.example.com"]}]


@pytest.fixture
async def issuer() -> AsyncIterator[TokenIssuerServer]:
    async with token_issuer() as issuer:
        yield issuer


@pytest.fixture
async def api(serve: Serve, issuer: TokenIssuerServer, tmp_path: Path) -> AsyncIterator[Api]:
    """Serve an application that believes one issuer."""
    rules: list[dict[str, Any]] = [
        {"claims": {"sub": "repo:team/*", "ref": "refs/heads/main"}, "scope": "submit", "allow": ALLOW},
        {"claims": {"sub": "repo:team/*"}, "scope": "read"},
        {"claims": {"sub": "ann@example.com"}, "scope": "admin"},
    ]
    one = {"issuer": issuer.url, "audience": "registry-sync", "algorithms": ["RS256", "ES256"], "rules": rules}
    file = tmp_path / "oidc.json"
    file.write_text(json.dumps({"issuers": [one]}))
    async with serve(oidc_file=file) as api:
        yield api


async def status(api: Api, token: str, *, method: str = "GET", path: str = "/v1/jobs", body: object = None) -> int:
    answer = await api.client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


async def test_a_token_is_who_its_subject_is_with_what_its_claims_allow(api: Api, issuer: TokenIssuerServer) -> None:
    admin = issuer.token(sub="ann@example.com", kid="e", algorithm="ES256")
    for host in ("docker.io", "registry.example.com", "other.example.com"):
        assert await status(api, admin, method="PUT", path=f"/v1/registries/{host}", body={"host": host}) == 201
    main, branch = issuer.token(ref="refs/heads/main"), issuer.token(ref="refs/heads/other")
    answer = await api.client.post("/v1/jobs", json=SHORT, headers={"Authorization": f"Bearer {main}"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["created_by"] == f"oidc/{issuer.url.partition('://')[2]}/repo:team/app"
    outside = SHORT | {"destination": "other.example.com/x"}
    assert await status(api, main, method="POST", body=outside) in {403, 422}
    assert await status(api, branch) == 200
    assert await status(api, branch, method="POST", body=SHORT) == 403
    assert (await api.client.get("/v1/jobs")).status_code == 401  # a caller on this machine is no operator here


async def test_an_event_stream_ends_with_its_token(api: Api, issuer: TokenIssuerServer) -> None:
    admin = issuer.token(sub="ann@example.com", kid="e", algorithm="ES256")
    for host in ("docker.io", "registry.example.com"):
        assert await status(api, admin, method="PUT", path=f"/v1/registries/{host}", body={"host": host}) == 201
    main = {"Authorization": f"Bearer {issuer.token(ref='refs/heads/main')}"}
    job = (await api.client.post("/v1/jobs", json=SHORT, headers=main)).json()
    short = issuer.token(ref="refs/heads/main", exp=int(time.time()) + 2)  # it is taken for a minute longer
    headers = {"Authorization": f"Bearer {short}", "Accept": "text/event-stream"}
    async with api.client.stream("GET", f"/v1/jobs/{job['id']}/events", headers=headers, timeout=60) as answer:
        text = "".join([chunk async for chunk in answer.aiter_text()])
    assert answer.status_code == 200
    assert "event: end" not in text


async def test_the_console_takes_a_token_until_its_end(api: Api, issuer: TokenIssuerServer) -> None:
    origin = {"Origin": str(api.client.base_url).rstrip("/")}
    token = issuer.token(sub="ann@example.com", kid="e", algorithm="ES256", exp=int(time.time()) + 3_600)
    answer = await api.client.post("/console/login", data={"key": token}, headers=origin)
    assert answer.status_code == 303, answer.text
    assert "oidc/" in (await api.client.get("/console")).text
    (cookie,) = (value for name, value in api.client.cookies.items() if "session" in name)
    sessions = api.service.console_sessions
    ends_at, _ = json.loads(sessions._sealer.unseal(cookie, context="console/session"))
    assert ends_at <= time.time() + 3_600

    api.client.cookies.clear()
    long = issuer.token(sub="ann@example.com", groups=["g" * 50] * 80)
    assert await status(api, long) == 200
    answer = await api.client.post("/console/login", data={"key": long}, headers=origin)
    assert answer.status_code == 401
    assert "too long to log in with" in answer.text


WRONG: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "another"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://issuer.example.com"},
    "no issuer": {"iss": None},
    "expired": {"exp": int(time.time()) - 3_600},
    "no end": {"exp": None},
    "not yet": {"nbf": int(time.time()) + 36_000},
    "issued later": {"iat": int(time.time()) + 36_000},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "another subject": {"sub": "repo:other/app"},
    "a part more": {"sub": "repo:team/app/more"},
    "a list for a subject": {"sub": ["repo:team/app"]},
    "an unknown key": {"kid": "x"},
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG.keys())
async def test_any_other_token_is_no_caller(api: Api, issuer: TokenIssuerServer, claims: dict[str, Any]) -> None:
    assert await status(api, issuer.token()) == 200
    assert await status(api, issuer.token(**claims)) == 401


async def test_a_token_that_is_not_signed_by_its_issuer_is_no_caller(api: Api, issuer: TokenIssuerServer) -> None:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "r"})
    shared = jwt.encode(claims, "s" * 64, algorithm="HS256", headers={"kid": "r"})
    head, body, signature = issuer.token().split(".")
    cut = f"{head}.{body}.{signature[:-8]}AAAAAAAA"
    for token in (issuer.forged(), unsigned, shared, cut, f"{head}.{body}.", "ey.ey.ey", f"ey{'a' * 9_000}.a.b"):
        assert await status(api, token) == 401, token[:40]


def a_file(**changes: Any) -> dict[str, Any]:
    rules = [{"claims": {"sub": "x"}, "scope": "read"}]
    return {"issuers": [{"issuer": "https://a.example.com", "audience": "a", "rules": rules} | changes]}


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        {"issuers": []},
        a_file(audience=""),
        a_file(algorithms=["HS256"]),
        a_file(algorithms=["none"]),
        a_file(rules=[{"claims": {}, "scope": "read"}]),
        a_file(rules=[{"claims": {"sub": "x"}}]),
        a_file(rules=[{"claims": {"sub": ""}, "scope": "read"}]),
        a_file(rules=[{"claims": {"sub": "x"}, "scope": "admin", "jobs": "own"}]),
    ],
)
def test_a_file_that_says_too_little_is_refused(tmp_path: Path, document: object) -> None:
    file = tmp_path / "oidc.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(SettingsError, match="OIDC_FILE"):
        load_token_issuers(Settings(oidc_file=file))
