"""Repositories made when they are missing, by the APIs that registries have of their own.

Harbor has projects to be made, and Google repositories, in which images come with the first push. Docker Hub and Quay
make a repository with the first push themselves, public or private as the namespace says: there it is made before that,
as the entry's `create_missing` says. Once for each name in a process; of several that ask at once the others find it
there.

Some are made in two steps: a project of Harbor and its rules, a repository of ECR and its lifecycle. A second step that
failed is taken again before the next push, which would find nothing missing: see `comes_first`.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from msgspec.structs import replace

from app.domain.errors import RegistryError
from app.domain.reference import DOCKER_HUB
from app.domain.registry import AwsAuth, RegistryEntry, RepositoryTemplate
from app.registry.auth.aws import AwsIdentity, CreationStep
from app.registry.auth.challenge import Scopes
from app.registry.auth.identities import refusal_of_login
from app.registry.http.errors import CREATE_REPOSITORY, make_error
from app.registry.http.message import Url
from app.registry.listing.google_api import create_on_google, google_repository
from app.registry.listing.vendor_apis import DOCKER_HUB_API, docker_hub_login, password_of, token_of
from app.registry.quirks import Quirks, quirks_of
from app.registry.requests import RegistryRequest, RequestExecutor

_log = structlog.get_logger(__name__)
_CREATED, _CONFLICT = httpx.codes.CREATED, httpx.codes.CONFLICT
_FOUND, _MISSING, _EXISTS = httpx.codes.OK, httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST
_REFUSED = frozenset({"unauthorized", "denied"})
_HARBOR_NAMES = {"X-Is-Resource-Name": "true"}
"""A project may be called 12, which is a project's number too."""
_HARBOR_IMMUTABLE = {
    "action": "immutable",
    "template": "immutable_template",
    "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}],
    "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]},
}
"""The rule of Harbor's API (`CreateImmuRule`) that no tag of any repository of a project is moved or deleted."""


def refusal_of_creation(entry: RegistryEntry) -> tuple[str, str] | None:
    """Return the field and the reason why an entry can't have its `create_missing`; None where it can."""
    if entry.create_missing is None:
        return None
    quirks = quirks_of(entry)
    if not quirks.has_creation_api or (quirks.creates_by == "ecr" and not isinstance(entry.auth, AwsAuth)):
        return "/create_missing", quirks.creation_advice
    for name in sorted(entry.create_missing.given):
        if name not in quirks.creation_fields:
            known = ", ".join(sorted(quirks.creation_fields))
            return f"/create_missing/{name}", f"this registry has no such setting; it has {known}"
    if entry.create_missing.lifecycle is not None and _document(entry.create_missing.lifecycle) is None:
        return "/create_missing/lifecycle", "it is no JSON object, as this registry's own API takes it"
    return None


def advice_on_missing(entry: RegistryEntry) -> str:
    """Return how something that a push found missing comes to be at such a registry; empty where nothing is known."""
    quirks = quirks_of(entry)
    if not quirks.is_known or not entry.is_registered:
        return ""
    if quirks.has_creation_api:
        return f"or set create_missing of the entry {entry.name}: {quirks.creation_advice}"
    return quirks.by_hand


