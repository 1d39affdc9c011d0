"""Vendors' own APIs, as far as they list repositories: Docker Hub's, Harbor's, Quay's, GitLab's, GitHub's.

Each lists the entries below one namespace as they come, to be checked by the caller. What logs in goes to the place
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
from msgspec.structs import replace

from app.clock import now
from app.domain.errors import RegistryError
from app.domain.reference import DOCKER_HUB
from app.domain.registry import AwsAuth
from app.domain.registry_logins import AlibabaAuth, TencentAuth
from app.registry.auth.alibaba import AlibabaIdentity
from app.registry.auth.aws import AwsIdentity
from app.registry.auth.challenge import Scopes
from app.registry.auth.credentials import Login
from app.registry.auth.tencent import TencentIdentity
from app.registry.auth.token_server import VISIBLE, read_token
from app.registry.http.errors import LIST_REPOSITORIES, LOG_IN, Response, make_error
from app.registry.http.message import Url
from app.registry.limits import MAX_TOKEN_ANSWER_BYTES
from app.registry.listing.pages import ListWarnings, api_entries, next_page, spec_entries, with_query_of
from app.registry.requests import RegistryRequest, RequestExecutor

_log = structlog.get_logger(__name__)
DOCKER_HUB_API = "https://hub.docker.com"
GITHUB_API = "https://api.github.com"
_GHCR = "ghcr.io"
_PAGE = 100
"""The most that Docker Hub, Harbor, GitLab and GitHub put on a page."""
_MAX_PROJECT_DEPTH = 2
"""Parts a GitLab repository has beside its project, at most."""
_GITLAB_REFUSALS = frozenset({401, 403, 404})
_HARBOR_KNOWS = frozenset({httpx.codes.OK, httpx.codes.PRECONDITION_FAILED})
"""What Harbor answers to a person who asks who they are, and to a robot, which is none."""
_JSON = {"Accept": "application/json"}
_OK = frozenset({httpx.codes.OK})


async def catalog(
    executor: RequestExecutor, _namespace: str, list_warnings: ListWarnings, *, scopes: Scopes | None = None
) -> AsyncIterator[Any]:
    """List everything by `_catalog`, which Distribution has and the spec does not."""
    url = executor.home.with_target("/v2/_catalog")
    scopes = Scopes.catalog() if scopes is None else scopes
    request = RegistryRequest(operation=LIST_REPOSITORIES, method="GET", url=url, scopes=scopes, expects=_OK)
    async for entry in spec_entries(executor, request, key="repositories", list_warnings=list_warnings):
        yield entry


async def acr(executor: RequestExecutor, _namespace: str, list_warnings: ListWarnings) -> AsyncIterator[Any]:
    """List everything by ACR's own catalog (reference of its data plane, "Repository - Get List")."""
    url = executor.home.with_target("/acr/v1/_catalog")
    scopes = Scopes.catalog()
    request = RegistryRequest(operation=LIST_REPOSITORIES, method="GET", url=url, scopes=scopes, expects=_OK)
    async for entry in spec_entries(executor, request, key="repositories", list_warnings=list_warnings):
        yield entry


async def ecr(executor: RequestExecutor, _namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List the account's repositories, private or public ones as the host says (ECR's API, `DescribeRepositories`).

    Amazon's API is asked with the identity itself, for which the password it gave for the registry is no use.
    """
    await executor.login()  # raises where the identity may not be used
    if isinstance(executor.entry.auth, AwsAuth):
        async for path in AwsIdentity(executor.entry, executor.entry.auth).list_repositories():
            yield path


async def own_cloud(executor: RequestExecutor, namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List an instance's repositories by the API of its cloud, for the key that it gives passwords to.

    Alibaba Cloud's `ListRepository`, Tencent Cloud's `DescribeRepositories`, whose names may have the namespace or not.
    """
    await executor.login()  # raises where the key is not taken
    within = namespace.partition("/")[0]
    auth = executor.entry.auth
    if isinstance(auth, AlibabaAuth):
        alibaba = AlibabaIdentity(executor.entry, auth, executor.http, clock=now)
        async for item in alibaba.list_repositories(within):
            yield _joined(item, "RepoNamespaceName", "RepoName")
    if isinstance(auth, TencentAuth):
        tencent = TencentIdentity(executor.entry, auth, executor.http, clock=now)
        async for item in tencent.list_repositories(within):
            name, path = _joined(item, "Name"), _joined(item, "Namespace", "Name")
            is_whole = isinstance(name, str) and name.startswith(f"{_joined(item, 'Namespace')}/")
            yield name if is_whole else path


