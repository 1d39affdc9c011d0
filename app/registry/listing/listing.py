"""Lists of repositories: by the catalog, or by the vendor's own API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from app.domain.errors import RegistryError
from app.domain.reference import InvalidReferenceError, Repository
from app.domain.registry import AwsAuth
from app.domain.registry_logins import AlibabaAuth, TencentAuth
from app.registry.auth.google import USERNAME
from app.registry.http.errors import LIST_REPOSITORIES, make_error
from app.registry.listing.google_api import google
from app.registry.listing.pages import ListWarnings, shown_entry
from app.registry.listing.vendor_apis import acr, catalog, docker_hub, ecr, github, gitlab, harbor, own_cloud, quay
from app.registry.quirks import ListedBy, Quirks, quirks_of, quirks_of_token_server
from app.registry.requests import RequestExecutor

_log = structlog.get_logger(__name__)
_REFUSALS = frozenset({400, 401, 403, 404, 405, 406, 410, 501})
"""What registries without a catalog, or with one for administrators only, answer."""
Way = Callable[[RequestExecutor, str, ListWarnings], AsyncIterator[Any]]
_OWN_WAYS: dict[ListedBy, Way] = {
    "acr": acr,
    "docker_hub": docker_hub,
    "ecr": ecr,
    "ecr_public": ecr,
    "github": github,
    "gitlab": gitlab,
    "google": google,
    "harbor": harbor,
    "quay": quay,
}
_WITH_CATALOG: frozenset[ListedBy] = frozenset({"acr", "catalog", "ecr", "gitlab", "google", "harbor"})
"""Where the catalog may do when the registry's own API does not."""


async def list_repositories(
    executor: RequestExecutor, namespace: str, *, list_warnings: ListWarnings
) -> AsyncIterator[str]:
    """Yield the registry's repositories, those below a namespace if one is given.

    Names that can't be used are counted (`repository_unusable`), as far as the namespace may hold them.
    Raises `RegistryError` whose message says what to do instead; `listing_unsupported` where no login gets a list.
    """
    seen: set[str] = set()
    async for entry in _by_any_way(executor, namespace, list_warnings):
        try:
            path = Repository(executor.entry.registry, entry).path
        except (InvalidReferenceError, TypeError):
            _log.warning(
                "list_entry_dropped", registry=executor.entry.registry, list="repositories", entry=shown_entry(entry)
            )
            if str(entry).lower().startswith(f"{namespace}/" if namespace else ""):
                list_warnings.add("repository_unusable", f"{executor.entry.registry}/{shown_entry(entry)}")
            continue
        if path not in seen and (not namespace or path.startswith(f"{namespace}/")):
            seen.add(path)
            yield path


async def _by_any_way(executor: RequestExecutor, namespace: str, list_warnings: ListWarnings) -> AsyncIterator[Any]:
    """Yield by the first way that is not refused; raise what the first one was refused with when all are."""
    quirks = quirks_of(executor.entry)
    ways = await _ways(executor, namespace, quirks)
    first = ways[0] if ways else None
    refusal: RegistryError | None = None
    while ways:
        way = ways.pop(0)
        has_begun = False
        try:
            async for entry in way(executor, namespace, list_warnings):
                has_begun = True
                yield entry
        except RegistryError as error:
            if has_begun or not _is_refusal(error):
                raise
            refusal = refusal or error
        else:
            return
        if not quirks.is_known and (learned := await _learn(executor)):
            quirks = learned
            ways = [way for way in await _ways(executor, namespace, quirks) if way is not catalog]
    if refusal is None:
        context = executor.context(LIST_REPOSITORIES)
        message = f"{context.registry} has no such list of repositories: {quirks.listing_advice}"
        raise make_error(message, context, code="listing_unsupported")
    raise _advised(refusal, quirks.listing_advice, is_catalog=first is catalog)


async def _ways(executor: RequestExecutor, namespace: str, quirks: Quirks) -> list[Way]:
    """Return the ways to list, the most complete first."""
    if isinstance(executor.entry.auth, AlibabaAuth | TencentAuth):
        return [own_cloud]  # all of them, where a catalog would be of those that the password may read
    own = _OWN_WAYS.get(quirks.lists_by)
    ways = [own] if own is not None and await _serves(quirks.lists_by, executor, namespace) else []
    return [*ways, catalog] if quirks.lists_by in _WITH_CATALOG else ways


async def _serves(lists_by: ListedBy, executor: RequestExecutor, namespace: str) -> bool:
    """Whether an API of a registry's own serves such a login, and such a question."""
    match lists_by:
        case "docker_hub" | "gitlab":
            return bool(namespace)
        case "quay":
            return bool(namespace) or not (await executor.login()).is_anonymous
        case "github":
            return bool(namespace) and not (await executor.login()).is_anonymous
        case "google":
            return bool(namespace) and (await executor.login()).username == USERNAME
        case "ecr" | "ecr_public":
            return isinstance(executor.entry.auth, AwsAuth)
        case _:
            return True


async def _learn(executor: RequestExecutor) -> Quirks | None:
    """Recognise the registry by its token server, if that may be asked at all."""
    try:
        server = await executor.token_server()
    except RegistryError:
        return None  # why the list was refused says more
    return quirks_of_token_server(server.realm, server.service) if server else None


def _is_refusal(error: RegistryError) -> bool:
    """Whether another way may do: not where there was no answer, or one to wait for."""
    if error.temporary:
        return False
    return error.status in _REFUSALS if error.status is not None else error.code in {"unauthorized", "denied"}


def _advised(refusal: RegistryError, advice: str, *, is_catalog: bool) -> RegistryError:
    """Return what to do instead; a catalog that is not there is no repository that is not there."""
    has_none = is_catalog and refusal.status is not None and refusal.status not in {401, 403}
    return RegistryError(
        f"{refusal.message}; {advice}",
        registry=refusal.registry,
        operation=refusal.operation,
        code="listing_unsupported" if has_none else refusal.code,
        status=refusal.status,
        spec_codes=refusal.spec_codes,
    )