class RepositoryCreator:
    """Makes what a registry's entry says may be made; without `create_missing` nothing.

    - `executor`: the registry, with the entry's login
    """

    def __init__(self, executor: RequestExecutor) -> None:
        self._executor = executor
        self._quirks: Quirks = quirks_of(executor.entry)
        self._made: set[str] = set()
        self._creations: defaultdict[str, CreationStep] = defaultdict(CreationStep)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def comes_first(self, repository: str) -> bool:
        """Whether to make a repository before it is pushed to: else the push would make it, or find it half made."""
        if self._executor.entry.create_missing is None or not self._quirks.has_creation_api:
            return False
        name = _made_for(repository, self._quirks)
        is_half_made = name in self._creations and self._creations[name].has_begun
        return self._quirks.creates_by in {"docker_hub", "quay"} or is_half_made

    async def create(self, repository: str) -> bool:
        """Make a repository, or the project it is in; return False where that is not to be done, or was done before.

        Raise `RegistryError`: `denied` names the right that the login lacks.
        """
        template = self._executor.entry.create_missing
        if template is None or not self._quirks.has_creation_api:
            return False
        name = _made_for(repository, self._quirks)
        async with self._locks[name]:
            if name in self._made:
                return False
            try:
                await self._create(name, template)
            except RegistryError as error:
                raise self._advised(error, name) from error
            self._made.add(name)
            self._creations.pop(name, None)
        _log.info("repository_created", registry=self._executor.entry.registry, name=name)
        return True

    async def _create(self, name: str, template: RepositoryTemplate) -> None:
        match self._quirks.creates_by:
            case "harbor":
                await _create_harbor_project(self._executor, name, template, creation=self._creations[name])
            case "ecr":
                await _create_on_ecr(self._executor, name, template, creation=self._creations[name])
            case "google":
                await create_on_google(self._executor, name, template)
            case "docker_hub":
                await _create_on_docker_hub(self._executor, name, template)
            case _:
                await _create_on_quay(self._executor, name, template)

    def _advised(self, error: RegistryError, name: str) -> RegistryError:
        advice = f"; {self._quirks.creation_advice}" if error.code in _REFUSED else ""
        return make_error(
            f"{name} could not be made: {error.message}{advice}",
            self._executor.context(CREATE_REPOSITORY),
            code="denied" if error.code in _REFUSED else error.code,
            temporary=error.temporary,
            retry_after=error.retry_after,
        )


@dataclass(frozen=True, slots=True)
class _Api:
    """A registry's own API, and what logs in to it."""

    executor: RequestExecutor
    origin: Url
    login: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)

    async def has(self, target: str) -> bool:
        """Ask whether something is there."""
        answer = await self.executor.fetch(self._request("GET", target, expects={_FOUND, _MISSING}))
        return answer.status == _FOUND

    async def read(self, target: str) -> Any:
        """Return a document that has to be there."""
        request = self._request("GET", target, expects={_FOUND})
        try:
            return json.loads((await self.executor.fetch(request)).body)
        except (ValueError, RecursionError):
            context = self.executor.context(CREATE_REPOSITORY)
            raise make_error(f"{context.registry} answers with no JSON", context, code="invalid_response") from None

    async def make(self, target: str, body: Mapping[str, Any], *, expects: set[int]) -> bool:
        """Make something; return False where the answer is another one that is expected."""
        request = self._request("POST", target, expects={_CREATED, *expects})
        headers = {**request.headers, "Content-Type": "application/json"}
        answer = await self.executor.fetch(replace(request, headers=headers, content=json.dumps(body).encode()))
        return answer.status == _CREATED

    async def make_unless_there(self, target: str, body: Mapping[str, Any], *, there: str) -> None:
        """Make something; a refusal is success where another process was first, and it is there by now."""
        if await self.has(there) or await self.make(target, body, expects={_EXISTS, _CONFLICT}):
            return
        if not await self.has(there):
            context = self.executor.context(CREATE_REPOSITORY)
            raise make_error(f"{context.registry} takes no such name", context, code="denied")

    def _request(self, method: str, target: str, *, expects: set[int]) -> RegistryRequest:
        return RegistryRequest(
            operation=CREATE_REPOSITORY,
            method=method,
            url=self.origin.with_target(target),
            scopes=Scopes(),
            expects=frozenset(expects),
            headers={"Accept": "application/json", **self.headers},
            login=self.login,
        )


