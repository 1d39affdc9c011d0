"""One blob read from its source: hashed as it passes, resumed where it broke off, its end withheld until verified."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, Self

from app.concurrency import back_off
from app.domain.errors import ContentError, CopyError, TransferError
from app.domain.manifest import EMPTY_DESCRIPTOR_DIGEST, Descriptor
from app.domain.reference import Digest
from app.domain.retry_policy import RetryPolicy
from app.net.stream import Piece
from app.observability import counted_bytes
from app.registry.client import RegistryClient
from app.registry.ratelimit.token_bucket import TokenBucket

MAX_CHECKPOINTS = 256
"""Places to go back to, one for each chunk: further back than any connection holds bytes on their way."""
_EMPTY_OBJECT = b"{}"


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: Piece, /) -> None:
        """Add bytes."""

    def copy(self) -> Self:
        """Branch off."""

    def hexdigest(self) -> str:
        """Return the digest so far."""


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The hash over all bytes before `offset`; not to be updated."""

    offset: int
    hash: Hash


LEAST_PROGRESS_BYTES = 1024 * 1024
"""What counts as progress before a timeout: a minute's bytes of a peer that trickles (slowloris) do not."""


def is_progress(moved: int, error: TransferError) -> bool:
    """Return whether so many bytes, before an error, begin a new row of attempts."""
    return moved >= (LEAST_PROGRESS_BYTES if error.code == "timeout" else 1)


class SourceBlob:
    """A blob at its source. May be read several times, one reading at a time; each byte handed out is proven.

    A reading that begins in the middle goes back to the last checkpoint before it. Where an earlier reading has been,
    both have to have seen the same bytes, so that what a destination kept of the first and what it gets of the second
    make one blob, the one that was hashed.
    """

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        blob: Descriptor,
        *,
        retry_policy: RetryPolicy,
        rate_limit: TokenBucket | None = None,
    ) -> None:
        self.client = client
        self.blob = blob
        self._repository = repository
        self._retry_policy = retry_policy
        self._rate_limit = rate_limit
        self._begin = _Checkpoint(0, hashlib.new(blob.digest.algorithm))
        self._forget()
        self._is_second = False
        self._has_answer = False
        self._encoding = ""

    async def read(self, start: int) -> AsyncGenerator[Piece]:
        """Yield the bytes from `start` on; the last ones only when the whole blob is right.

        Raises `CopyError` (side `source`): `digest_mismatch`, `size_mismatch`, or why it can't be read any further.
        """
        self._rewind(start)
        last: Piece = b""
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                offset = self._at.offset
                self._take(chunk)
                new = chunk[max(0, start - offset) :]
                if offset + len(chunk) == self.blob.size:
                    last = new
                elif new:
                    yield new
        self._check_digest()
        if last:
            yield last

    def start_over(self, error: TransferError) -> bool:
        """Forget what was read, to be read again over other connections; return False where that can't help.

        Once only, and after bytes that were not the blob's: a cable, a proxy or a disk may have spoilt them.
        """
        if self._is_second or error.code not in {"digest_mismatch", "size_mismatch"}:
            return False
        self._is_second = True
        self._forget()
        return True

    def _forget(self) -> None:
        self._checkpoints = deque([self._begin], MAX_CHECKPOINTS)
        self._at = self._furthest = self._begin
        self._hash = self._begin.hash.copy()

    async def _chunks(self) -> AsyncGenerator[Piece]:
        """Yield what comes from where the hash stands, going on where it broke.

        A response that never began was retried often enough by the client.
        """
        failures = 0
        while self._at.offset < self.blob.size:
            begin = self._at.offset
            self._has_answer = False
            try:
                async with aclosing(self._one_answer()) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except TransferError as error:
                failures = 1 if is_progress(self._at.offset - begin, error) else failures + 1
                if not error.temporary or not self._has_answer or not self._retry_policy.allows(failures):
                    raise CopyError(error, side="source", step=f"read blob {self.blob.digest}") from error
                await back_off(self._retry_policy, failures)
            else:
                break
        if self._at.offset < self.blob.size:
            raise self._wrong(f"only {self._at.offset} of {self.blob.size} bytes came", code="size_mismatch")

    async def _one_answer(self) -> AsyncGenerator[Piece]:
        if self.blob.digest == EMPTY_DESCRIPTOR_DIGEST:
            yield _EMPTY_OBJECT[self._at.offset :]  # what everybody knows needs not be asked for
            return
        opened = self.client.open_blob(self._repository, self.blob, offset=self._at.offset, is_fresh=self._is_second)
        async with opened as reader:
            with counted_bytes(self.client.entry.label, "received") as count:
                self._has_answer = True
                self._encoding = reader.encoding
                surplus = self._at.offset - reader.offset  # a registry that ignores ranges begins at 0 again
                async for chunk in reader:
                    count(len(chunk))
                    if surplus >= len(chunk):
                        surplus -= len(chunk)
                        continue
                    fresh = chunk[surplus:] if surplus else chunk
                    surplus = 0
                    if self._rate_limit is not None:
                        await self._rate_limit.acquire(len(fresh))
                    yield fresh

    def _take(self, chunk: Piece) -> None:
        """Hash a chunk; where an earlier reading ended, compare with what that one saw."""
        end = self._at.offset + len(chunk)
        if end > self.blob.size:
            raise self._wrong(f"more than {self.blob.size} bytes came", code="size_mismatch")
        seam = self._furthest.offset - self._at.offset
        if 0 < seam <= len(chunk):
            self._hash.update(chunk[:seam])
            if self._hash.hexdigest() != self._furthest.hash.hexdigest():
                raise self._wrong("its bytes are not the same when read again", code="digest_mismatch")
            self._hash.update(chunk[seam:])
        else:
            self._hash.update(chunk)
        self._at = _Checkpoint(end, self._hash.copy())
        self._checkpoints.append(self._at)
        if end > self._furthest.offset:
            self._furthest = self._at

    def _rewind(self, start: int) -> None:
        """Go back to the last checkpoint that is not behind `start`, unless the hash stands there already."""
        if start == self._at.offset:
            return
        while self._checkpoints and self._checkpoints[-1].offset > start:
            self._checkpoints.pop()
        self._at = self._checkpoints[-1] if self._checkpoints else self._begin
        self._hash = self._at.hash.copy()

    def _check_digest(self) -> None:
        found = Digest(f"{self.blob.digest.algorithm}:{self._hash.hexdigest()}")
        if found != self.blob.digest:
            raise self._wrong(f"its bytes have the digest {found}", code="digest_mismatch")

    def _wrong(self, what: str, *, code: str) -> CopyError:
        if self._encoding:
            what += f"; they were sent with Content-Encoding {self._encoding}, which was not asked for"
        error = ContentError(f"blob {self.blob.digest}: {what}", code=code)
        return CopyError(error, side="source", step=f"read blob {self.blob.digest}")
