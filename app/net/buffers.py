"""Buffers that sockets are read into, so that large pieces need not be copied."""

from __future__ import annotations

import threading
from collections import deque

Piece = bytes | memoryview
"""Bytes as they came: `bytes` for few, a view of a buffer for many. A view that is kept keeps its buffer, no more."""

BUFFER_BYTES = 256 * 1024
"""Of one read; larger ones fall out of the processor's cache between the socket and the hash."""
_MAX_BUFFERS = 16


class Buffers(threading.local):
    """The buffers that a thread's sockets are read into; one is filled anew only when no view of it is left.

    Python itself says so: a bytearray with a view of it alive refuses to change its size (`BufferError`).
    """

    def __init__(self) -> None:
        self._buffers: deque[bytearray] = deque()

    def take(self) -> bytearray:
        """Return a buffer that may be written to, until the next call."""
        for _ in range(len(self._buffers)):
            buffer = self._buffers[0]
            try:
                buffer.pop()
            except BufferError:
                self._buffers.rotate(-1)
            else:
                buffer.append(0)
                return buffer
        buffer = bytearray(BUFFER_BYTES)
        self._buffers.appendleft(buffer)
        if len(self._buffers) > _MAX_BUFFERS:
            self._buffers.pop()  # lives as long as the views of it
        return buffer


buffers = Buffers()
