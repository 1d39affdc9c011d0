"""HTTP connections with deadlines and budgets: whatever a caller sends, or leaves unread, keeps no one else out.

uvicorn bounds how long a connection may be idle after an answer, and nothing else: neither how slowly a request comes
(slowloris), nor how slowly its answer is taken, nor what a body of very many tiny chunks costs (RFC 9112 7.1).
"""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from typing import Any, Literal

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""From the first byte of a request, or from connecting, to the end of its head."""
BODY_SECONDS = 60.0
"""From there to the end of its body, which has 1 MiB at most: 18 kB a second."""
SEND_SECONDS = 30.0
"""How long a caller may take nothing of an answer that waits for it."""
MAX_CONNECTIONS = 8_192
MAX_SENDING = 256
"""Connections whose caller lets an answer wait: each has memory for it, so the one that waits longest goes."""
SEND_BUFFER_BYTES = 128 * 1024
"""Of the kernel, for each connection; it would take megabytes else, which callers that read nothing would fill."""
RESERVED_FILES = 256
"""Files that are kept for the database, logs and what is sent; the rest of the limit may be connections."""
MAX_HEAD_BYTES = 64 * 1024
"""As h11 has it; a head is read in one go, so that one that is whole but too long is answered, and not cut off."""
PIECE_BYTES = 8 * 1024
"""So much of the body that one caller sends is read before others have their turn."""
UNREAD_BYTES = 64 * 1024 * 1024
"""How much of a body is passed over once the answer is given: callers that send to the end read it only then."""
FREE_CHUNKS = 1_000
LEAST_CHUNK_BYTES = 64
"""Of a body in chunks, on average, beyond the free ones: a chunk costs as much CPU as a small request."""

Phase = Literal["head", "body", "send", "idle"]
"""What is waited for: the rest of a head or body, that the caller takes its answer, or its next request."""
_waiting: OrderedDict[BoundedProtocol, None] = OrderedDict()
"""Connections that wait for their caller, the oldest first: they go when there is no room for another."""
_sending: OrderedDict[BoundedProtocol, None] = OrderedDict()
"""Those of them that wait for the caller to take its answer."""


def raise_file_limit() -> None:
    """Take as many open files as the system lets this process have: the usual 1,024 are few for waiting callers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """Return how many connections may be open at once in this process."""
    return max(64, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FILES))


class _BudgetedConnection(h11.Connection):
    """h11's connection, with a budget for tiny chunks and for what comes after the answer."""

    _chunks = _bytes = _unread = 0

    def next_event(self) -> Any:
        """Return the next event; raise `h11.RemoteProtocolError` beyond the budget."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = self._unread = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > FREE_CHUNKS + self._bytes // LEAST_CHUNK_BYTES:
                raise h11.RemoteProtocolError("the body comes in too many tiny chunks")
            if self.our_state is h11.DONE:
                self._unread += len(event.data)
                if self._unread > UNREAD_BYTES:
                    raise h11.RemoteProtocolError("the body goes on after its answer")
        return event


class _PausableFlow(FlowControl):
    """uvicorn's flow control; nothing is read while there is something that was read and not looked at."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_stopped = False

    def stop_reading(self) -> None:
        """Read nothing until `go_on`."""
        self._is_stopped = True
        self._apply()

    def go_on(self) -> None:
        """Read on, but where uvicorn has paused that."""
        self._is_stopped = False
        self._apply()

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        self.read_paused = True
        self._apply()

    def resume_reading(self) -> None:
        """Read on, unless it is stopped."""
        self.read_paused = False
        self._apply()

    def _apply(self) -> None:
        if self._transport.is_closing():
            return
        is_wanted = not (self._is_stopped or self.read_paused)
        if is_wanted and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not is_wanted and self._transport.is_reading():
            self._transport.pause_reading()


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines for heads, bodies and answers, budgets, and a bound on connections."""

    flow: _PausableFlow
    _deadline: asyncio.TimerHandle | None = None
    _phase: Phase | None = None
    """What is being waited for from the caller; None while the service has the request in hand."""
    _unsent = 0
    """What of an answer waited for the caller when that was looked at last, in bytes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _BudgetedConnection(h11.SERVER, MAX_HEAD_BYTES)
        self._backlog = bytearray()
        """What was read and not looked at yet."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection; where there are too many, the one goes that waits longest for its caller."""
        if len(self.connections) >= max_connections():
            oldest = next(iter(_sending or _waiting), None)
            if oldest is None:
                transport.abort()
            else:
                oldest._give_up()  # noqa: SLF001 — its own kind
        super().connection_made(transport)
        self.flow = _PausableFlow(transport)
        self._wait_for("head")

    def data_received(self, data: bytes) -> None:
        """Take bytes in, piece by piece, and see how far the request is."""
        if self._backlog:
            self._backlog += data
            self.flow.stop_reading()  # uvicorn may have resumed it
            return
        size = self._piece_bytes()
        self._take(data[:size])
        if len(data) > size and not self.transport.is_closing():
            self._backlog += data[size:]
            self.flow.stop_reading()
            self.loop.call_soon(self._take_more)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_for(None)
        self._backlog.clear()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """End the exchange, and wait for the caller to take the answer, to end its body, or to ask again."""
        super().on_response_complete()
        self._wait_for(self._phase_after_answer())

    def pause_writing(self) -> None:
        """Wait for the caller to take what there is of its answer."""
        super().pause_writing()
        self._wait_for("send")

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        if self._phase == "send":
            self._wait_for(_PHASES.get(self.conn.their_state))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; where the answer is given already, or on its way, end the connection."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    def _piece_bytes(self) -> int:
        return PIECE_BYTES if self.conn.their_state is h11.SEND_BODY else MAX_HEAD_BYTES

    def _take(self, data: bytes) -> None:
        super().data_received(data)
        if self._phase != "send" or not self.transport.get_write_buffer_size():
            self._wait_for(_PHASES.get(self.conn.their_state))

    def _take_more(self) -> None:
        size = self._piece_bytes()
        data = bytes(self._backlog[:size])
        del self._backlog[:size]
        if self.transport.is_closing():
            self._backlog.clear()
            return
        if data:
            self._take(data)
        if self._backlog:
            self.loop.call_soon(self._take_more)
            return
        self.flow.go_on()

    def _phase_after_answer(self) -> Phase | None:
        if self.transport.get_write_buffer_size():
            return "send"
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            return "idle"
        return _PHASES.get(self.conn.their_state)

    def _wait_for(self, phase: Phase | None) -> None:
        """Set the deadline of a phase, once; more bytes of the same do not move it."""
        if phase == self._phase:
            return
        self._phase = phase
        _waiting.pop(self, None)
        _sending.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if phase is not None:
            _waiting[self] = None
        if phase in {"head", "body"}:
            seconds = HEAD_SECONDS if phase == "head" else BODY_SECONDS
            self._deadline = self.loop.call_later(seconds, self._give_up)
        elif phase == "send":
            _sending[self] = None
            self._watch_sending()
            if len(_sending) > MAX_SENDING:
                next(iter(_sending))._give_up()  # noqa: SLF001 — its own kind

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(SEND_SECONDS, self._check_sending)

    def _check_sending(self) -> None:
        """Give up on a caller that takes nothing."""
        if (size := self.transport.get_write_buffer_size()) >= self._unsent and size:
            self._give_up()
        elif size:
            self._watch_sending()
        else:
            self._wait_for(self._phase_after_answer())

    def _give_up(self) -> None:
        self._wait_for(None)
        self.transport.abort()


_PHASES: dict[object, Phase] = {h11.IDLE: "head", h11.SEND_BODY: "body"}
