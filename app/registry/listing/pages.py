"""Lists of tags, and pages of any list: of the distribution spec (`Link`) or of a vendor's API.

They are bounded, and never lead to another host.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog
from msgspec.structs import replace

from app.domain.errors import RegistryError
from app.domain.reference import InvalidReferenceError, Tag
from app.registry.auth.challenge import Scopes
from app.registry.http.error_body import clean
from app.registry.http.errors import Response, make_error
from app.registry.http.message import InvalidUrlError, Url
from app.registry.limits import (
    MAX_ITEMS,
    MAX_LIST_BYTES,
    MAX_LIST_SECONDS,
    MAX_PAGES,
    MIB,
)
from app.registry.quirks import quirks_of
from app.registry.requests import RegistryRequest, RequestExecutor

_log = structlog.get_logger(__name__)
Follow = Callable[[Response, Url], Url | None]
"""Finds the next page, from an answer and from where the list begins; None at its end."""

_PAGE_SIZES = (1000, 100, 0)
"""Asked for in turn when a registry refuses one (ECR takes 1000, others 100); 0 leaves the size to the registry."""
_CAP_STEP = 50
"""A page of 50, 100, 250 or 1,000 entries may have been cut there, whatever `n` asked for: one request more finds out.
Pages of any other length end a list that has no `Link`."""
_REFUSED_SIZE_STATUSES = frozenset({400, 413, 416, 422})
_LINK = re.compile(r"<([^<>]*)>((?:[^,\"]|\"[^\"]*\")*)")
_RELATION = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)
"""RFC 8288; relations are read as words after, since an expression that looks for `next` takes the square."""
_SIZE = re.compile(r"(?:^|&)n=(\d{1,9})(?!\d)")
MAX_NAMES = 5
"""Names of entries that could not be used which a warning has; the rest is a number."""


@dataclass(slots=True)
class ListWarning:
    """How often something came up, and the first names of it."""

    count: int = 0
    first: tuple[str, ...] = ()


@dataclass(slots=True)
class ListWarnings:
    """What there is to know of the lists of one caller, by the code of a warning."""

    by_code: dict[str, ListWarning] = field(default_factory=dict)

    def add(self, code: str, name: str) -> None:
        """Count one; its name is kept where it is one of the first."""
        warning = self.by_code.setdefault(code, ListWarning())
        warning.count += 1
        if len(warning.first) < MAX_NAMES and name not in warning.first:
            warning.first = (*warning.first, name)


async def list_tags(
    executor: RequestExecutor, repository: str, *, scopes: Scopes, list_warnings: ListWarnings
) -> AsyncIterator[Tag]:
    """Yield a repository's tags as the registry orders them; `repository_missing` when there is none of that name.

    What can't be used is counted (`tag_unusable`), but for nulls and digests, which are no tags anywhere.
    """
    if action := quirks_of(executor.entry).tag_list_action:
        scopes = scopes.merge(Scopes.repository(repository, action))
    url = executor.home.with_target(f"/v2/{repository}/tags/list")
    seen: set[str] = set()
    request = RegistryRequest(operation="list_tags", method="GET", url=url, scopes=scopes, expects=frozenset({200}))
    async for entry in spec_entries(executor, request, key="tags", list_warnings=list_warnings):
        try:
            tag = Tag(entry)
        except (InvalidReferenceError, TypeError):
            # Nexus lists nulls, Artifactory digests (skopeo #2409, #2346).
            _log.warning("list_entry_dropped", registry=executor.entry.registry, list="tags", entry=shown_entry(entry))
            if not _is_no_tag_anywhere(entry):
                list_warnings.add("tag_unusable", f"{executor.entry.registry}/{repository}:{shown_entry(entry)}")
            continue
        if tag not in seen:
            seen.add(tag)
            yield tag


async def spec_entries(
    executor: RequestExecutor, request: RegistryRequest, *, key: str, list_warnings: ListWarnings
) -> AsyncIterator[Any]:
    """Yield what a list of the distribution spec holds: pages of `n`, then `Link`, or `last` where there is none.

    A list that `last` leads on in, though its page was shorter than asked for and had no `Link`, is noted as
    `page_without_link`. Raises `RegistryError`, as `api_entries` does, for a list that never ends.
    """
    count = 0
    last_page: list[Any] = []
    answer: Response | None = None
    first = await _first_page(executor, request)
    async for answer in each_page(executor, request, first, follow=next_page):
        last_page = _items(executor, request, answer, key=key)
        count = _counted(executor, request, count + len(last_page))
        for item in last_page:
            yield item
    if answer is None or answer.headers.get("link") or quirks_of(executor.entry).links_pages:
        return
    is_short = len(last_page) != _asked_size(answer.url)
    async for item in _pages_by_last(executor, request, begin=answer.url, page=last_page, key=key):
        if is_short:
            is_short = False
            list_warnings.add("page_without_link", f"{executor.entry.registry}{request.url.path}")
        count = _counted(executor, request, count + 1)
        yield item


async def api_entries(
    executor: RequestExecutor, request: RegistryRequest, *, key: str | None, follow: Follow
) -> AsyncIterator[Any]:
    """Yield what a list of a registry's own API holds: under a key of its pages, or as its pages."""
    count = 0
    first = await executor.fetch_json(_at(executor, request, request.url))
    async for answer in each_page(executor, request, first, follow=follow):
        page = _items(executor, request, answer, key=key)
        count = _counted(executor, request, count + len(page))
        for item in page:
            yield item


