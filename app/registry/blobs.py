"""Reading blobs (distribution spec, "Pulling blobs"): existence, and bytes from any offset (Range).

And what answers say of where an upload goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from msgspec.structs import replace

from app.concurrency import note_moved, waiting_for
from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest
from app.net.stream import Piece
from app.registry.auth.challenge import Scopes
from app.registry.http.connections import StreamingResponse, TrickleGuard
from app.registry.http.error_body import clean
from app.registry.http.errors import CONNECTION_ERRORS, Response, error_of_exception, make_error, too_slow
from app.registry.http.host_trust import HostTrust
from app.registry.http.message import InvalidUrlError, Url, whole_number
from app.registry.requests import RegistryRequest, RequestExecutor

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")
_WHOLE = re.compile(r"^bytes (?:[0-9]{1,18}-[0-9]{1,18}|\*)/([0-9]{1,15})$")
_STORED = re.compile(r"(?:bytes[= ])?0-(\d{1,15})\s*")
_NOT_HERE = frozenset({401, 403, 404, 410})
"""What a registry says of a layer that it never had."""
_MAX_URLS = 8
_HEAD_REFUSED = frozenset({400, 401, 403, 405, 500, 501})


async def has_blob(executor: RequestExecutor, repository: str, blob: Descriptor, *, scopes: Scopes) -> bool:
    """Ask whether a repository holds a blob; raise `ContentError` (`size_mismatch`) where it says another length.

    403 counts as no: some say it for what is not there, and who really may not do anything here learns so, with a
    reason, from the next request. Where HEAD does not work, or tells another length than the descriptor has, a GET of
    one byte decides.
    """
    url = _blob_url(executor, repository, blob.digest)
    statuses = frozenset({200, 404}) | (_HEAD_REFUSED - {401})
    head = RegistryRequest(operation="has_blob", method="HEAD", url=url, scopes=scopes, expects=statuses)
    try:
        answer = await executor.fetch(head)
    except RegistryError as error:
        if error.status != httpx.codes.UNAUTHORIZED or error.operation != head.operation:
            raise
    else:
        if answer.status == httpx.codes.NOT_FOUND:
            return False
        if answer.status == httpx.codes.OK and _whole_size(answer) in {None, blob.size}:
            return True
    get = RegistryRequest(
        operation="has_blob",
        method="GET",
        url=url,
        scopes=scopes,
        headers={"Range": "bytes=0-0"},
        expects=frozenset({200, 206, 403, 404, 416}),
    )
    async with executor.open(get) as live:  # closed unread: a registry may answer with the whole blob
        if live.status in {403, 404}:
            return False
        size = _whole_size(live)
    if size not in {None, blob.size}:
        what = f"{executor.entry.registry} has it with {size} bytes instead of {blob.size}"
        raise _wrong_size(blob, what, encoding="")
    return True


async def read_byte(executor: RequestExecutor, repository: str, blob: Descriptor, *, scopes: Scopes) -> str:
    """Read the first byte of a blob, redirects and all; return the host it came from. Raise `RegistryError`."""
    request = RegistryRequest(
        operation="open_blob",
        method="GET",
        url=_blob_url(executor, repository, blob.digest),
        scopes=scopes,
        headers={"Range": "bytes=0-0"},
        expects=frozenset({200, 206}),
    )
    async with executor.open(request) as live:
        try:
            await live.read()
        except CONNECTION_ERRORS as error:
            raise error_of_exception(error, executor.context(request.operation)) from error
        return live.url.authority


@asynccontextmanager
async def open_blob(
    executor: RequestExecutor,
    repository: str,
    blob: Descriptor,
    *,
    offset: int,
    scopes: Scopes,
    is_fresh: bool = False,
) -> AsyncIterator[BlobReader]:
    """Open a blob at an offset, or earlier where the registry can't; raise `RegistryError` or `ContentError`.

    `is_fresh` is for another reading of what came damaged: over a new connection. A foreign layer that the registry
    does not have is taken from the URLs in its descriptor (image spec, "OCI Content Descriptors"), anonymously.
    """
    if offset >= blob.size > 0:
        yield BlobReader(executor, blob, live=None, offset=blob.size)
        return
    begin = offset
    while True:
        request = replace(_get(executor, repository, blob, offset=begin, scopes=scopes), is_fresh=is_fresh)
        opened = _open_anywhere(executor, request, blob) if blob.is_foreign else executor.open(request)
        async with opened as live:
            start = _start(live, begin)
            if start is not None:
                _check_head(live, blob, start=start)
                yield BlobReader(executor, blob, live=live, offset=start)
                return
            if begin == 0:
                message = f"{executor.entry.registry} answers with a part of {blob.digest} that was not asked for"
                raise make_error(message, executor.context("open_blob"), code="registry_unreachable")
        begin = 0  # its answers to ranges can't be used


@asynccontextmanager
async def _open_anywhere(
    executor: RequestExecutor, request: RegistryRequest, blob: Descriptor
) -> AsyncIterator[StreamingResponse]:
    """Open a foreign layer at the registry, or at the first of its URLs that has it; raise the registry's error."""
    refusals: list[str] = []
    missing: RegistryError | None = None
    for place in (request, *_elsewhere(executor, request, blob.urls, refusals=refusals)):
        async with AsyncExitStack() as stack:
            try:
                live = await stack.enter_async_context(executor.open(place))
            except RegistryError as error:
                if missing is None and error.status not in _NOT_HERE:
                    raise
                missing = missing or error
                refusals += [error.message] if place is not request else []
                continue
            yield live
            return
    if missing is not None:
        said = f"; its URLs: {'; '.join(refusals)}" if refusals else "; it has no URLs to take it from"
        raise make_error(
            f"{missing.message}{said}", executor.context(request.operation), code=missing.code
        ) from missing


