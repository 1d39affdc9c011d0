"""Writing blobs: one session per blob (distribution spec, "Pushing blobs").

POST, then one streaming PUT with the whole blob. A registry, or a proxy before it, that refuses or cuts that gets
chunks; which way a registry takes is remembered for the next blob. A body that broke is not sent again from here: the
caller asks `status` how much arrived and sends the rest, or opens a new session when there is no going on in this one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import httpx
import structlog

from app.domain.errors import ContentError, RegistryError
from app.domain.reference import Digest, InvalidReferenceError
from app.registry.blobs import has_blob
from app.registry.body import BlobSource
from app.registry.challenge import Scopes
from app.registry.exchange import Call, Exchange, StreamedBody
from app.registry.failures import Answer, make_failure
from app.registry.habits import UploadHabits
from app.registry.trust import Standing
from app.registry.url import InvalidUrlError, Url

_log = structlog.get_logger(__name__)
_MAX_STALLS = 2
"""Failed sends in a row after which no more had arrived; then a session is given up."""
_MAX_GROWTHS = 10
"""Looks at an upload that grows by itself; more than a dead connection can have had on its way."""
_PUT_STATUSES = frozenset({200, 201, 202, 204})
_NO_STATUS = frozenset({400, 404, 405, 410, 416, 501})
_PATCH_STATUSES = frozenset({200, 201, 202, 204, 416})
_REFUSALS = frozenset({400, 405, 411, 413, 415, 416, 422, 501})
_RANGE = re.compile(r"(?:bytes[= ])?0-(\d{1,15})\s*")


class UploadSession:
    """An open upload. `offset` is how many bytes the registry holds, as far as is known."""

    def __init__(
        self,
        exchange: Exchange,
        habits: UploadHabits,
        repository: str,
        *,
        location: Url,
        scopes: Scopes,
        least: int = 0,
    ) -> None:
        """Take where the session is, and the least size of a chunk but the last (`OCI-Chunk-Min-Length`)."""
        self.offset = 0
        self._exchange = exchange
        self._habits = habits
        self._repository = repository
        self._scopes = scopes
        self._least = least
        self._location = location
        self._sends_chunks = habits.refuses_whole
        self._is_closed = False
        self._is_lost = False
        self._stalls = 0

    @property
    def location(self) -> str:
        """Where the session is, for `RegistryClient.resume_upload`; it may be signed, so it is a secret."""
        return self._location.whole

    async def send(self, chunks: AsyncIterator[bytes], *, size: int, digest: Digest) -> None:
        """Send bytes from `offset` up to `size` and close the session.

        Raises what `chunks` raises; `RegistryError`, which when `temporary` means: ask `status`, then send the rest, or
        open a new session if that fails; `ContentError` when the registry stored something else.
        """
        if self._is_closed:
            return
        source = BlobSource(chunks, self._exchange.pressure)
        begin = self.offset
        try:
            if self._sends_chunks and self.offset < size:
                await self._send_chunks(source, size)
            await self._send_rest(source, size=size, digest=digest)
        except RegistryError as error:
            # Everything was sent and only the answer got lost: then nothing is to be sent again.
            if begin + source.taken < size or error.status in _REFUSALS or not await self._is_there(digest):
                raise
        self._is_closed = True

    async def status(self) -> int:
        """Ask how much arrived; raise `RegistryError` when this session can't be gone on with."""
        if self._is_lost:
            raise self._lost("the session can't be used any more")
        call = self._call("upload_status", "GET", self._location, expects=frozenset({200, 202, 204}))
        try:
            answer = await self._exchange.fetch(call)
        except RegistryError as error:
            if error.status not in _NO_STATUS:
                raise
            raise self._lost("the session is gone") from error
        self._move(answer)
        held = _held_bytes(answer)
        if held is None:
            raise self._lost("the registry does not say how much arrived")
        self._stalls = self._stalls + 1 if held <= self.offset else 0
        self.offset = held
        if self._stalls > _MAX_STALLS:
            raise self._lost("nothing more arrives")
        return held

    async def settle(self) -> int:
        """Ask how much arrived until that grows no more; raise `RegistryError` when there is no going on."""
        held = await self.status()
        for _ in range(_MAX_GROWTHS):
            await asyncio.sleep(self._exchange.wire.settings.settle_seconds)
            before, held = held, await self.status()
            if held == before:
                self._stalls = 0
                return held
        raise self._lost("somebody else still writes to the session")

    async def cancel(self) -> None:
        """Give the session up; the registry is told if that goes quickly."""
        if self._is_closed:
            return
        self._is_closed = True
        call = self._call("cancel_upload", "DELETE", self._location, expects=frozenset(range(200, 500)))
        with suppress(RegistryError, TimeoutError):
            async with asyncio.timeout(self._exchange.wire.settings.cancel_seconds):
                await self._exchange.fetch(call)

    async def _send_rest(self, source: BlobSource, *, size: int, digest: Digest) -> None:
        """Close with one PUT that has all that is missing."""
        length = size - self.offset
        call = self._call("send_blob", "PUT", self._location.with_parameter("digest", digest), expects=_PUT_STATUSES)
        if length:
            headers = {"Content-Type": "application/octet-stream"}
            if self.offset:
                headers["Content-Range"] = f"{self.offset}-{size - 1}"
            call = replace(call, headers=headers, content=StreamedBody(source.take(length)), length=length)
        try:
            answer = await self._exchange.fetch(
                replace(call, answer_seconds=self._exchange.wire.settings.commit_seconds)
            )
        except RegistryError as error:
            if source.failure is None:
                self._learn_from_put(error, had_body=bool(length))
            raise
        await self._check_stored(answer, digest)
        self.offset = size

    async def _send_chunks(self, source: BlobSource, size: int) -> None:
        while self.offset < size:
            length = min(max(self._habits.chunk_bytes, self._least), size - self.offset)
            call = self._call("send_blob", "PATCH", self._location, expects=_PATCH_STATUSES)
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{self.offset}-{self.offset + length - 1}",
            }
            try:
                answer = await self._exchange.fetch(
                    replace(call, headers=headers, content=StreamedBody(source.take(length)), length=length)
                )
            except RegistryError as error:
                if source.failure is None:
                    self._learn_from_patch(error)
                raise
            self._take_in(answer, self.offset + length)

    def _take_in(self, answer: Answer, wanted: int) -> None:
        """Note how far a chunk got; raise `RegistryError` (temporary) unless all of it arrived."""
        self._move(answer)
        held = _held_bytes(answer)
        if answer.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if held is None:
                self._habits.shrink(answer.body[:500].decode(errors="replace"))
            raise self._broken("the chunk does not follow what arrived, or is too large")
        if held in {None, wanted} or (held == 0 and wanted == 1):
            self.offset = wanted
            return
        error = self._broken("not all of a chunk arrived")
        self._stalls += 1
        if self._stalls >= _MAX_STALLS:
            self._habits.refuses_chunks = True
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
            self._habits.refuses_whole = True
            self._give_way(error)
        elif had_body and error.temporary and not self._habits.refuses_chunks:
            self._sends_chunks = True  # cut off: the next tries, in this session, go in steps that last

    def _learn_from_patch(self, error: RegistryError) -> None:
        if self._was_unknown(error):
            return
        if error.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE and self._habits.can_shrink:
            self._habits.shrink(error.message)
            error.temporary = True
        elif error.status in _REFUSALS:
            self._habits.refuses_chunks = True
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
        self._sends_chunks = not self._habits.refuses_chunks
        error.code = "upload_failed"
        error.temporary = not (self._habits.refuses_chunks and self._habits.refuses_whole)
        _log.info("upload_way_changed", registry=error.registry, status=error.status, chunks=self._sends_chunks)

    async def _check_stored(self, answer: Answer, digest: Digest) -> None:
        try:
            said = Digest(answer.headers.get("docker-content-digest", "").strip())
        except InvalidReferenceError:
            if answer.status != httpx.codes.CREATED and not await self._is_there(digest):
                raise self._lost("the registry took a blob but does not have it") from None
            return
        if said.algorithm == digest.algorithm and said != digest:
            self._is_lost = True
            raise ContentError(f"{self._exchange.entry.registry} stored {said} for {digest}", code="digest_mismatch")

    async def _is_there(self, digest: Digest) -> bool:
        try:
            return await has_blob(self._exchange, self._repository, digest, scopes=self._scopes)
        except RegistryError:
            return False

    def _call(self, operation: str, method: str, url: Url, *, expects: frozenset[int]) -> Call:
        return Call(operation=operation, method=method, url=url, scopes=self._scopes, expects=expects)

    def _move(self, answer: Answer) -> None:
        if location := answer.headers.get("location"):
            self._location = locate_upload(self._exchange, answer.url, location)

    def _broken(self, why: str) -> RegistryError:
        asked = self._exchange.asked("send_blob")
        return make_failure(f"{asked.registry}: {why}", asked, code="upload_failed", temporary=True)

    def _lost(self, why: str) -> RegistryError:
        self._is_lost = True
        return self._broken(why)


