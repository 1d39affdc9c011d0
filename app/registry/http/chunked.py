"""Bodies in chunks (RFC 9112 7.1), with a budget for what is not body."""

from __future__ import annotations

import re

import httpcore

from app.net.stream import Piece

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?")
_MAX_LINE_BYTES = 4 * 1024
_MAX_TRAILER_BYTES = 16 * 1024
_FREE_CHUNKS = 1_000
_LEAST_CHUNK_BYTES = 64
"""On average, beyond the free ones: servers write 2 KiB and more, and a chunk costs as much CPU as a small request."""


class ChunkBudgetError(httpcore.RemoteProtocolError):
    """A body in so many tiny chunks that reading it would keep the process from everything else."""


class ChunkedDecoder:
    """Takes a body as it comes and gives what is in its chunks; `rest` is what came behind it."""

    def __init__(self) -> None:
        self.is_complete = False
        self.rest: bytes = b""
        self._left = 0
        """Bytes of the current chunk still to come."""
        self._is_inside = False
        """Whether a chunk was begun whose closing line end has not come yet."""
        self._in_trailers = False
        self._waiting = b""
        """The beginning of a line."""
        self._chunks = 0
        self._bytes = 0
        self._trailer_bytes = 0

    def decode(self, piece: Piece) -> Piece:
        """Return the body in these bytes; raise `httpcore.RemoteProtocolError`, or `ChunkBudgetError`."""
        if self._left >= len(piece):
            self._left -= len(piece)
            self._bytes += len(piece)
            return piece  # all inside one chunk
        found: list[Piece] = []
        view, position = memoryview(piece), 0
        if self._waiting:
            view, self._waiting = memoryview(self._waiting + bytes(piece)), b""
        while position < len(view) and not self.is_complete:
            if self._left:
                part = view[position : position + self._left]
                found.append(part)
                position += len(part)
                self._left -= len(part)
                self._bytes += len(part)
                continue
            line, position = self._line(view, position)
            if line is not None:
                self._take_line(line)
        self.rest = bytes(view[position:])
        return found[0] if len(found) == 1 else b"".join(found)

    def _line(self, view: memoryview, position: int) -> tuple[bytes | None, int]:
        """Return the next line without its end, None for one that is not whole yet."""
        head = bytes(view[position : position + _MAX_LINE_BYTES])
        end = head.find(b"\n")
        if end >= 0:
            return head[:end], position + end + 1
        if len(head) == _MAX_LINE_BYTES:
            raise httpcore.RemoteProtocolError("a chunk with a line that does not end")
        self._waiting = head
        return None, len(view)

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > _MAX_TRAILER_BYTES:
                raise httpcore.RemoteProtocolError("trailers without an end")
            self.is_complete = line in {b"", b"\r"}
            return
        if self._is_inside:
            if line not in {b"", b"\r"}:
                raise httpcore.RemoteProtocolError("a chunk longer than it said")
            self._is_inside = False
            return
        size = _SIZE_LINE.fullmatch(line)
        if size is None:
            raise httpcore.RemoteProtocolError("a chunk without a size")
        self._left = int(size[1], 16)
        self._is_inside, self._in_trailers = self._left > 0, self._left == 0
        self._chunks += 1
        if self._chunks > _FREE_CHUNKS + self._bytes // _LEAST_CHUNK_BYTES:
            raise ChunkBudgetError("the answer comes in too many tiny chunks")