def _elsewhere(
    executor: RequestExecutor, request: RegistryRequest, urls: Sequence[str], *, refusals: list[str]
) -> Iterator[RegistryRequest]:
    trust = executor.http.trust
    for text in urls[:_MAX_URLS]:
        try:
            url = Url.parse(text)
        except InvalidUrlError:
            refusals.append("one is no URL of http or https")
            continue
        if trust.allows_hop(executor.home, url):
            yield replace(request, url=url, scopes=Scopes(), login={})
        else:
            refusals.append(trust.refusal_of_hop(executor.home, url))


class BlobReader:
    """The bytes of a blob from `offset` on, never more than its descriptor says; the hash is the reader's business."""

    def __init__(
        self, executor: RequestExecutor, blob: Descriptor, *, live: StreamingResponse | None, offset: int
    ) -> None:
        self.offset = offset
        """Where these bytes begin: an answer may start before what was asked for."""
        self._window = executor.window
        self._settings = executor.http.settings
        self._blob = blob
        self._live = live
        self._context = executor.context("open_blob")
        self.encoding = _encoding(live) if live is not None else ""
        """What the answer says it is encoded with, which is never undone; empty for nothing."""

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the bytes as they come, counted.

        Raises `RegistryError` when they break off or come too slowly, `ContentError` for a wrong size. What the caller
        takes its time for does not count as slow.
        """
        position = self.offset
        if self._live is None:
            return
        clock = asyncio.get_running_loop().time
        settings = self._settings
        guard = TrickleGuard(seconds=settings.trickle_seconds, bytes_per_second=settings.trickle_bytes_per_second)
        begun = clock()
        while part := await self._next(self._live):
            if guard.is_too_slow(waited=clock() - begun, size=len(part)):
                raise too_slow(self._context, guard.bytes_per_second)
            position += len(part)
            if position > self._blob.size:
                raise _wrong_size(self._blob, f"more than {self._blob.size} bytes came", encoding=self.encoding)
            await self._window.pass_bytes(len(part))
            yield part
            begun = clock()
        if position < self._blob.size:
            what = f"only {position} of {self._blob.size} bytes came"
            raise _wrong_size(self._blob, what, encoding=self.encoding)

    async def _next(self, live: StreamingResponse) -> Piece:
        try:
            with waiting_for(self._context.registry):
                piece = await live.read()
        except CONNECTION_ERRORS as error:
            raise error_of_exception(error, self._context) from error
        note_moved(len(piece))
        return piece


def _blob_url(executor: RequestExecutor, repository: str, digest: Digest) -> Url:
    return executor.home.with_target(f"/v2/{repository}/blobs/{digest}")


def _get(
    executor: RequestExecutor, repository: str, blob: Descriptor, *, offset: int, scopes: Scopes
) -> RegistryRequest:
    return RegistryRequest(
        operation="open_blob",
        method="GET",
        url=_blob_url(executor, repository, blob.digest),
        scopes=scopes,
        headers={"Range": f"bytes={offset}-"} if offset else {},
        expects=frozenset({200, 206, 416}) if offset else frozenset({200}),
    )


def _start(live: StreamingResponse, asked: int) -> int | None:
    """Return where an answer begins; None when that can't be known, or lies behind what was asked for."""
    if live.status == httpx.codes.OK:
        return 0
    if live.status != httpx.codes.PARTIAL_CONTENT:
        return None
    found = _CONTENT_RANGE.match(live.headers.get("content-range", ""))
    return int(found[1]) if found and int(found[1]) <= asked else None


