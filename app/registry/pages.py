"""Lists that come in pages, of the distribution spec or of a registry's own API: bounded, and never leaving home."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from app.domain.errors import RegistryError
from app.registry.exchange import Call, Exchange
from app.registry.failures import Answer, make_failure
from app.registry.limits import MAX_ITEMS, MAX_PAGE_BYTES, MAX_PAGES
from app.registry.url import InvalidUrlError, Url

Follow = Callable[[Answer, Url], Url | None]
"""Finds the next page, from an answer and from where the list begins; None at its end."""

_PAGE_SIZES = (1000, 100, 0)
"""Asked for in turn when a registry refuses one (ECR takes 1000, others 100); 0 leaves the size to the registry."""
_REFUSED_SIZE_STATUSES = frozenset({400, 413, 416, 422})
_LINK = re.compile(r"<([^>]*)>((?:[^,\"]|\"[^\"]*\")*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"[^\"]*\bnext\b[^\"]*\"|next\b)", re.IGNORECASE)


async def spec_entries(exchange: Exchange, call: Call, *, key: str) -> AsyncIterator[Any]:
    """Yield what a list of the distribution spec holds: pages of `n`, then `Link`, or `last` where there is none.

    Raises `RegistryError`, as `api_entries` does, for a list that never ends.
    """
    count = 0
    last_page: list[Any] = []
    answer: Answer | None = None
    first = await _first_page(exchange, call)
    async for answer in _pages(exchange, call, first, follow=next_page):
        last_page = _items(exchange, call, answer, key=key)
        count = _counted(exchange, call, count + len(last_page))
        for item in last_page:
            yield item
    if answer is None or answer.headers.get("link"):
        return
    async for item in _pages_by_last(exchange, call, begin=answer.url, page=last_page, key=key):
        count = _counted(exchange, call, count + 1)
        yield item


async def api_entries(exchange: Exchange, call: Call, *, key: str | None, follow: Follow) -> AsyncIterator[Any]:
    """Yield what a list of a registry's own API holds: under a key of its pages, or as its pages."""
    count = 0
    first = await exchange.fetch(_at(call, call.url))
    async for answer in _pages(exchange, call, first, follow=follow):
        page = _items(exchange, call, answer, key=key)
        count = _counted(exchange, call, count + len(page))
        for item in page:
            yield item


def next_page(answer: Answer, url: Url) -> Url | None:
    """Find the next page in `Link`."""
    for target, parameters in _LINK.findall(", ".join(answer.headers.get_list("link"))):
        if _NEXT.search(parameters):
            return with_query_of(url, target)
    return None


def with_query_of(url: Url, target: str) -> Url | None:
    """Go on where a registry says its list does: with that query, on the path we asked ourselves.

    Registries behind proxies name internal hosts, http, or a path that is rewritten; only the query is theirs to say,
    so no request ever leaves for another place.
    """
    try:
        query = url.join(target).query
    except InvalidUrlError:
        return None
    return url.with_target(f"{url.path}?{query}") if query else None


async def _pages(exchange: Exchange, call: Call, answer: Answer, *, follow: Follow) -> AsyncIterator[Answer]:
    asked = {call.url.target}
    for _ in range(MAX_PAGES):
        yield answer
        following = follow(answer, call.url)
        if following is None or following.target in asked:
            return
        asked.add(following.target)
        answer = await exchange.fetch(_at(call, following))
    raise _endless(exchange, call, f"more than {MAX_PAGES} pages")


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
        page = [item for item in _items(exchange, call, answer, key=key) if str(item) not in known]
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


def _items(exchange: Exchange, call: Call, answer: Answer, *, key: str | None) -> list[Any]:
    """Read one page; `null` is an empty list in what is written in Go (older Distribution, Harbor)."""
    try:
        document: Any = json.loads(answer.body)
        items = document if key is None else document[key]
    except (ValueError, RecursionError, KeyError, TypeError):
        items = answer
    if not isinstance(items, list | None):
        asked = exchange.asked(call.operation)
        message = f"{asked.registry} answered {call.url.path} with something that is no list"
        raise make_failure(message, asked, code="registry_unreachable")
    return items or []


def _counted(exchange: Exchange, call: Call, count: int) -> int:
    if count > MAX_ITEMS:
        raise _endless(exchange, call, f"more than {MAX_ITEMS} entries")
    return count


def _endless(exchange: Exchange, call: Call, what: str) -> RegistryError:
    asked = exchange.asked(call.operation)
    return make_failure(f"{asked.registry}: the list at {call.url.path} has {what}", asked, code="limit_exceeded")
