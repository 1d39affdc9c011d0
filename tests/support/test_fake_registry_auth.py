"""The fake registry's switches for challenges, tokens and scopes do what they say."""

from typing import Any

import httpx
import pytest

from tests.support.clock import SettableClock
from tests.support.fake_registry import FakeRegistry, Quirks
from tests.support.test_fake_registry import IMAGE, registry_with

MANIFEST = "/v2/app/manifests/1.0"
PULL = "scope=repository:app:pull"


async def token(registry: FakeRegistry, client: httpx.AsyncClient, query: str, *, account: bool = True) -> str:
    """Get a token with Basic credentials, or anonymously; return the header to send."""
    headers = {"Authorization": registry.basic()} if account else {}
    answer = await client.get(f"{registry.urls['auth']}/token?{query}", headers=headers)
    return f"Bearer {answer.raise_for_status().json()['access_token']}"


async def status(client: httpx.AsyncClient, path: str, authorization: str, *, method: str = "GET") -> int:
    return (await client.request(method, path, headers={"Authorization": authorization})).status_code


async def test_a_token_is_good_for_its_scopes_and_the_challenge_names_what_is_lacking() -> None:
    async with registry_with(Quirks(auth="token")) as (registry, client):
        refused = await client.get(MANIFEST)
        assert refused.status_code == 401
        challenge = refused.headers["WWW-Authenticate"]
        assert f'realm="{registry.urls["auth"]}/token"' in challenge
        pull = await token(registry, client, PULL, account=False)
        assert await status(client, MANIFEST, pull) == 200
        lacking = await client.post("/v2/app/blobs/uploads/?mount=x&from=lib/a", headers={"Authorization": pull})
        assert 'error="insufficient_scope"' in lacking.headers["WWW-Authenticate"]
        assert 'scope="repository:app:pull,push repository:lib/a:pull"' in lacking.headers["WWW-Authenticate"]
        anonymous_push = await token(registry, client, "scope=repository:app:pull,push", account=False)
        assert await status(client, "/v2/app/blobs/uploads/", anonymous_push, method="POST") == 401
        push = await token(registry, client, "scope=repository:app:pull,push")
        assert await status(client, "/v2/app/blobs/uploads/", push, method="POST") == 202


@pytest.mark.parametrize(
    ("form", "headers", "words"),
    [
        ("two_headers", 2, 'Bearer realm="'),
        ("one_header", 1, 'Basic realm="fake registry", charset="UTF-8", Bearer realm="'),
        ("basic_first", 1, 'Basic realm="a, b", Bearer'),
        ("odd_case", 1, 'bEARER REALM = "'),
        ("quoted", 1, '\\"hi\\", Basic realm=no'),
        ("negotiate_first", 3, "Negotiate"),
        ("garbage", 1, "=,,;"),
        ("missing", 0, ""),
    ],
)
async def test_challenges_come_in_odd_forms(form: Any, headers: int, words: str) -> None:
    async with registry_with(Quirks(auth="token", challenge=form)) as (_, client):
        challenges = (await client.get(MANIFEST)).headers.get_list("WWW-Authenticate")
        assert len(challenges) == headers
        assert words in ", ".join(challenges)
        assert (await client.get("/v2/")).headers.get_list("WWW-Authenticate")


async def test_tokens_end_by_time_by_use_and_by_revocation() -> None:
    clock = SettableClock()
    quirks = Quirks(auth="token", token_expires_in=60, token_lives_requests=2)
    async with registry_with(quirks, clock=clock) as (registry, client):
        first, second, third = [await token(registry, client, PULL) for _ in range(3)]
        assert [await status(client, MANIFEST, first) for _ in range(3)] == [200, 200, 401]
        clock.advance(59)
        assert await status(client, MANIFEST, second) == 200
        clock.advance(1)
        assert await status(client, MANIFEST, second) == 401
        registry.auth.revoke_all()
        assert await status(client, MANIFEST, third) == 401


async def test_the_token_endpoint_knows_only_the_methods_fields_and_credentials_it_is_told_to() -> None:
    quirks = Quirks(
        auth="token", token_methods=frozenset({"POST"}), token_fields=("access_token",), identity_tokens_only=True
    )
    async with registry_with(quirks, identity_tokens={"refresh": "ann"}) as (registry, client):
        url = f"{registry.urls['auth']}/token"
        assert (await client.get(url)).status_code == 405
        password = {"grant_type": "password", "username": "ann", "password": "secret", "scope": "repository:app:pull"}
        assert (await client.post(url, data=password)).status_code == 401
        refresh = {"grant_type": "refresh_token", "refresh_token": "refresh", "scope": "repository:app:pull,push"}
        answer = (await client.post(url, data=refresh)).json()
        assert set(answer) == {"access_token", "expires_in", "issued_at"}
        assert await status(client, MANIFEST, f"Bearer {answer['access_token']}") == 200


@pytest.mark.parametrize(
    ("switch", "query", "allowed"),
    [
        ({}, "scope=repository:app:pull&scope=repository:lib:pull", ["app", "lib"]),
        ({}, "scope=repository:app:pull%20repository:lib:pull", ["app", "lib"]),
        ({"only_first_scope": True}, "scope=repository:app:pull&scope=repository:lib:pull", ["app"]),
        ({"only_last_scope": True}, "scope=repository:app:pull&scope=repository:lib:pull", ["lib"]),
        ({"scopes_overwrite": True}, "scope=repository:app:pull&scope=repository:app:push", []),
        ({"delete_scope_refused": True}, "scope=repository:app:pull,delete", []),
        ({"denied_scopes": ("repository:l*:pull",)}, "scope=repository:lib:pull&scope=repository:app:pull", ["app"]),
    ],
)
async def test_scopes_are_granted_as_the_registry_understands_them(
    switch: dict[str, Any], query: str, allowed: list[str]
) -> None:
    async with registry_with(Quirks(auth="token", **switch)) as (registry, client):
        registry.load("lib", IMAGE, "1.0")
        held = await token(registry, client, query)
        readable = [name for name in ("app", "lib") if await status(client, f"/v2/{name}/manifests/1.0", held) == 200]
        assert readable == allowed


async def test_listing_tags_may_need_an_action_of_its_own() -> None:
    async with registry_with(Quirks(auth="token", tags_need_metadata_read=True)) as (registry, client):
        assert await status(client, "/v2/app/tags/list", await token(registry, client, PULL)) == 401
        both = await token(registry, client, "scope=repository:app:pull,metadata_read")
        assert await status(client, "/v2/app/tags/list", both) == 200
