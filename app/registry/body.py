"""The bytes of a blob on their way out: cut into the lengths a request announced, at the registry's pace."""

from __future__ import annotations

from collections.abc import AsyncIterator

from app.domain.errors import ContentError
from app.registry.pressure import Pressure


class BlobSource:
    """Hands out a stream piece by piece, and remembers whose fault it is when it breaks off."""

    def __init__(self, chunks: AsyncIterator[bytes], pressure: Pressure) -> None:
        self.taken = 0
        """Bytes handed out so far."""
        self.failure: Exception | None = None
        """What the stream itself raised: never the registry's doing."""
        self._chunks = aiter(chunks)
        self._pressure = pressure
        self._rest = b""

    async def take(self, count: int) -> AsyncIterator[bytes]:
        """Yield exactly so many of the next bytes."""
        left = count
        while left:
            piece = self._rest or await self._next()
            self._rest = piece[left:]
            piece = piece[:left] if self._rest else piece
            left -= len(piece)
            await self._pressure.pass_bytes(len(piece))
            self.taken += len(piece)
            yield piece

    async def _next(self) -> bytes:
        try:
            while not (piece := await anext(self._chunks)):
                pass
        except StopAsyncIteration:
            self.failure = ContentError("the blob ended before its size", code="size_mismatch")
            raise self.failure from None
        except Exception as error:
            self.failure = error
            raise
        return piece
