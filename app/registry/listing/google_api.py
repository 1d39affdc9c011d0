"""Artifact Registry's own API: repositories made and images listed, with the access token that logs in.

Source: Artifact Registry REST reference (`projects.locations.repositories` create and list, `.packages` list,
operations) and Resource Manager REST reference (`projects.testIamPermissions`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

import httpx
from msgspec.structs import replace

from app.domain.registry import RepositoryTemplate
from app.registry.auth.challenge import Scopes
from app.registry.auth.google import USERNAME, is_google
from app.registry.auth.token_server import read_json
from app.registry.http.errors import CREATE_REPOSITORY, LIST_REPOSITORIES, Response, make_error
from app.registry.http.message import Url
from app.registry.listing.pages import ListWarnings, api_entries
from app.registry.listing.vendor_apis import token_of
from app.registry.requests import RegistryRequest, RequestExecutor

_API, _PROJECTS_API = "https://artifactregistry.googleapis.com", "https://cloudresourcemanager.googleapis.com"
_OK, _CONFLICT = httpx.codes.OK, httpx.codes.CONFLICT
_PAGE = 1000
_POLLS, _POLL_SECONDS = 30, 2.0
"""A repository is there within seconds; Google calls it an operation, and wants it asked for."""
_CREATE_RIGHT = "artifactregistry.repositories.create"


def google_repository(repository: str) -> str:
    """Return the repository that an image lies in, with its project, which has two parts where it is a domain's."""
    parts = repository.split("/")
    return "/".join(parts[: 3 if "." in parts[0] else 2])


async def create_on_google(executor: RequestExecutor, name: str, template: RepositoryTemplate) -> None:
    """Make a repository for images unless it is there, and wait until it is; raise `RegistryError`."""
    project, short = _split(name)
    if not short:
        context = executor.context(CREATE_REPOSITORY)
        raise make_error(f"{name} names no repository below the project", context, code="repository_missing")
    body: dict[str, Any] = {"format": "DOCKER", "description": template.description, "labels": template.labels}
    if template.immutable_tags:
        body["dockerConfig"] = {"immutableTags": True}
    if template.encryption_key is not None:
        body["kmsKeyName"] = template.encryption_key
    if template.lifecycle is not None:
        body["cleanupPolicies"] = _policies(executor, template.lifecycle)
    target = f"/v1/{_place(executor, project)}/repositories?repositoryId={quote(short, safe='')}"
    asked = await _request(executor, CREATE_REPOSITORY, _origin(executor, _API).with_target(target))
    answer = await executor.fetch(_posting(asked, body, expects={_OK, _CONFLICT}))
    if answer.status != _CONFLICT:
        await _until_done(executor, read_json(answer.body))


async def may_create_on_google(executor: RequestExecutor, repository: str) -> bool:
    """Ask whether the login may make repositories in the project of an image; raise `RegistryError` for no answer."""
    project, _ = _split(google_repository(repository))
    url = _origin(executor, _PROJECTS_API).with_target(f"/v1/projects/{quote(project, safe=':')}:testIamPermissions")
    asked = await _request(executor, CREATE_REPOSITORY, url)
    answer = await executor.fetch(_posting(asked, {"permissions": [_CREATE_RIGHT]}, expects={_OK}))
    return _CREATE_RIGHT in (read_json(answer.body).get("permissions") or ())


async def google(executor: RequestExecutor, namespace: str, _notices: ListWarnings) -> AsyncIterator[Any]:
    """List the images of a project, or of one repository of it: each package of each repository for images."""
    project, short = _split(google_repository(namespace))
    place = _place(executor, project)
    names = [f"{place}/repositories/{short}"] if short else _repositories(executor, place)
    prefix = project.replace(":", "/")
    if isinstance(names, list):
        names = _each(names)
    async for name in names:
        repository = name.rpartition("/")[2]
        async for package in _entries(executor, f"/v1/{name}/packages", key="packages"):
            path = package.get("name") if isinstance(package, dict) else None
            yield f"{prefix}/{repository}/{unquote(path.rpartition('/')[2])}" if isinstance(path, str) else package


async def _repositories(executor: RequestExecutor, place: str) -> AsyncIterator[str]:
    async for item in _entries(executor, f"/v1/{place}/repositories", key="repositories"):
        if isinstance(item, dict) and item.get("format") == "DOCKER" and isinstance(item.get("name"), str):
            yield item["name"]


async def _each(names: list[str]) -> AsyncIterator[str]:
    for name in names:
        yield name


async def _entries(executor: RequestExecutor, target: str, *, key: str) -> AsyncIterator[Any]:
    url = _origin(executor, _API).with_target(f"{target}?pageSize={_PAGE}")
    async for item in api_entries(
        executor, await _request(executor, LIST_REPOSITORIES, url), key=key, follow=_next_token
    ):
        yield item


async def _until_done(executor: RequestExecutor, operation: dict[str, Any]) -> None:
    context = executor.context(CREATE_REPOSITORY)
    for _ in range(_POLLS):
        failure = operation.get("error")
        if isinstance(failure, dict):
            raise make_error(f"Google did not make it: {failure.get('message', '')}", context, code="denied")
        if operation.get("done") or not isinstance(operation.get("name"), str):
            return
        await asyncio.sleep(_POLL_SECONDS)
        url = _origin(executor, _API).with_target(f"/v1/{quote(operation['name'], safe='/:')}")
        operation = read_json((await executor.fetch(await _request(executor, CREATE_REPOSITORY, url))).body)
    raise make_error("Google has not made it yet", context, code="timeout", temporary=True)


def _split(name: str) -> tuple[str, str]:
    """Return the project and what is below it; a project of a domain is `corp.com:x` for the API."""
    parts = name.split("/")
    count = 2 if "." in parts[0] else 1
    return ":".join(parts[:count]), "/".join(parts[count:])


def _place(executor: RequestExecutor, project: str) -> str:
    location = executor.entry.registry.partition(".")[0].removesuffix("-docker")
    return f"projects/{quote(project, safe=':')}/locations/{location}"


def _origin(executor: RequestExecutor, api: str) -> Url:
    """Return where an API is; a registry under a name of its operator's is asked itself."""
    return Url.parse(api) if is_google(executor.entry.registry) else executor.home


async def _request(executor: RequestExecutor, operation: str, url: Url) -> RegistryRequest:
    login = await executor.login()
    if login.username != USERNAME:
        context = executor.context(operation)
        raise make_error(f"{context.registry} takes an access token for that", context, code="unauthorized")
    return RegistryRequest(
        operation=operation,
        method="GET",
        url=url,
        scopes=Scopes(),
        expects=frozenset({_OK}),
        headers={"Accept": "application/json"},
        login={"Authorization": f"Bearer {token_of(executor, login)}"},
    )


def _posting(request: RegistryRequest, body: dict[str, Any], *, expects: set[int]) -> RegistryRequest:
    headers = {**request.headers, "Content-Type": "application/json"}
    content = json.dumps(body).encode()
    return replace(request, method="POST", headers=headers, content=content, expects=frozenset(expects))


def _policies(executor: RequestExecutor, text: str) -> dict[str, Any]:
    policies = read_json(text.encode())
    if not policies:
        context = executor.context(CREATE_REPOSITORY)
        raise make_error("its lifecycle is no JSON object of cleanup policies by id", context, code="denied")
    return policies


def _next_token(answer: Response, url: Url) -> Url | None:
    token = json.loads(answer.body).get("nextPageToken")
    return url.with_parameter("pageToken", token) if isinstance(token, str) and token else None
