"""Upload sessions: one per blob, whole or chunked, resumable, and their bodies (distribution spec, "Pushing blobs").

POST, then one streaming PUT with the whole blob (monolithic upload). A registry, or a proxy before it, that refuses or
cuts that gets a chunked upload (PATCH); which way a registry takes is remembered for the next blob. A body that broke
is not sent again from here: the caller asks `status` how much arrived and sends the rest, or opens a new session when
this one can't be resumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import httpx
import structlog
from msgspec.structs import replace

from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, InvalidReferenceError
from app.net.stream import Piece
from app.registry.auth.challenge import Scopes
from app.registry.blobs import has_blob, locate_upload, stored_bytes
from app.registry.http.errors import Response, make_error
from app.registry.http.message import UploadBody, Url, whole_number
from app.registry.quirks import UploadStrategy
from app.registry.read_ahead import ReadAheadBuffer
from app.registry.requests import RegistryRequest, RequestExecutor, RequestState

_log = structlog.get_logger(__name__)
_MAX_STALLS = 2
"""Failed sends in a row after which no more had arrived; then a session is given up."""
_MAX_GROWTHS = 10
"""Looks at an upload that grows by itself; more than a dead connection can have had on its way."""
Passed = Callable[[], Awaitable[None]]
_PUT_STATUSES = frozenset({200, 201, 202, 204})
_NO_STATUS = frozenset({400, 404, 405, 410, 416, 501})
_PATCH_STATUSES = frozenset({200, 201, 202, 204, 416})
_REFUSALS = frozenset({400, 405, 411, 413, 415, 416, 422, 501})


class UploadSession:
    """An open upload, whole or chunked. `offset` is how many bytes the registry has, as far as is known."""

    def __init__(
        self,
        executor: RequestExecutor,
        strategy: UploadStrategy,
        repository: str,
        *,
        location: Url,
        scopes: Scopes,
        least: int = 0,
    ) -> None:
        """Take where the session is, and the least size of a chunk but the last (`OCI-Chunk-Min-Length`)."""
        self.offset = 0
        self._executor = executor
        self._strategy = strategy
        self._repository = repository
        self._scopes = scopes
        self._least = least
        self._location = location
        self.location = location.whole
        """Where the session is, for `RegistryClient.resume_upload`; it may be signed, so it is a secret."""
        self._sends_chunks = strategy.refuses_whole
        self._is_closed = False
        self._is_lost = False
        self._stalls = 0
        self._sent = 0
        """Bytes of the last send, that broke off."""

    async def send(
        self, chunks: AsyncIterator[Piece], *, size: int, digest: Digest, passed: Passed | None = None
    ) -> None:
        """Send bytes from `offset` up to `size` and close the session; `passed` is called after each chunk.

        Raises what `chunks` raises; `RegistryError`, which when `temporary` means: ask `status`, then send the rest, or
        open a new session if that fails; `ContentError` when the registry stored something else.
        """
        if self._is_closed:
            return
        settings = self._executor.http.settings
        is_large = size - self.offset > settings.resumable_above_bytes
        if not is_large or not self._strategy.makes_points(self._location):
            await self._send(
                UploadBody(chunks, self._executor.window.pass_bytes), size=size, digest=digest, passed=passed
            )
            return
        self._sends_chunks = True
        with self._strategy.reading_ahead() as may:
            if not may or self._least > 2 * settings.resumable_chunk_bytes:  # its chunks wait: memory has a limit
                await self._send(
                    UploadBody(chunks, self._executor.window.pass_bytes), size=size, digest=digest, passed=passed
                )
                return
            async with ReadAheadBuffer(chunks, most=2 * settings.resumable_chunk_bytes) as ahead:
                body = UploadBody(ahead, self._executor.window.pass_bytes, ahead=ahead.gather)
                await self._send(body, size=size, digest=digest, passed=passed)

    async def _send(self, source: UploadBody, *, size: int, digest: Digest, passed: Passed | None) -> None:
        begin = self.offset
        try:
            if self._sends_chunks and self.offset < size:
                await self._send_chunks(source, size, passed)
            await self._send_rest(source, size=size, digest=digest)
        except RegistryError as error:
            # Everything was sent and only the answer got lost: then nothing is to be sent again.
            self._sent = source.taken - (self.offset - begin)
            if begin + source.taken < size or error.status in _REFUSALS or not await self._is_there(digest, size):
                raise
        self._is_closed = True

    async def status(self) -> int:
        """Ask how much arrived; raise `RegistryError` when this session can't be gone on with."""
        if self._is_lost:
            raise self._lost("the session can't be used any more")
        request = self._call("upload_status", "GET", self._location, expects=frozenset({200, 202, 204}))
        try:
            answer = await self._executor.fetch(request)
        except RegistryError as error:
            if error.status not in _NO_STATUS:
                raise
            self._strategy.note_broken(sent=self._sent, stored=0)
            raise self._lost("the session is gone") from error
        self._move(answer)
        stored = stored_bytes(answer)
        if stored is None:
            raise self._lost("the registry does not say how much arrived")
        self._strategy.note_broken(sent=self._sent, stored=stored - self.offset)
        self._sent = 0
        self._stalls = self._stalls + 1 if stored <= self.offset else 0
        self.offset = stored
        if self._stalls > _MAX_STALLS:
            raise self._lost("nothing more arrives")
        return stored

    async def settle(self) -> int:
        """Ask how much arrived until that grows no more; raise `RegistryError` when there is no going on."""
        stored = await self.status()
        for _ in range(_MAX_GROWTHS):
            await asyncio.sleep(self._executor.http.settings.settle_seconds)
            before, stored = stored, await self.status()
            if stored == before:
                self._stalls = 0
                return stored
        raise self._lost("another client still writes to the session")

    async def cancel(self) -> None:
        """Cancel the session; the registry is asked to delete it if that goes quickly."""
        if self._is_closed:
            return
        self._is_closed = True
        request = self._call("cancel_upload", "DELETE", self._location, expects=frozenset(range(200, 500)))
        request = replace(request, is_urgent=True)
        with suppress(RegistryError, TimeoutError):
            async with asyncio.timeout(self._executor.http.settings.cancel_seconds):
                await self._executor.fetch(request)

    async def _send_rest(self, source: UploadBody, *, size: int, digest: Digest) -> None:
        """Close with one PUT that has all that is missing."""
        length = size - self.offset
        request = self._call("send_blob", "PUT", self._location.with_parameter("digest", digest), expects=_PUT_STATUSES)
        request = replace(request, answer_seconds=self._executor.http.settings.commit_seconds)
        if length:
            headers = {"Content-Type": "application/octet-stream"}
            if self.offset:
                headers["Content-Range"] = f"{self.offset}-{size - 1}"
            request = replace(request, headers=headers, content=source.next(length))
        try:
            answer = await self._executor.fetch(request)
        except RegistryError as error:
            if source.failure is None:
                self._learn_from_put(error, had_body=bool(length))
            raise
        await self._check_stored(answer, digest, size)
        self.offset = size

    async def _send_chunks(self, source: UploadBody, size: int, passed: Passed | None) -> None:
        most = self._strategy.chunk_bytes
        if source.is_ahead:
            most = min(most, self._executor.http.settings.resumable_chunk_bytes)
        while self.offset < size:
            length = min(max(most, self._least), size - self.offset)
            await source.gather(length)
            request = self._call("send_blob", "PATCH", self._location, expects=_PATCH_STATUSES)
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{self.offset}-{self.offset + length - 1}",
            }
            try:
                await self._send_chunk(replace(request, headers=headers, content=source.next(length)), source)
            except RegistryError as error:
                if source.failure is None:
                    self._learn_from_patch(error)
                raise
            if passed is not None:
                await passed()

    async def _send_chunk(self, request: RegistryRequest, source: UploadBody) -> None:
        """Send a chunk; who is cancelled takes the time to end one that is here already, which then stays."""
        wanted = self.offset + source.length
        sending = asyncio.create_task(self._executor.fetch(request))
        try:
            answer = await (asyncio.shield(sending) if source.is_ahead else sending)
        except asyncio.CancelledError:
            with suppress(RegistryError, TimeoutError):
                async with asyncio.timeout(self._executor.http.settings.cancel_seconds):
                    self._take_in(await sending, wanted)
            raise
        self._take_in(answer, wanted)

    def _take_in(self, answer: Response, wanted: int) -> None:
        """Note how far a chunk got; raise `RegistryError` (temporary) unless all of it arrived."""
        self._move(answer)
        stored = stored_bytes(answer)
        if answer.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if stored is None:
                self._strategy.shrink(answer.body[:500].decode(errors="replace"))
            raise self._broken("the chunk does not follow what arrived, or is too large")
        if stored in {None, wanted} or (stored == 0 and wanted == 1):
            self.offset = wanted
            return
        error = self._broken("not all of a chunk arrived")
        self._stalls += 1
        if self._stalls >= _MAX_STALLS:
            self._strategy.refuses_chunks = True
            self._is_lost = True
            self._give_way(error)
        raise error

    def _learn_from_put(self, error: RegistryError, *, had_body: bool) -> None:
        """Decide what to do otherwise next time, after a PUT that failed."""
        if self._was_unknown(error):
            return
        if "DIGEST_INVALID" in error.spec_codes:
            self._is_lost = True
            error.code, error.temporary = "digest_mismatch", True  # damaged on the way; a new session may do
        elif had_body and error.status in _REFUSALS:
            self._strategy.refuses_whole = True
            self._give_way(error)
        elif had_body and error.temporary and not self._strategy.refuses_chunks:
            self._sends_chunks = True  # cut off: the next tries, in this session, go in steps that last

    def _learn_from_patch(self, error: RegistryError) -> None:
        if self._was_unknown(error):
            return
        if error.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE and self._strategy.can_shrink:
            self._strategy.shrink(error.message)
            error.temporary = True
        elif error.status in _REFUSALS:
            self._strategy.refuses_chunks = True
            self._is_lost = True
            self._give_way(error)

    def _was_unknown(self, error: RegistryError) -> bool:
        """Whether the session, and not the way of sending, is what the registry does not like; a new one may do."""
        codes = {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"}
        if error.status != httpx.codes.NOT_FOUND and not codes.intersection(error.spec_codes):
            return False
        self._is_lost = True
        error.temporary = True
        return True

    def _give_way(self, error: RegistryError) -> None:
        """Let the other way be tried, unless that was refused too."""
        self._sends_chunks = not self._strategy.refuses_chunks
        error.code = "upload_failed"
        error.temporary = not (self._strategy.refuses_chunks and self._strategy.refuses_whole)
        _log.info("upload_way_changed", registry=error.registry, status=error.status, chunks=self._sends_chunks)

    async def _check_stored(self, answer: Response, digest: Digest, size: int) -> None:
        try:
            said = Digest(answer.headers.get("docker-content-digest", "").strip())
        except InvalidReferenceError:
            if answer.status != httpx.codes.CREATED and not await self._is_there(digest, size):
                raise self._lost("the registry took a blob but does not have it") from None
            return
        if said.algorithm == digest.algorithm and said != digest:
            self._is_lost = True
            raise ContentError(f"{self._executor.entry.registry} stored {said} for {digest}", code="digest_mismatch")

    async def _is_there(self, digest: Digest, size: int) -> bool:
        blob = Descriptor("application/octet-stream", digest, size)
        try:
            return await has_blob(self._executor, self._repository, blob, scopes=self._scopes)
        except (RegistryError, ContentError):
            return False

    def _call(self, operation: str, method: str, url: Url, *, expects: frozenset[int]) -> RegistryRequest:
        return RegistryRequest(operation=operation, method=method, url=url, scopes=self._scopes, expects=expects)

    def _move(self, answer: Response) -> None:
        if location := answer.headers.get("location"):
            self._location = locate_upload(self._executor, answer.url, location)
            self.location = self._location.whole

    def _broken(self, why: str) -> RegistryError:
        context = self._executor.context("send_blob")
        return make_error(f"{context.registry}: {why}", context, code="upload_failed", temporary=True)

    def _lost(self, why: str) -> RegistryError:
        self._is_lost = True
        return self._broken(why)


async def ask_for_session(
    executor: RequestExecutor, request: RegistryRequest, *, session_of: Callable[[Response], UploadSession]
) -> Response:
    """Send a request that may open a session; raise `RegistryError`.

    A task that is cancelled while the registry opens one waits a moment for it, and cancels it.
    """
    state = RequestState()
    asking = asyncio.create_task(executor.fetch(replace(request, state=state)))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        state.is_withdrawn = True
        if state.is_under_way or asking.done():
            with suppress(RegistryError, TimeoutError):
                async with asyncio.timeout(executor.http.settings.opening_seconds):
                    answer = await asking
                    if answer.status == httpx.codes.ACCEPTED:
                        await session_of(answer).cancel()
        raise
    finally:
        asking.cancel()


def open_session(
    executor: RequestExecutor, strategy: UploadStrategy, repository: str, *, answer: Response, scopes: Scopes
) -> UploadSession:
    """Make a session of the answer that names it; raise `RegistryError` when it lies where we don't go."""
    location = locate_upload(executor, answer.url, answer.headers.get("location", ""))
    least = whole_number(answer.headers.get("oci-chunk-min-length", "")) or 0
    return UploadSession(executor, strategy, repository, location=location, scopes=scopes, least=least)
