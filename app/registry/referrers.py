"""Manifests that name another as their subject: the API, or an index under a tag (distribution spec, "Referrers")."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import structlog

from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import Descriptor, Manifest, MediaType, digest_of, parse_descriptor, parse_manifest
from app.domain.reference import Digest, Tag
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange
from app.registry.failures import Answer, clean, is_missing, make_failure
from app.registry.limits import MAX_ITEMS, MAX_PAGE_BYTES
from app.registry.manifests import get_manifest_with_etag, put_manifest
from app.registry.pages import next_page

_log = structlog.get_logger(__name__)
_MAX_UPDATES = 5
"""Tries to get an entry into a fallback index that others write too."""
_NO_API = frozenset({400, 401, 403, 404, 405, 406, 410, 501})


class Referrers:
    """The referrers of one registry's manifests."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._has_api: bool | None = None
        self._locks: dict[tuple[str, Digest], _Lock] = {}

    async def list(self, repository: str, digest: Digest, *, scopes: Scopes) -> tuple[Descriptor, ...]:
        """Ask the API; where there is none, read the fallback tag. No valid index means no referrers."""
        found = await self._ask_api(repository, digest, scopes=scopes) if self._has_api is not False else None
        if found is None:
            try:
                index = await self._read_fallback(repository, digest, scopes=scopes)
            except ContentError as error:
                _log.warning(
                    "fallback_tag_ignored", registry=self._exchange.entry.registry, reason=clean(error.message)
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
                found = await self._read_fallback(repository, subject, scopes=scopes)
                if found is not None and found.has(referrer):
                    return
                try:
                    await put_manifest(
                        self._exchange,
                        repository,
                        tag,
                        manifest=_with_entry(found.manifest if found else None, referrer),
                        scopes=scopes,
                        if_match=found.etag if found else None,
                    )
                except RegistryError as error:
                    if error.status != httpx.codes.PRECONDITION_FAILED:
                        raise
        asked = self._exchange.asked("put_manifest")
        message = f"{asked.registry}: the fallback index of {subject} is changed by others faster than it can be kept"
        raise make_failure(message, asked, code="manifest_rejected", temporary=True)

    async def _ask_api(self, repository: str, digest: Digest, *, scopes: Scopes) -> tuple[Descriptor, ...] | None:
        """Return what the API lists; None when there is no API, however that is said."""
        call = Call(
            operation="list_referrers",
            method="GET",
            url=self._exchange.home.with_target(f"/v2/{repository}/referrers/{digest}"),
            scopes=scopes,
            headers={"Accept": MediaType.OCI_INDEX},
            expects=frozenset({200}) | _NO_API,
            body_limit=MAX_PAGE_BYTES,
        )
        try:
            answer = await self._exchange.fetch(call)
        except RegistryError as error:
            # Some without the API always answer 500; one that is known to have it is in trouble.
            if error.status != httpx.codes.INTERNAL_SERVER_ERROR or self._has_api:
                raise
            return None
        entries = _entries(answer)
        if entries is None:
            if answer.status in {404, 405, 501}:
                self._has_api = False
            return None
        self._has_api = True
        found = list(entries)
        asked = {call.url.target}
        while (following := next_page(answer, call.url)) is not None and following.target not in asked:
            asked.add(following.target)
            answer = await self._exchange.fetch(replace(call, url=following, expects=frozenset({200})))
            found += _entries(answer) or ()
            if len(found) > MAX_ITEMS:
                message = f"{self._exchange.entry.registry} lists more than {MAX_ITEMS} referrers of {digest}"
                raise make_failure(message, self._exchange.asked("list_referrers"), code="limit_exceeded")
        return tuple(found)

    async def _read_fallback(self, repository: str, subject: Digest, *, scopes: Scopes) -> _Fallback | None:
        """Read the index under the fallback tag; None when there is none.

        GitLab answers such a tag with the image of that digest itself (oras #2148). What else is no index is somebody
        else's tag: `ContentError`.
        """
        try:
            manifest, etag = await get_manifest_with_etag(
                self._exchange, repository, fallback_tag(subject), scopes=scopes
            )
        except RegistryError as error:
            if is_missing(error):
                return None
            raise
        if manifest.digest == subject:
            return None
        if manifest.media_type != MediaType.OCI_INDEX:
            message = f"the tag {fallback_tag(subject)} holds something that is no index of referrers"
            raise ContentError(message, code="manifest_invalid")
        return _Fallback(manifest, etag)

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
    """A lock that is thrown away when nobody wants it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def fallback_tag(digest: Digest) -> Tag:
    """Spell the tag under which a manifest's referrers lie: `sha256-<hex>`, at most 32 and 64 characters."""
    return Tag(f"{digest.algorithm[:32]}-{digest.encoded[:64]}")


def _entries(answer: Answer) -> tuple[Descriptor, ...] | None:
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


def _with_entry(index: Manifest | None, referrer: Descriptor) -> Manifest:
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
