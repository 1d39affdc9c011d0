"""Registries' own APIs, as far as they list repositories: Docker Hub's, Harbor's, Quay's and GitLab's.

Each lists the entries below one namespace as they come, to be checked by whoever asked. What logs in goes to the place
the list is asked of and no further; that is the registry itself, or what already sees its passwords: for GitLab the
server its tokens are had from.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import structlog

from app.domain.errors import RegistryError
from app.domain.reference import DOCKER_HUB
from app.registry.challenge import Scopes
from app.registry.credentials import Login
from app.registry.exchange import Call, Exchange
from app.registry.failures import LIST_REPOSITORIES, LOG_IN, Answer, make_failure
from app.registry.limits import MAX_TOKEN_ANSWER_BYTES
from app.registry.pages import api_entries, next_page, spec_entries, with_query_of
from app.registry.tokens import VISIBLE, read_token
from app.registry.url import Url

_log = structlog.get_logger(__name__)
_DOCKER_HUB_API = "https://hub.docker.com"
_PAGE = 100
"""The most that Docker Hub, Harbor and GitLab put on a page."""
_MAX_PROJECT_DEPTH = 2
"""Parts a GitLab repository has beside its project, at most."""
_GITLAB_REFUSALS = frozenset({401, 403, 404})
_JSON = {"Accept": "application/json"}
_OK = frozenset({httpx.codes.OK})


async def catalog(exchange: Exchange, _: str = "", *, scopes: Scopes | None = None) -> AsyncIterator[Any]:
    """List everything by `_catalog`, which Distribution has and the spec does not."""
    url = exchange.home.with_target("/v2/_catalog")
    scopes = Scopes.catalog() if scopes is None else scopes
    call = Call(operation=LIST_REPOSITORIES, method="GET", url=url, scopes=scopes, expects=_OK)
    async for entry in spec_entries(exchange, call, key="repositories"):
        yield entry


async def docker_hub(exchange: Exchange, namespace: str) -> AsyncIterator[Any]:
    """List a user's or organization's repositories ("List repositories" in the reference of Docker Hub's API).

    Its pages begin with `/v2/namespaces/`; the older `/v2/repositories/` takes no tokens of organizations.
    """
    is_hub = exchange.entry.registry == DOCKER_HUB
    origin = Url.parse(_DOCKER_HUB_API) if is_hub else exchange.home
    login = await _docker_hub_login(exchange, origin)
    url = origin.with_target(f"/v2/namespaces/{_first_part(namespace)}/repositories?page_size={_PAGE}")
    async for item in api_entries(exchange, _call(url, login), key="results", follow=_next_in_body):
        yield _joined(item, "namespace", "name")


async def harbor(exchange: Exchange, namespace: str) -> AsyncIterator[Any]:
    """List a project's repositories, or those of all projects one may see (Harbor's API, `listRepositories`)."""
    login = _password_of(exchange)
    project = f"projects/{_first_part(namespace)}/" if namespace else ""
    url = exchange.home.with_target(f"/api/v2.0/{project}repositories?page_size={_PAGE}")
    headers = {"Authorization": login.basic} if login.password else {}
    async for item in api_entries(exchange, _call(url, headers), key=None, follow=next_page):
        yield _joined(item, "name")


async def quay(exchange: Exchange, namespace: str) -> AsyncIterator[Any]:
    """List an organization's repositories (Quay's API, `listRepos`).

    The API knows the tokens of applications and no other login: without one it tells what is public. What else a user
    or a robot may read is in the catalog, where `registry:catalog:*` is no scope (quay/quay, endpoints/v2/v2auth.py).
    """
    login = exchange.login()
    is_application = login.username == "$oauthtoken"
    if not login.is_anonymous and not (is_application and namespace):
        async for entry in catalog(exchange, scopes=Scopes()):
            yield entry
    if not namespace:
        return
    url = exchange.home.with_target("/api/v1/repository?public=true")
    url = url.with_parameter("namespace", namespace.partition("/")[0])
    headers = {"Authorization": f"Bearer {_token_of(exchange, login)}"} if is_application else {}
    try:
        async for item in api_entries(exchange, _call(url, headers), key="repositories", follow=_next_token):
            yield _joined(item, "namespace", "name")
    except RegistryError as error:
        # Where nobody may come without a login, the API tells a robot nothing; its own are listed above.
        if login.is_anonymous or is_application or error.code not in {"unauthorized", "denied"}:
            raise
        _log.warning("public_repositories_not_listed", registry=exchange.entry.registry, status=error.status)


async def gitlab(exchange: Exchange, namespace: str) -> AsyncIterator[Any]:
    """List a group's repositories, subgroups and all, or a project's (GitLab's "Container registry API").

    The API lies where the registry's tokens are had from, as Harbor's adapter for GitLab takes it too.
    """
    server = await exchange.token_server()
    origin = server.realm if server else exchange.home
    login = _password_of(exchange)
    name = "JOB-TOKEN" if login.username == "gitlab-ci-token" else "PRIVATE-TOKEN"
    headers = {name: _token_of(exchange, login)} if login.password else {}
    refusals: list[RegistryError] = []
    for place in _gitlab_places(namespace):
        url = origin.with_target(f"/api/v4/{place}/registry/repositories?per_page={_PAGE}")
        try:
            async for item in api_entries(exchange, _call(url, headers), key=None, follow=next_page):
                yield _joined(item, "path")
        except RegistryError as error:
            if error.status not in _GITLAB_REFUSALS:
                raise
            refusals.append(error)
        else:
            return
    # "Log in" says more than "not there".
    raise min(refusals, key=lambda error: error.status or 0)


def _gitlab_places(namespace: str) -> list[str]:
    """Name what a path may be: a group, a project, or a part of what a project holds."""
    parts = namespace.split("/")
    depths = range(len(parts), max(1, len(parts) - _MAX_PROJECT_DEPTH - 1), -1)
    projects = [f"projects/{quote('/'.join(parts[:depth]), safe='')}" for depth in depths]
    return [f"groups/{quote(namespace, safe='')}", *projects]


async def _docker_hub_login(exchange: Exchange, origin: Url) -> Mapping[str, str]:
    """Trade a password or an access token for a token of Docker Hub's API ("Create access token")."""
    login = _password_of(exchange)
    if login.is_anonymous:
        return {}
    call = Call(
        operation=LOG_IN,
        method="POST",
        url=origin.with_target("/v2/auth/token"),
        scopes=Scopes(),
        expects=_OK,
        headers={**_JSON, "Content-Type": "application/json"},
        content=json.dumps({"identifier": login.username, "secret": login.password}).encode(),
        body_limit=MAX_TOKEN_ANSWER_BYTES,
        login={},
    )
    answer = await exchange.fetch(call)
    return {"Authorization": f"Bearer {read_token(answer.body, exchange.asked(LOG_IN)).text}"}


def _password_of(exchange: Exchange) -> Login:
    """Return the login; raise for a kind these APIs don't know, rather than take what is public for all there is."""
    login = exchange.login()
    if login.is_anonymous or login.password:
        return login
    raise _wrong_login(exchange, "a user name with a password or an access token")


def _token_of(exchange: Exchange, login: Login) -> str:
    """Return the password where it is sent as a token; a person's own may not even fit into a header."""
    if not VISIBLE.fullmatch(login.password):
        raise _wrong_login(exchange, "an access token, which this password is not")
    return login.password


def _wrong_login(exchange: Exchange, wanted: str) -> RegistryError:
    asked = exchange.asked(LIST_REPOSITORIES)
    return make_failure(f"{asked.registry} lists repositories only for {wanted}", asked, code="unauthorized")


def _call(url: Url, login: Mapping[str, str]) -> Call:
    return Call(
        operation=LIST_REPOSITORIES, method="GET", url=url, scopes=Scopes(), expects=_OK, headers=_JSON, login=login
    )


def _next_in_body(answer: Answer, url: Url) -> Url | None:
    following = json.loads(answer.body).get("next")
    return with_query_of(url, following) if isinstance(following, str) else None


def _next_token(answer: Answer, url: Url) -> Url | None:
    token = json.loads(answer.body).get("next_page")
    return url.with_parameter("next_page", token) if isinstance(token, str) and token else None


def _first_part(namespace: str) -> str:
    return quote(namespace.partition("/")[0], safe="")


def _joined(item: Any, *fields: str) -> Any:
    """Return an entry's path, or the entry itself if it has none."""
    parts = [item.get(field) for field in fields] if isinstance(item, dict) else [None]
    return "/".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else item