def _document(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None for what is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


async def _create_on_ecr(
    executor: RequestExecutor, name: str, template: RepositoryTemplate, *, creation: CreationStep
) -> None:
    """Make a repository with the identity that logs in (Amazon ECR API reference, CreateRepository)."""
    entry = executor.entry
    if isinstance(entry.auth, AwsAuth) and refusal_of_login(entry, executor.http.settings.logins) is None:
        await AwsIdentity(entry, entry.auth).create_repository(name, template, creation=creation)
        return
    context = executor.context(CREATE_REPOSITORY)
    raise make_error(f"{context.registry} takes an identity of AWS for that", context, code="unauthorized")


async def _create_harbor_project(
    executor: RequestExecutor, project: str, template: RepositoryTemplate, *, creation: CreationStep
) -> None:
    """Make a project, with its rules (Harbor's API, `createProject`; 409 where it is there).

    A push found it missing a moment ago. So one that is there is another process's, or one whose rules were refused or
    cut off before: what it lacks of them it gets, and what it has stays.
    """
    metadata = {"public": str(template.public).lower(), "auto_scan": str(template.scan_on_push).lower()}
    body: dict[str, Any] = {"project_name": project, "metadata": metadata}
    if template.quota_bytes is not None:
        body["storage_limit"] = template.quota_bytes
    login = await password_of(executor)
    api = _Api(executor, executor.home, {"Authorization": login.basic} if login.password else {}, _HARBOR_NAMES)
    await api.make("/api/v2.0/projects", body, expects={_CONFLICT})
    creation.has_begun = True
    place = f"/api/v2.0/projects/{quote(project, safe='')}"
    if template.immutable_tags and not await api.read(f"{place}/immutabletagrules?page_size=1"):
        await api.make(f"{place}/immutabletagrules", _HARBOR_IMMUTABLE, expects={_CONFLICT})
    if template.lifecycle is not None:
        await _set_harbor_retention(api, place, template.lifecycle)


async def _set_harbor_retention(api: _Api, place: str, lifecycle: str) -> None:
    """Set a project's tag retention unless it has one (Harbor's API, `createRetention`; 400 for a second one)."""
    for is_last in (False, True):
        project = await api.read(place)
        metadata = project.get("metadata") if isinstance(project, dict) else None
        if isinstance(metadata, dict) and metadata.get("retention_id"):
            return
        scope = {"level": "project", "ref": project.get("project_id") if isinstance(project, dict) else None}
        body = {"algorithm": "or", **(_document(lifecycle) or {}), "scope": scope}
        if await api.make("/api/v2.0/retentions", body, expects=set() if is_last else {_EXISTS}):
            return


async def _create_on_docker_hub(executor: RequestExecutor, name: str, template: RepositoryTemplate) -> None:
    """Make a repository unless it is there (reference of Docker Hub's API, "Create a new repository")."""
    is_hub = executor.entry.registry == DOCKER_HUB
    origin = Url.parse(DOCKER_HUB_API) if is_hub else executor.home
    api = _Api(executor, origin, await docker_hub_login(executor, origin))
    namespace, _, short = name.partition("/")
    target = f"/v2/namespaces/{quote(namespace, safe='')}/repositories"
    body = {
        "namespace": namespace,
        "name": short,
        "description": template.description,
        "registry": "docker.io",
        "is_private": not template.public,
    }
    await api.make_unless_there(target, body, there=f"{target}/{quote(short, safe='')}")


async def _create_on_quay(executor: RequestExecutor, name: str, template: RepositoryTemplate) -> None:
    """Make a repository unless it is there (Quay's API, `createRepo`; an application's token with `repo:create`)."""
    login = await executor.login()
    if login.username != "$oauthtoken":
        context = executor.context(CREATE_REPOSITORY)
        raise make_error(f"{context.registry} takes the token of an application for that", context, code="unauthorized")
    api = _Api(executor, executor.home, {"Authorization": f"Bearer {token_of(executor, login)}"})
    namespace, _, short = name.partition("/")
    body = {
        "namespace": namespace,
        "repository": short,
        "visibility": "public" if template.public else "private",
        "description": template.description,
        "repo_kind": "image",
    }
    there = f"/api/v1/repository/{quote(name, safe='/')}"
    try:
        await api.make_unless_there("/api/v1/repository", body, there=there)
    except RegistryError as error:
        # It refuses alike what may not be made and what is in no organization.
        if error.code not in _REFUSED or await api.has(f"/api/v1/organization/{quote(namespace, safe='')}"):
            raise
        await api.make("/api/v1/organization/", {"name": namespace}, expects={_EXISTS})
        await api.make_unless_there("/api/v1/repository", body, there=there)


def _made_for(repository: str, quirks: Quirks) -> str:
    """Return what is to be made where a repository is missing: itself, or what it lies in."""
    match quirks.creates_by:
        case "harbor":
            return repository.partition("/")[0]
        case "google":
            return google_repository(repository)
        case _:
            return repository
