"""A connected socket as the event loop reads and writes it: no copies of large pieces, no task, no timer per read.

asyncio's and httpcore's streams pass every byte through buffers of their own; for many small requests and for large
blobs alike that was most of the CPU this service used. Here the reader stays registered from one request to the next
and receives by itself, large pieces are views of the buffer they were received into, TLS is spoken on the socket
(no MemoryBIO), and a deadline is a number that one timer per connection looks at.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import deque
from math import inf
from typing import Any

import httpcore

from app.net.handshake import shake_hands

Piece = bytes | memoryview
"""Bytes as they came: `bytes` for few, a view of a buffer for many. A view that is kept keeps its buffer, no more."""

BUFFER_BYTES = 1024 * 1024
"""Of one read. With fewer, more of the time is the interpreter's, which takes as long for each piece whatever its size;
more fall out of the processor's cache between the socket, the hash and the socket."""
_MAX_BUFFERS = 16
_COPIED_BYTES = 64 * 1024
"""Up to here a copy costs less than a buffer that is kept from the next read."""
_MAX_EARLY_BYTES = 64 * 1024
_INTERIM = b"HTTP/1.1 1"


class Buffers(threading.local):
    """The buffers that a thread's sockets are read into, so that large pieces need not be copied.

    One is filled anew only when no view of it is left. Python itself says so: a bytearray with a view
    of it alive refuses to change its size (`BufferError`).
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


class SocketStream(httpcore.AsyncNetworkStream):
    """A connected socket, plain or TLS; one reads and one writes at a time.

    `receive` and `send` are for `app.registry`; the methods httpcore knows stand beside them, for `app.webhooks`. All
    raise httpcore's exceptions.
    """

    def __init__(self, connected: socket.socket) -> None:
        """Take a non-blocking socket."""
        self._socket = connected
        self._number = connected.fileno()
        self._is_tls = isinstance(connected, ssl.SSLSocket)
        self._loop = asyncio.get_running_loop()
        self._early: Piece = b""
        self._has_more = False
        """Whether the last read filled its buffer, so that trying once more is worth a system call."""
        self._reading: asyncio.Future[Piece | OSError] | None = None
        self._writing: asyncio.Future[OSError | None] | None = None
        self._is_listening = False
        self._is_idle = False
        self._is_spoiled = False
        self._deadline = inf
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, seconds: float | None) -> Piece:
        """Return what has arrived, at least one byte, or nothing at the end of the connection.

        Waits for so many seconds; raises `httpcore.ReadTimeout`, or `ReadError` for a connection that broke.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            if self._has_more:
                await asyncio.sleep(0)  # others get a turn, however fast the peer sends
                if (piece := self._receive()) is not None:
                    return piece
            received = await self._arrival(seconds)
        except OSError as error:
            raise httpcore.ReadError("the connection broke") from error
        if isinstance(received, TimeoutError):
            raise httpcore.ReadTimeout("nothing arrived in time")
        if isinstance(received, OSError):
            raise httpcore.ReadError("the connection broke") from received
        return received

    async def send(self, data: Piece, seconds: float | None, *, whole_seconds: float = inf) -> None:
        """Send everything; raise `httpcore.WriteError` as soon as an answer comes while the peer does not read on.

        The caller then reads that answer: a registry that refuses an upload early (401, 413) is heard. `WriteTimeout`
        when the peer takes nothing for so many seconds, or not all of it in `whole_seconds`.
        """
        try:
            sent = self._send(data)
            ends_at = self._loop.time() + whole_seconds if sent < len(data) else inf
            while sent < len(data):
                left = max(0.0, ends_at - self._loop.time())
                failure = await self._room(left if seconds is None else min(seconds, left))
                if failure is not None:
                    raise failure
                data = memoryview(data)[sent:]
                sent = self._send(data)
        except TimeoutError as error:
            raise httpcore.WriteTimeout("nothing was taken in time") from error
        except OSError as error:
            raise httpcore.WriteError("the connection broke") from error

    def rest(self) -> None:
        """Leave the connection idle: from now on, whatever comes spoils it."""
        self._is_idle = True
        self._is_spoiled = self._is_spoiled or bool(self._early) or self._has_more
        self._listen()

    def wake(self) -> bool:
        """Take an idle connection up again; return whether it is still there, with no unexpected bytes in it."""
        self._is_idle = False
        return not self._is_spoiled

    def close(self) -> None:
        """Close at once; a task that waits for this connection gets an error."""
        self._mute()  # before the socket is closed, never after: its number may then belong to another connection
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in (self._reading, self._writing):
            if waiter is not None and not waiter.done():
                waiter.set_result(OSError("the connection is closed"))
        if self._number >= 0:
            self._loop.remove_writer(self._number)
        self._is_spoiled = True
        self._number = -1
        self._socket.close()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109 — httpcore's
        """Receive for httpcore; `max_bytes` is not needed."""
        return bytes(await self.receive(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 — httpcore's
        """Send for httpcore."""
        await self.send(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 — httpcore's signature
    ) -> SocketStream:
        """Shake hands; the stream this is called on is used up. Raise `httpcore.ConnectError` from `ssl.SSLError`."""
        self._mute()
        try:
            tls = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
        except OSError as error:
            self.close()
            raise httpcore.ConnectError("the TLS handshake failed") from error
        try:
            async with asyncio.timeout(timeout):
                await shake_hands(tls)
        except TimeoutError as error:
            tls.close()
            raise httpcore.ConnectTimeout("no TLS handshake in time") from error
        except OSError as error:
            tls.close()
            raise httpcore.ConnectError("the TLS handshake failed") from error
        except BaseException:
            tls.close()
            raise
        return SocketStream(tls)

    async def aclose(self) -> None:
        """Close at once, see `close`."""
        self.close()

    def get_extra_info(self, info: str) -> Any:
        """Answer what httpcore asks: the TLS object, and whether an idle connection has been ended by the peer."""
        match info:
            case "ssl_object":
                return self._socket if self._is_tls else None
            case "is_readable":
                return self._is_ended()
            case _:
                return None

    async def _arrival(self, seconds: float | None) -> Piece | OSError:
        """Wait for what comes next; the reader receives it. A coroutine's end, not an exception, is its usual way."""
        if self._number < 0:
            return OSError("the connection is closed")
        waiter: asyncio.Future[Piece | OSError] = self._loop.create_future()
        self._reading = waiter
        self._listen()
        self._wait_until(seconds)
        try:
            return await waiter
        finally:
            self._reading = None

    async def _room(self, seconds: float | None) -> OSError | None:
        """Wait until the socket takes more, or an answer comes; return what is wrong."""
        if self._number < 0:
            return OSError("the connection is closed")
        waiter: asyncio.Future[OSError | None] = self._loop.create_future()
        self._writing = waiter
        self._loop.add_writer(self._number, self._on_writable)
        self._listen()
        self._wait_until(seconds)
        try:
            return await waiter
        finally:
            self._writing = None
            if self._number >= 0:
                self._loop.remove_writer(self._number)

    def _on_readable(self) -> None:
        if (reading := self._reading) is not None:
            if not reading.done() and (received := self._received()) is not None:
                reading.set_result(received)
        elif (writing := self._writing) is not None:
            if not writing.done():
                self._hear(writing)
        elif self._is_idle:
            if self._is_ended():
                self._is_spoiled = True
                self._mute()
        else:
            self._mute()  # no task reads just now; the next one listens again

    def _on_room_for_tls(self) -> None:
        self._loop.remove_writer(self._number)
        self._on_readable()

    def _on_writable(self) -> None:
        writing = self._writing
        if writing is not None and not writing.done():
            writing.set_result(None)

    def _hear(self, writing: asyncio.Future[OSError | None]) -> None:
        """Take in what comes while a body is being sent; only an answer that is final ends the sending."""
        received = self._received()
        if received is None:  # only TLS 1.3 session tickets, or what TLS waited for before it could send
            return
        if isinstance(received, OSError):
            writing.set_result(received)
            return
        self._early = b"".join((self._early, received))
        if not received or len(self._early) > _MAX_EARLY_BYTES or _is_final(self._early):
            writing.set_result(OSError("an answer came before everything was sent"))

    def _received(self) -> Piece | OSError | None:
        try:
            return self._receive()
        except OSError as error:
            return error

    def _receive(self) -> Piece | None:
        """Take what is there; None when nothing is. Raise `OSError`."""
        buffer = buffers.take()
        try:
            count = self._fill(buffer) if self._is_tls else self._socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._has_more = False
            return None
        except ssl.SSLWantWriteError:  # TLS has to send something before it can read
            self._has_more = False
            if self._writing is None:
                self._loop.add_writer(self._number, self._on_room_for_tls)
            return None
        self._has_more = count == BUFFER_BYTES
        view = memoryview(buffer)[:count]
        return bytes(view) if count <= _COPIED_BYTES else view.toreadonly()

    def _fill(self, buffer: bytearray) -> int:
        """Read TLS records, of 16 KiB at most, until there are no more or the buffer is full."""
        filled = 0
        with memoryview(buffer) as view:
            while filled < BUFFER_BYTES:
                try:
                    count = self._socket.recv_into(view[filled:])
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if not filled:
                        raise
                    break
                if not count:
                    break
                filled += count
        return filled

    def _send(self, data: Piece) -> int:
        """Send until the socket takes no more; return how much it took. Raise `OSError`."""
        sent = 0
        try:
            sent = self._socket.send(data)
            while self._is_tls and sent < len(data):
                sent += self._socket.send(memoryview(data)[sent:])
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass  # where TLS wants to read first, `_hear` does
        return sent

    def _listen(self) -> None:
        if not self._is_listening and self._number >= 0:
            self._is_listening = True
            self._loop.add_reader(self._number, self._on_readable)

    def _mute(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._number)

    def _wait_until(self, seconds: float | None) -> None:
        """Note when waiting ends. The timer only ever goes off where that has not been put off since it was set."""
        if seconds is None or seconds == inf:
            self._deadline = inf
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        waiters = [waiter for waiter in (self._reading, self._writing) if waiter is not None and not waiter.done()]
        if not waiters or self._deadline == inf:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_time)
            return
        for waiter in waiters:
            waiter.set_result(TimeoutError("nothing came in time"))

    def _is_ended(self) -> bool:
        """Whether an idle connection was ended, or holds bytes that no request asked for."""
        try:
            if self._is_tls:
                self._socket.recv(1)  # takes in late TLS 1.3 session tickets, which mean nothing
            else:
                self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True


def _is_final(early: Piece) -> bool:
    """Whether what came early is more than interim answers (1xx)."""
    rest = bytes(early)
    while rest.startswith(_INTERIM) and (end := rest.find(b"\r\n\r\n")) >= 0:
        rest = rest[end + 4 :]
    return bool(rest) and not (rest.startswith(_INTERIM) or _INTERIM.startswith(rest))
