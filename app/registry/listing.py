"""What a registry holds: the tags of a repository, and its repositories by whatever way it tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from app.domain.errors import RegistryError
from app.domain.reference import InvalidReferenceError, Repository, Tag
from app.registry.apis import catalog, docker_hub, gitlab, harbor, quay
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange
from app.registry.failures import LIST_REPOSITORIES, clean, make_failure
from app.registry.pages import spec_entries
from app.registry.quirks import Quirks, quirks_of, quirks_of_token_server

_log = structlog.get_logger(__name__)
_REFUSALS = frozenset({400, 401, 403, 404, 405, 406, 410, 501})
"""What registries without a catalog, or with one for administrators only, answer."""
Way = Callable[[Exchange, str], AsyncIterator[Any]]


async def list_tags(exchange: Exchange, repository: str, *, scopes: Scopes) -> AsyncIterator[Tag]:
    """Yield a repository's tags as the registry orders them; `repository_missing` when there is none of that name."""
    if action := quirks_of(exchange.entry).tag_list_action:
        scopes = scopes.merge(Scopes.repository(repository, action))
    url = exchange.home.with_target(f"/v2/{repository}/tags/list")
    seen: set[str] = set()
    call = Call(operation="list_tags", method="GET", url=url, scopes=scopes, expects=frozenset({200}))
    async for entry in spec_entries(exchange, call, key="tags"):
        try:
            tag = Tag(entry)
        except (InvalidReferenceError, TypeError):
            # Nexus lists nulls, Artifactory digests (skopeo #2409, #2346).
            _log.warning("list_entry_dropped", registry=exchange.entry.registry, list="tags", entry=_shown(entry))
            continue
        if tag not in seen:
            seen.add(tag)
            yield tag


async def list_repositories(exchange: Exchange, namespace: str) -> AsyncIterator[str]:
    """Yield the registry's repositories, those below a namespace if one is given.

    Raises `RegistryError` whose message says what to do instead; `listing_unsupported` where nobody gets a list.
    """
    seen: set[str] = set()
    async for entry in _by_any_way(exchange, namespace):
        try:
            path = Repository(exchange.entry.registry, entry).path
        except (InvalidReferenceError, TypeError):
            _log.warning(
                "list_entry_dropped", registry=exchange.entry.registry, list="repositories", entry=_shown(entry)
            )
            continue
        if path not in seen and (not namespace or path.startswith(f"{namespace}/")):
            seen.add(path)
            yield path


async def _by_any_way(exchange: Exchange, namespace: str) -> AsyncIterator[Any]:
    """Yield by the first way that is not refused; raise what the first one was refused with when all are."""
    quirks = quirks_of(exchange.entry)
    ways = _ways(exchange, namespace, quirks)
    first = ways[0] if ways else None
    refusal: RegistryError | None = None
    while ways:
        way = ways.pop(0)
        has_begun = False
        try:
            async for entry in way(exchange, namespace):
                has_begun = True
                yield entry
        except RegistryError as error:
            if has_begun or not _is_refusal(error):
                raise
            refusal = refusal or error
        else:
            return
        if not quirks.is_known and (learned := await _learn(exchange)):
            quirks = learned
            ways = [way for way in _ways(exchange, namespace, quirks) if way is not catalog]
    if refusal is None:
        asked = exchange.asked(LIST_REPOSITORIES)
        message = f"{asked.registry} has no such list of repositories: {quirks.listing_advice}"
        raise make_failure(message, asked, code="listing_unsupported")
    raise _advised(refusal, quirks.listing_advice, is_catalog=first is catalog)


def _ways(exchange: Exchange, namespace: str, quirks: Quirks) -> list[Way]:
    """Name the ways to list, the most telling first."""
    match quirks.lists_by:
        case "docker_hub":
            return [docker_hub] if namespace else []
        case "gitlab":
            return [gitlab, catalog] if namespace else [catalog]
        case "harbor":
            is_robot = exchange.login().username.startswith("robot")
            return [catalog] if is_robot and not namespace else [harbor, catalog]
        case "quay":
            return [quay] if namespace or not exchange.login().is_anonymous else []
        case "catalog":
            return [catalog]
        case "nothing":
            return []


async def _learn(exchange: Exchange) -> Quirks | None:
    """Recognise the registry by its token server, if that may be asked at all."""
    try:
        server = await exchange.token_server()
    except RegistryError:
        return None  # why the list was refused says more
    return quirks_of_token_server(server.realm, server.service) if server else None


def _is_refusal(error: RegistryError) -> bool:
    """Whether another way may do: not where there was no answer, or one to wait for."""
    if error.temporary:
        return False
    return error.status in _REFUSALS if error.status is not None else error.code == "unauthorized"


def _advised(refusal: RegistryError, advice: str, *, is_catalog: bool) -> RegistryError:
    """Say what to do instead; a catalog that is not there is no repository that is not there."""
    has_none = is_catalog and refusal.code not in {"unauthorized", "denied"}
    return RegistryError(
        f"{refusal.message}; {advice}",
        registry=refusal.registry,
        operation=refusal.operation,
        code="listing_unsupported" if has_none else refusal.code,
        status=refusal.status,
        spec_codes=refusal.spec_codes,
    )


def _shown(entry: Any) -> str:
    return clean(str(entry), limit=80)
