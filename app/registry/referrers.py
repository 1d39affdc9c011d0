"""Referrers: manifests that name another as their subject, by the API or the referrers tag (distribution spec)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import structlog
from msgspec.structs import replace

from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import Descriptor, Manifest, MediaType, digest_of, parse_descriptor, parse_manifest
from app.domain.reference import Digest, Tag
from app.registry.auth.challenge import Scopes
from app.registry.http.error_body import clean
from app.registry.http.errors import Response, make_error
from app.registry.limits import MAX_ITEMS, MAX_PAGE_BYTES, MAX_REFERRERS_PAGES
from app.registry.listing.pages import ListWarnings, each_page, next_page
from app.registry.manifests import find_manifest_with_etag, head_manifest, put_manifest
from app.registry.requests import RegistryRequest, RequestExecutor

_log = structlog.get_logger(__name__)
_MAX_UPDATES = 5
"""Tries to get an entry into a fallback index that others write too."""
_NO_API = frozenset({400, 401, 403, 404, 405, 406, 410, 501})


class Referrers:
    """The referrers of one registry's manifests."""

    def __init__(self, executor: RequestExecutor) -> None:
        self._executor = executor
        self.has_api: bool | None = None
        """Whether there is an API; None until it was asked."""
        self._locks: dict[tuple[str, Digest], _Lock] = {}

    async def list(
        self, repository: str, digest: Digest, *, scopes: Scopes, list_warnings: ListWarnings
    ) -> tuple[Descriptor, ...]:
        """Ask the API; where there is none, read the fallback tag.

        A fallback tag that holds no valid index lists no referrers, and is counted (`fallback_list_ignored`).
        """
        found = await self._ask_api(repository, digest, scopes=scopes) if self.has_api is not False else None
        if found is None:
            try:
                index = await self._read_fallback(repository, digest, scopes=scopes)
            except ContentError as error:
                _log.warning(
                    "fallback_tag_ignored", registry=self._executor.entry.registry, reason=clean(error.message)
                )
                list_warnings.add(
                    "fallback_list_ignored", f"{self._executor.entry.registry}/{repository}:{fallback_tag(digest)}"
                )
                index = None
            found = index.manifest.children if index else ()
        return tuple({entry.digest: entry for entry in found if entry.digest != digest}.values())

    async def add_to_fallback(self, repository: str, subject: Digest, *, referrer: Descriptor, scopes: Scopes) -> None:
        """Add an entry to the fallback index, keeping all others; raise `RegistryError` when it does not stay.

        `ContentError` when the tag holds something else. Read, add, write with `If-Match` where the registry offers an
        ETag, read again: another writer may have come between. Writers of this process wait for each other.
        """
        tag = fallback_tag(subject)
        async with self._lock(repository, subject):
            for _ in range(_MAX_UPDATES):
                found = await self._read_to_write(repository, subject, scopes=scopes)
                if found is not None and found.has(referrer):
                    return
                try:
                    await put_manifest(
                        self._executor,
                        repository,
                        tag,
                        manifest=with_entry(found.manifest if found else None, referrer),
                        scopes=scopes,
                        if_match=found.etag if found else None,
                    )
                except RegistryError as error:
                    if error.status != httpx.codes.PRECONDITION_FAILED:
                        raise
        context = self._executor.context("put_manifest")
        message = f"{context.registry}: the fallback index of {subject} is changed by others faster than it can be kept"
        raise make_error(message, context, code="manifest_rejected", temporary=True)

    async def _ask_api(self, repository: str, digest: Digest, *, scopes: Scopes) -> tuple[Descriptor, ...] | None:
        """Return what the API lists; None when there is no API, however that is said."""
        request = RegistryRequest(
            operation="list_referrers",
            method="GET",
            url=self._executor.home.with_target(f"/v2/{repository}/referrers/{digest}"),
            scopes=scopes,
            headers={"Accept": MediaType.OCI_INDEX},
            expects=frozenset({200}) | _NO_API,
            body_limit=MAX_PAGE_BYTES,
        )
        try:
            answer = await self._executor.fetch_json(request)
        except RegistryError as error:
            # Some without the API always answer 500; one that is known to have it is in trouble.
            if error.status != httpx.codes.INTERNAL_SERVER_ERROR or self.has_api:
                raise
            return None
        entries = _entries(answer)
        if entries is None:
            if answer.status in {404, 405, 501}:
                self.has_api = False
            return None
        self.has_api = True
        found: list[Descriptor] = []
        pages = each_page(
            self._executor,
            replace(request, expects=frozenset({200})),
            answer,
            follow=next_page,
            max_pages=MAX_REFERRERS_PAGES,
        )
        async for page in pages:
            found += _entries(page) or ()
            if len(found) > MAX_ITEMS:
                message = f"{self._executor.entry.registry} lists more than {MAX_ITEMS} referrers of {digest}"
                raise make_error(message, self._executor.context("list_referrers"), code="limit_exceeded")
        return tuple(found)

    async def _read_fallback(self, repository: str, subject: Digest, *, scopes: Scopes) -> _Fallback | None:
        """Read the index under the fallback tag; None when there is none.

        GitLab answers such a tag with the image of that digest itself (oras #2148). What else is no index is a tag of
        another kind: `ContentError`.
        """
        found = await find_manifest_with_etag(self._executor, repository, fallback_tag(subject), scopes=scopes)
        if found is None:
            return None
        manifest, etag = found
        if manifest.digest == subject:
            return None
        if manifest.media_type != MediaType.OCI_INDEX:
            message = f"the tag {fallback_tag(subject)} holds something that is no index of referrers"
            raise ContentError(message, code="manifest_invalid")
        return _Fallback(manifest, etag)

    async def _read_to_write(self, repository: str, subject: Digest, *, scopes: Scopes) -> _Fallback | None:
        """Read the index that is to be written again; a denial means that there is none where the subject can be read.

        Some registries deny what they do not have. Where nothing may be read, an index could be lost by writing one.
        """
        try:
            return await self._read_fallback(repository, subject, scopes=scopes)
        except RegistryError as error:
            if error.code != "denied":
                raise
            if await head_manifest(self._executor, repository, subject, scopes=scopes) is None:
                raise
            return None

    @asynccontextmanager
    async def _lock(self, repository: str, subject: Digest) -> AsyncIterator[None]:
        lock = self._locks.setdefault((repository, subject), _Lock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                self._locks.pop((repository, subject), None)


@dataclass(frozen=True, slots=True)
class _Fallback:
    """An index of referrers, and what an update may be made conditional on."""

    manifest: Manifest
    etag: str | None

    def has(self, referrer: Descriptor) -> bool:
        return any(entry.digest == referrer.digest for entry in self.manifest.children)


class _Lock:
    """A lock that is dropped when no task wants it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def fallback_tag(digest: Digest) -> Tag:
    """Spell the tag under which a manifest's referrers lie: `sha256-<hex>`, at most 32 and 64 characters."""
    return Tag(f"{digest.algorithm[:32]}-{digest.encoded[:64]}")


def _entries(answer: Response) -> tuple[Descriptor, ...] | None:
    """Read one page of the API; None for anything but an index (an application's page, an error with status 200)."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status != httpx.codes.OK or kind != MediaType.OCI_INDEX:
        return None
    try:
        document: Any = json.loads(answer.body)
        manifests = document.get("manifests") if isinstance(document, dict) else None
        return tuple(parse_descriptor(entry) for entry in manifests or ()) if isinstance(document, dict) else None
    except (ValueError, RecursionError, ContentError, TypeError):
        return None


def with_entry(index: Manifest | None, referrer: Descriptor) -> Manifest:
    """Write a new index: the old document as it is, and one more entry."""
    document: dict[str, Any] = (
        json.loads(index.raw) if index else {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": []}
    )
    entry: dict[str, Any] = {
        "mediaType": referrer.media_type,
        "digest": referrer.digest,
        "size": referrer.size,
    }
    if referrer.artifact_type:
        entry["artifactType"] = referrer.artifact_type
    if referrer.annotations:
        entry["annotations"] = dict(referrer.annotations)
    document["manifests"] = [*(document.get("manifests") or []), entry]
    raw = json.dumps(document, separators=(",", ":")).encode()
    return parse_manifest(raw, media_type=MediaType.OCI_INDEX, digest=digest_of(raw))