def _whole_size(answer: Response | StreamingResponse) -> int | None:
    """Read how long the whole blob is; None where that is not said, or is the length of an encoded body."""
    whole = _WHOLE.search(answer.headers.get("content-range", ""))
    if whole:
        return int(whole[1])
    is_whole = answer.status == httpx.codes.OK and not _encoding(answer)
    return whole_number(answer.headers.get("content-length", "")) if is_whole else None


def _check_head(live: StreamingResponse, blob: Descriptor, *, start: int) -> None:
    length = whole_number(live.headers.get("content-length", ""))
    if length is not None and start + length != blob.size:
        what = f"{start + length} bytes are announced instead of {blob.size}"
        raise _wrong_size(blob, what, encoding=_encoding(live))


def _encoding(answer: Response | StreamingResponse) -> str:
    """Return the `Content-Encoding` of an answer, empty for none.

    Nothing is decoded: the digest is of the bytes as they are stored, which some registries label (`x-gzip`), and
    decoding could turn a few bytes into very many. Size and digest tell whether the bytes are those.
    """
    encoding = answer.headers.get("content-encoding", "").strip().lower()
    return "" if encoding in {"", "identity"} else clean(encoding)


def _wrong_size(blob: Descriptor, what: str, *, encoding: str) -> ContentError:
    note = f"; they were sent with Content-Encoding {encoding}, which was not asked for" if encoding else ""
    return ContentError(f"{blob.digest}: {what}{note}", code="size_mismatch")


def locate_upload(executor: RequestExecutor, base: Url, location: str) -> Url:
    """Resolve where to go on; kept letter for letter, it may be signed. Strangers get no uploads."""
    trust, context = executor.http.trust, executor.context("start_upload")
    try:
        url = trust.locate(base, location)
    except InvalidUrlError as error:
        message = f"{context.registry} does not say where to upload to"
        raise make_error(message, context, code="upload_failed") from error
    if trust.trust_of(url) is HostTrust.STRANGER or not trust.allows_hop(base, url):
        message = (
            f"{context.registry} wants the upload at {url.scheme}://{url.authority}, which is not trusted; "
            f"add {url.host} to trusted_hosts if it belongs to it"
        )
        raise make_error(message, context, code="host_not_allowed")
    return url


def stored_bytes(answer: Response) -> int | None:
    """Read `Range: 0-N` (some write `bytes=0-N`); `0-0` stands for nothing, and for one byte."""
    found = _STORED.fullmatch(answer.headers.get("range", "").strip())
    if found is None:
        return None
    return int(found[1]) + 1 if int(found[1]) else 0
