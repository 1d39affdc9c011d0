"""Reading blobs (distribution spec, "Pulling blobs"): is it there, and its bytes, from the middle if need be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from app.domain.errors import ContentError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange, Live
from app.registry.failures import make_failure
from app.registry.limits import RoadSettings
from app.registry.url import Url

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_HEAD_UNSUPPORTED = frozenset({400, 403, 405, 500, 501})


async def has_blob(exchange: Exchange, repository: str, digest: Digest, *, scopes: Scopes) -> bool:
    """Ask whether a repository holds a blob.

    403 counts as no: some say it for what is not there, and who really may not do anything here learns so, with a
    reason, from the next request. Where HEAD does not work a GET of one byte does.
    """
    url = _blob_url(exchange, repository, digest)
    statuses = frozenset({200, 404}) | _HEAD_UNSUPPORTED
    head = Call(operation="has_blob", method="HEAD", url=url, scopes=scopes, expects=statuses)
    answer = await exchange.fetch(head)
    if answer.status not in _HEAD_UNSUPPORTED:
        return answer.status == httpx.codes.OK
    get = Call(
        operation="has_blob",
        method="GET",
        url=url,
        scopes=scopes,
        headers={"Range": "bytes=0-0"},
        expects=frozenset({200, 206, 403, 404, 416}),
    )
    async with exchange.open(get) as live:  # closed unread: a registry may answer with the whole blob
        return live.status not in {403, 404}


@asynccontextmanager
async def open_blob(
    exchange: Exchange, repository: str, blob: Descriptor, *, offset: int, scopes: Scopes
) -> AsyncIterator[BlobReader]:
    """Open a blob at an offset, or earlier where the registry can't; raise `RegistryError` or `ContentError`."""
    if offset >= blob.size > 0:
        yield BlobReader(exchange, blob, live=None, offset=blob.size)
        return
    begin = offset
    while True:
        async with exchange.open(_get(exchange, repository, blob, offset=begin, scopes=scopes)) as live:
            start = _start(live, begin)
            if start is not None:
                _check_head(live, blob, start=start)
                yield BlobReader(exchange, blob, live=live, offset=start)
                return
            if begin == 0:
                message = f"{exchange.entry.registry} answers with a part of {blob.digest} that nobody asked for"
                raise make_failure(message, live.asked, code="registry_unreachable")
        begin = 0  # its answers to ranges can't be used


class BlobReader:
    """The bytes of a blob from `offset` on, never more than its descriptor says; the hash is the reader's business."""

    def __init__(self, exchange: Exchange, blob: Descriptor, *, live: Live | None, offset: int) -> None:
        self.offset = offset
        """Where these bytes begin: an answer may start before what was asked for."""
        self._pressure = exchange.pressure
        self._settings = exchange.wire.settings
        self._blob = blob
        self._live = live

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come; raise `RegistryError` when they break off, `ContentError` for a wrong size."""
        position = self.offset
        if self._live is None:
            return
        async for part in _unless_trickling(self._live, self._settings):
            position += len(part)
            if position > self._blob.size:
                raise _wrong_size(self._blob, f"more than {self._blob.size} bytes came")
            await self._pressure.pass_bytes(len(part))
            yield part
        if position < self._blob.size:
            raise _wrong_size(self._blob, f"only {position} of {self._blob.size} bytes came")


async def _unless_trickling(live: Live, settings: RoadSettings) -> AsyncIterator[bytes]:
    """Pass a body on, and break it off when it comes too slowly; what its reader takes its time for does not count."""
    clock = asyncio.get_running_loop().time
    waited, size, begun = 0.0, 0, clock()
    async for part in live.parts():
        waited += clock() - begun
        size += len(part)
        if waited > settings.trickle_seconds:
            if size < waited * settings.trickle_bytes_per_second:
                message = f"{live.asked.registry} sends less than {settings.trickle_bytes_per_second} bytes a second"
                raise make_failure(message, live.asked, code="timeout", temporary=True)
            waited, size = 0.0, 0
        yield part
        begun = clock()


def _blob_url(exchange: Exchange, repository: str, digest: Digest) -> Url:
    return exchange.home.with_target(f"/v2/{repository}/blobs/{digest}")


def _get(exchange: Exchange, repository: str, blob: Descriptor, *, offset: int, scopes: Scopes) -> Call:
    return Call(
        operation="open_blob",
        method="GET",
        url=_blob_url(exchange, repository, blob.digest),
        scopes=scopes,
        headers={"Range": f"bytes={offset}-"} if offset else {},
        expects=frozenset({200, 206, 416}) if offset else frozenset({200}),
    )


def _start(live: Live, asked: int) -> int | None:
    """Say where an answer begins; None when that can't be known, or lies behind what was asked for."""
    if live.status == httpx.codes.OK:
        return 0
    if live.status != httpx.codes.PARTIAL_CONTENT:
        return None
    told = _CONTENT_RANGE.match(live.headers.get("content-range", ""))
    return int(told[1]) if told and int(told[1]) <= asked else None


def _check_head(live: Live, blob: Descriptor, *, start: int) -> None:
    encoding = live.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        # Decoding could turn a few bytes into very many, and the digest is of the bytes as they are stored.
        raise ContentError(f"{blob.digest} comes in an encoding that was not asked for", code="size_mismatch")
    length = live.headers.get("content-length", "")
    if length.isdigit() and start + int(length) != blob.size:
        raise _wrong_size(blob, f"{start + int(length)} bytes are announced instead of {blob.size}")


def _wrong_size(blob: Descriptor, what: str) -> ContentError:
    return ContentError(f"{blob.digest}: {what}", code="size_mismatch")