def open_session(
    exchange: Exchange, habits: UploadHabits, repository: str, *, answer: Answer, scopes: Scopes
) -> UploadSession:
    """Make a session of the answer that names it; raise `RegistryError` when it lies where we don't go."""
    location = locate_upload(exchange, answer.url, answer.headers.get("location", ""))
    least = answer.headers.get("oci-chunk-min-length", "")
    return UploadSession(
        exchange,
        habits,
        repository,
        location=location,
        scopes=scopes,
        least=int(least) if least.isdigit() else 0,
    )


def locate_upload(exchange: Exchange, base: Url, location: str) -> Url:
    """Resolve where to go on; kept letter for letter, it may be signed. Strangers get no uploads."""
    trust, asked = exchange.wire.trust, exchange.asked("start_upload")
    try:
        url = trust.locate(base, location)
    except InvalidUrlError as error:
        message = f"{asked.registry} does not say where to upload to"
        raise make_failure(message, asked, code="upload_failed") from error
    if trust.standing(url) is Standing.STRANGER or not trust.allows_hop(base, url):
        message = (
            f"{asked.registry} wants the upload at {url.scheme}://{url.authority}, which is not trusted; "
            f"add {url.host} to trusted_hosts if it belongs to it"
        )
        raise make_failure(message, asked, code="host_not_allowed")
    return url


def _held_bytes(answer: Answer) -> int | None:
    """Read `Range: 0-N` (some write `bytes=0-N`); `0-0` stands for nothing, and for one byte."""
    told = _RANGE.fullmatch(answer.headers.get("range", "").strip())
    if told is None:
        return None
    return int(told[1]) + 1 if int(told[1]) else 0