def next_page(answer: Response, url: Url) -> Url | None:
    """Find the next page in `Link`."""
    for target, parameters in _LINK.findall(", ".join(answer.headers.get_list("link"))):
        relations = {word for found in _RELATION.findall(parameters) for word in "".join(found).lower().split()}
        if "next" in relations:
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


async def each_page(
    executor: RequestExecutor, request: RegistryRequest, answer: Response, *, follow: Follow, max_pages: int = MAX_PAGES
) -> AsyncIterator[Response]:
    """Yield a list's pages, beginning with one that was answered; raise `RegistryError` for a list that never ends."""
    asked = {request.url.target}
    budget = _Budget(executor, request, max_pages)
    while True:
        budget.take(answer)
        yield answer
        following = follow(answer, request.url)
        if following is None or following.target in asked:
            return
        asked.add(following.target)
        answer = await executor.fetch_json(_at(executor, request, following))


class _Budget:
    """What one list may cost: pages, bytes, seconds."""

    def __init__(self, executor: RequestExecutor, request: RegistryRequest, max_pages: int = MAX_PAGES) -> None:
        self._executor = executor
        self._request = request
        self._max_pages = max_pages
        self._begun = monotonic()
        self._pages = 0
        self._bytes = 0

    def take(self, answer: Response) -> None:
        """Count a page; raise `RegistryError` (`limit_exceeded`) for one too many."""
        self._pages += 1
        self._bytes += len(answer.body)
        what = ""
        if self._pages > self._max_pages:
            what = f"more than {self._max_pages} pages"
        elif self._bytes > MAX_LIST_BYTES:
            what = f"more than {MAX_LIST_BYTES // MIB} MiB"
        elif monotonic() - self._begun > MAX_LIST_SECONDS:
            what = f"not ended after {MAX_LIST_SECONDS:g} s"
        if what:
            raise _endless(self._executor, self._request, what)


async def _pages_by_last(
    executor: RequestExecutor, request: RegistryRequest, *, begin: Url, page: list[Any], key: str
) -> AsyncIterator[Any]:
    """Go on after the last entry where a page that may be full came without `Link`; the spec lets clients."""
    size, full = _asked_size(begin), len(page)
    if full != size and full % _CAP_STEP != 0:
        return
    known, budget = set(map(str, page)), _Budget(executor, request)
    while page and len(page) == full and isinstance(page[-1], str):
        url = request.url.with_parameter("n", str(size)) if size else request.url
        answer = await executor.fetch_json(_at(executor, request, url.with_parameter("last", page[-1])))
        budget.take(answer)
        page = [item for item in _items(executor, request, answer, key=key) if str(item) not in known]
        known.update(map(str, page))
        for item in page:
            yield item


def _asked_size(url: Url) -> int | None:
    """Read how many entries a page was to have; None where the registry was left to decide."""
    size = _SIZE.search(url.query)
    return int(size[1]) if size else None


async def _first_page(executor: RequestExecutor, request: RegistryRequest) -> Response:
    for size in _PAGE_SIZES:
        url = request.url.with_parameter("n", str(size)) if size else request.url
        try:
            return await executor.fetch_json(_at(executor, request, url))
        except RegistryError as error:
            if size == 0 or error.status not in _REFUSED_SIZE_STATUSES:
                raise
    raise AssertionError  # the last size returned or raised


def _at(executor: RequestExecutor, request: RegistryRequest, url: Url) -> RegistryRequest:
    headers = request.headers or {"Accept": "application/json"}
    return replace(request, url=url, headers=headers, body_limit=quirks_of(executor.entry).page_bytes)


def _items(executor: RequestExecutor, request: RegistryRequest, answer: Response, *, key: str | None) -> list[Any]:
    """Read one page; `null` is an empty list in what is written in Go (older Distribution, Harbor)."""
    try:
        document: Any = json.loads(answer.body)
        items = document if key is None else document[key]
    except (ValueError, RecursionError, KeyError, TypeError):
        items = answer
    if not isinstance(items, list | None):
        context = executor.context(request.operation)
        message = f"{context.registry} answered {request.url.path} with something that is no list"
        raise make_error(message, context, code="registry_unreachable")
    return items or []


def _counted(executor: RequestExecutor, request: RegistryRequest, count: int) -> int:
    if count > MAX_ITEMS:
        raise _endless(executor, request, f"more than {MAX_ITEMS} entries")
    return count


def _endless(executor: RequestExecutor, request: RegistryRequest, what: str) -> RegistryError:
    context = executor.context(request.operation)
    return make_error(f"{context.registry}: the list at {request.url.path} has {what}", context, code="limit_exceeded")


def shown_entry(entry: Any) -> str:
    """Return what a list named, as it may be logged."""
    return clean(str(entry), limit=80)


def _is_no_tag_anywhere(entry: Any) -> bool:
    """Whether an entry is one that registries are known to list beside tags: null, or a digest."""
    return entry is None or (isinstance(entry, str) and ":" in entry)