async def docker_hub(executor: RequestExecutor, namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List a user's or organization's repositories ("List repositories" in the reference of Docker Hub's API).

    Its pages begin with `/v2/namespaces/`; the older `/v2/repositories/` takes no tokens of organizations.
    """
    is_hub = executor.entry.registry == DOCKER_HUB
    origin = Url.parse(DOCKER_HUB_API) if is_hub else executor.home
    login = await docker_hub_login(executor, origin)
    url = origin.with_target(f"/v2/namespaces/{_first_part(namespace)}/repositories?page_size={_PAGE}")
    async for item in api_entries(executor, _call(url, login), key="results", follow=next_in_body):
        yield _joined(item, "namespace", "name")


async def harbor(executor: RequestExecutor, namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List a project's repositories, or those of all projects one may see (Harbor's API, `listRepositories`).

    People and robots alike, which need the permission List Repository; before Harbor 2.4 a robot got public projects
    only. A login that is wrong, expired or disabled is taken for an anonymous caller, and shown what is public: it is
    proven first.
    """
    login = await password_of(executor)
    project = f"projects/{_first_part(namespace)}/" if namespace else ""
    url = executor.home.with_target(f"/api/v2.0/{project}repositories?page_size={_PAGE}")
    headers = {"Authorization": login.basic} if login.password else {}
    if headers:
        current = executor.home.with_target("/api/v2.0/users/current")
        await executor.fetch(replace(_call(current, headers), expects=_HARBOR_KNOWS))
    async for item in api_entries(executor, _call(url, headers), key=None, follow=next_page):
        yield _joined(item, "name")


async def quay(executor: RequestExecutor, namespace: str, list_warnings: ListWarnings) -> AsyncIterator[Any]:
    """List an organization's repositories (Quay's API, `listRepos`).

    The API knows the tokens of applications and no other login: without one it tells what is public. What else a user
    or a robot may read is in the catalog, where `registry:catalog:*` is no scope (quay/quay, endpoints/v2/v2auth.py).
    """
    login = await executor.login()
    is_application = login.username == "$oauthtoken"
    if not login.is_anonymous and not (is_application and namespace):
        async for entry in catalog(executor, "", list_warnings, scopes=Scopes()):
            yield entry
    if not namespace:
        return
    url = executor.home.with_target("/api/v1/repository?public=true")
    url = url.with_parameter("namespace", namespace.partition("/")[0])
    headers = {"Authorization": f"Bearer {token_of(executor, login)}"} if is_application else {}
    await _prove_login(executor, login)
    try:
        async for item in api_entries(executor, _call(url, headers), key="repositories", follow=_next_token):
            yield _joined(item, "namespace", "name")
    except RegistryError as error:
        # Where nobody may come without a login, the API tells a robot nothing; its own are listed above.
        if login.is_anonymous or is_application or error.code not in {"unauthorized", "denied"}:
            raise
        _log.warning("public_repositories_not_listed", registry=executor.entry.registry, status=error.status)


async def gitlab(executor: RequestExecutor, namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List a group's repositories, subgroups and all, or a project's (GitLab's "Container registry API").

    The API lies where the registry's tokens are had from, as Harbor's adapter for GitLab takes it too.
    """
    server = await executor.token_server()
    origin = server.realm if server else executor.home
    login = await password_of(executor)
    name = "JOB-TOKEN" if login.username == "gitlab-ci-token" else "PRIVATE-TOKEN"
    headers = {name: token_of(executor, login)} if login.password else {}
    await _prove_login(executor, login)
    refusals: list[RegistryError] = []
    for place in _gitlab_places(namespace):
        url = origin.with_target(f"/api/v4/{place}/registry/repositories?per_page={_PAGE}")
        try:
            async for item in api_entries(executor, _call(url, headers), key=None, follow=next_page):
                yield _joined(item, "path")
        except RegistryError as error:
            if error.status not in _GITLAB_REFUSALS:
                raise
            refusals.append(error)
        else:
            return
    # "Log in" says more than "not there".
    raise min(refusals, key=lambda error: error.status or 0)


async def github(executor: RequestExecutor, namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List the containers of an organization or a person (GitHub's REST API, "List packages for an organization").

    The API knows classic tokens with the scope `read:packages`, and tells nothing to strangers.
    """
    origin = Url.parse(GITHUB_API) if executor.entry.registry == _GHCR else executor.home
    headers = {"Authorization": f"Bearer {token_of(executor, await password_of(executor))}"}
    owner = namespace.partition("/")[0]
    for kind in ("orgs", "users"):
        url = origin.with_target(f"/{kind}/{quote(owner, safe='')}/packages?package_type=container&per_page={_PAGE}")
        try:
            async for item in api_entries(executor, _call(url, headers), key=None, follow=next_page):
                name = _joined(item, "name")
                yield f"{owner}/{name}" if isinstance(name, str) else name
        except RegistryError as error:
            if kind == "users" or error.status != httpx.codes.NOT_FOUND:
                raise
        else:
            return


def _gitlab_places(namespace: str) -> list[str]:
    """Return what a path may be: a group, a project, or a part of a project."""
    parts = namespace.split("/")
    depths = range(len(parts), max(1, len(parts) - _MAX_PROJECT_DEPTH - 1), -1)
    projects = [f"projects/{quote('/'.join(parts[:depth]), safe='')}" for depth in depths]
    return [f"groups/{quote(namespace, safe='')}", *projects]


async def _prove_login(executor: RequestExecutor, login: Login) -> None:
    """Raise `RegistryError` for a login that the registry does not take, before an API that serves strangers is asked.

    Such an API would list what is public, as if that were all.
    """
    if login.is_anonymous:
        return
    url = executor.home.with_target("/v2/")
    request = RegistryRequest(operation=LOG_IN, method="GET", url=url, scopes=Scopes(), expects=_OK)
    try:
        await executor.fetch(request)
    except RegistryError as error:
        # Some answer 403 or 404 there to everybody; nothing is proven then, and nothing disproven.
        if error.code == "unauthorized" or error.temporary:
            raise


async def docker_hub_login(executor: RequestExecutor, origin: Url) -> Mapping[str, str]:
    """Trade a password or an access token for a token of Docker Hub's API ("Create access token")."""
    login = await password_of(executor)
    if login.is_anonymous:
        return {}
    request = RegistryRequest(
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
    answer = await executor.fetch(request)
    return {"Authorization": f"Bearer {read_token(answer.body, executor.context(LOG_IN)).text}"}


async def password_of(executor: RequestExecutor) -> Login:
    """Return the login; raise for a kind these APIs don't know, rather than take what is public for all there is."""
    login = await executor.login()
    if login.is_anonymous or login.password:
        return login
    raise _wrong_login(executor, "a user name with a password or an access token")


def token_of(executor: RequestExecutor, login: Login) -> str:
    """Return the password where it is sent as a token; a person's own may not even fit into a header."""
    if not VISIBLE.fullmatch(login.password):
        raise _wrong_login(executor, "an access token, which this password is not")
    return login.password


def _wrong_login(executor: RequestExecutor, wanted: str) -> RegistryError:
    context = executor.context(LIST_REPOSITORIES)
    return make_error(f"{context.registry} lists repositories only for {wanted}", context, code="unauthorized")


def _call(url: Url, login: Mapping[str, str]) -> RegistryRequest:
    return RegistryRequest(
        operation=LIST_REPOSITORIES, method="GET", url=url, scopes=Scopes(), expects=_OK, headers=_JSON, login=login
    )


def next_in_body(answer: Response, url: Url) -> Url | None:
    """Find the next page where the answer's document names it."""
    following = json.loads(answer.body).get("next")
    return with_query_of(url, following) if isinstance(following, str) else None


def _next_token(answer: Response, url: Url) -> Url | None:
    token = json.loads(answer.body).get("next_page")
    return url.with_parameter("next_page", token) if isinstance(token, str) and token else None


def _first_part(namespace: str) -> str:
    return quote(namespace.partition("/")[0], safe="")


def _joined(item: Any, *fields: str) -> Any:
    """Return an entry's path, or the entry itself if it has none."""
    parts = [item.get(field) for field in fields] if isinstance(item, dict) else [None]
    return "/".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else item
