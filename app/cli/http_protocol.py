"""HTTP connections with deadlines: a caller that is slow with its request, or opens very many, keeps no one else out.

uvicorn bounds how long a connection may be idle after an answer, and nothing before the first one (slowloris).
"""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""From the first byte of a request, or from connecting, to the end of its head."""
BODY_SECONDS = 60.0
"""From there to the end of its body, which has 1 MiB at most: 18 kB a second."""
MAX_CONNECTIONS = 8_192
RESERVED_FILES = 256
"""Files that are kept for the database, logs and what is sent; the rest of the limit may be connections."""

Phase = Literal["head", "body"]
_PHASES: dict[object, Phase] = {h11.IDLE: "head", h11.SEND_BODY: "body"}
_unfinished: OrderedDict[BoundedProtocol, None] = OrderedDict()
"""Connections without a whole request, the oldest first: they go when there is no room for another."""


def raise_file_limit() -> None:
    """Take as many open files as the system lets this process have: the usual 1,024 are few for waiting callers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """Return how many connections may be open at once in this process."""
    return max(64, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FILES))


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with a deadline for heads and bodies, and a bound on connections."""

    _deadline: asyncio.TimerHandle | None = None
    _phase: Phase | None = None
    """What is being waited for from the caller."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection; where there are too many, the one goes that waits longest for a request."""
        if len(self.connections) >= max_connections():
            if not _unfinished:
                transport.abort()
            else:
                oldest, _ = _unfinished.popitem(last=False)
                oldest.transport.abort()
        super().connection_made(transport)
        self._wait_for("head")

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and see how far the request is."""
        super().data_received(data)
        self._wait_for(_PHASES.get(self.conn.their_state))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_for(None)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """End the exchange: until the next request begins, uvicorn's own limit for idle connections holds."""
        self._wait_for(None)
        super().on_response_complete()

    def _wait_for(self, phase: Phase | None) -> None:
        """Set the deadline of a phase, once; more bytes of the same do not move it."""
        if phase == self._phase:
            return
        self._phase = phase
        _unfinished.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if phase is not None:
            _unfinished[self] = None
            seconds = HEAD_SECONDS if phase == "head" else BODY_SECONDS
            self._deadline = self.loop.call_later(seconds, self.transport.abort)
