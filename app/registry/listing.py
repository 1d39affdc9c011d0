"""Lists that come in pages: tags, the catalog, referrers (distribution spec, "Listing Tags", "Listing Referrers")."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import structlog

from app.domain.errors import RegistryError
from app.domain.reference import InvalidReferenceError, Repository, Tag
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange
from app.registry.failures import Answer, clean, make_failure
from app.registry.limits import MAX_ITEMS, MAX_PAGE_BYTES, MAX_PAGES
from app.registry.url import InvalidUrlError, Url

_log = structlog.get_logger(__name__)
_PAGE_SIZES = (1000, 100, 0)
"""Asked for in turn when a registry refuses one (ECR takes 1000, others 100); 0 leaves the size to the registry."""
_REFUSED_SIZE_STATUSES = frozenset({400, 413, 416, 422})
_LINK = re.compile(r"<([^>]*)>((?:[^,\"]|\"[^\"]*\")*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"[^\"]*\bnext\b[^\"]*\"|next\b)", re.IGNORECASE)
_ACR_DOMAINS = (".azurecr.io", ".azurecr.cn", ".azurecr.us")


async def list_tags(exchange: Exchange, repository: str, *, scopes: Scopes) -> AsyncIterator[Tag]:
    """Yield a repository's tags as the registry orders them; `repository_missing` when there is none of that name."""
    if exchange.entry.type == "acr" or exchange.entry.registry.endswith(_ACR_DOMAINS):
        # ACR wants more than `pull` here (acr #676); elsewhere the 401 would say so.
        scopes = scopes.merge(Scopes.repository(repository, "metadata_read"))
    url = exchange.home.with_target(f"/v2/{repository}/tags/list")
    seen: set[str] = set()
    call = Call(operation="list_tags", method="GET", url=url, scopes=scopes, expects=frozenset({200}))
    async for entry in _entries(exchange, call, key="tags"):
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
    """Yield the registry's repositories, those below a namespace if one is given."""
    url = exchange.home.with_target("/v2/_catalog")
    seen: set[str] = set()
    call = Call(operation="list_repositories", method="GET", url=url, scopes=Scopes.catalog(), expects=frozenset({200}))
    async for entry in _entries(exchange, call, key="repositories"):
        try:
            path = Repository(exchange.entry.registry, entry).path
        except (InvalidReferenceError, TypeError):
            _log.warning("list_entry_dropped", registry=exchange.entry.registry, list="catalog", entry=_shown(entry))
            continue
        if path not in seen and (not namespace or path.startswith(f"{namespace}/")):
            seen.add(path)
            yield path


async def pages(exchange: Exchange, call: Call) -> AsyncIterator[Answer]:
    """Fetch a list's pages, following `Link`; raise `RegistryError` when they never end."""
    answer = await _first_page(exchange, call)
    asked = {call.url.target}
    for _ in range(MAX_PAGES):
        yield answer
        following = next_page(answer, call.url)
        if following is None or following.target in asked:
            return
        asked.add(following.target)
        answer = await exchange.fetch(_at(call, following))
    raise _endless(exchange, call, f"more than {MAX_PAGES} pages")


def next_page(answer: Answer, url: Url) -> Url | None:
    """Find the next page: the `Link`'s query on the path we asked ourselves.

    Registries behind proxies name internal hosts, http, or a path that is rewritten; only the query is theirs to say,
    so no request ever leaves for another place.
    """
    for target, parameters in _LINK.findall(", ".join(answer.headers.get_list("link"))):
        if _NEXT.search(parameters):
            try:
                query = url.join(target).query
            except InvalidUrlError:
                return None
            return url.with_target(f"{url.path}?{query}") if query else None
    return None


async def _entries(exchange: Exchange, call: Call, *, key: str) -> AsyncIterator[Any]:
    count = 0
    last_page: list[Any] = []
    answer: Answer | None = None
    async for answer in pages(exchange, call):
        last_page = list(_items(exchange, call, answer=answer, key=key))
        for item in last_page:
            count += 1
            if count > MAX_ITEMS:
                raise _endless(exchange, call, f"more than {MAX_ITEMS} entries")
            yield item
    if answer is None or answer.headers.get("link"):
        return
    async for item in _pages_by_last(exchange, call, begin=answer.url, page=last_page, key=key):
        count += 1
        if count > MAX_ITEMS:
            raise _endless(exchange, call, f"more than {MAX_ITEMS} entries")
        yield item


async def _pages_by_last(
    exchange: Exchange, call: Call, *, begin: Url, page: list[Any], key: str
) -> AsyncIterator[Any]:
    """Go on after the last entry where a full page came without `Link`; the spec lets clients."""
    size = re.search(r"(?:^|&)n=(\d+)", begin.query)
    known = set(map(str, page))
    for _ in range(MAX_PAGES):
        if size is None or len(page) != int(size[1]) or not isinstance(page[-1], str):
            return
        url = call.url.with_parameter("n", size[1]).with_parameter("last", page[-1])
        answer = await exchange.fetch(_at(call, url))
        page = [item for item in _items(exchange, call, answer=answer, key=key) if str(item) not in known]
        known.update(map(str, page))
        for item in page:
            yield item


async def _first_page(exchange: Exchange, call: Call) -> Answer:
    for size in _PAGE_SIZES:
        url = call.url.with_parameter("n", str(size)) if size else call.url
        try:
            return await exchange.fetch(_at(call, url))
        except RegistryError as error:
            if size == 0 or error.status not in _REFUSED_SIZE_STATUSES:
                raise
    raise AssertionError  # the last size returned or raised


def _at(call: Call, url: Url) -> Call:
    headers = call.headers or {"Accept": "application/json"}
    return replace(call, url=url, headers=headers, body_limit=MAX_PAGE_BYTES)


def _items(exchange: Exchange, call: Call, *, answer: Answer, key: str) -> Iterator[Any]:
    """Read one page; `null` is an empty list in older Distribution."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    items = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, dict) or key not in document or not isinstance(items, list | None):
        asked = exchange.asked(call.operation)
        message = f"{asked.registry} answered {call.url.path} with something that is no list"
        raise make_failure(message, asked, code="registry_unreachable")
    yield from items or []


def _endless(exchange: Exchange, call: Call, what: str) -> RegistryError:
    asked = exchange.asked(call.operation)
    return make_failure(f"{asked.registry}: the list at {call.url.path} has {what}", asked, code="limit_exceeded")


def _shown(entry: Any) -> str:
    return clean(str(entry), limit=80)
