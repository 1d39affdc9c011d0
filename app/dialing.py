"""The way out of the house: resolve a name, check every address it has, connect to a checked one, move bytes.

Below `registry` and `hooks`, which must not know each other and both connect to hosts that somebody else named.
httpcore calls this in place of its own network backend. Sockets are read without blocking until they are empty or a
buffer is full, and TLS is spoken on the socket itself, so that a blob passes through Python in few, large pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any

import certifi
import httpcore

from app.security import AddressRules

_BUFFER_BYTES = 1024 * 1024
"""Handed out in one piece at most; larger pieces won nothing, smaller ones cost CPU."""


def make_tls_context() -> ssl.SSLContext:
    """Make a context that trusts the system's authorities and certifi's: small containers come without any."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    return context


@lru_cache(maxsize=1)
def shared_tls_context() -> ssl.SSLContext:
    """Give the one such context that nobody changes; reading the authorities takes a while."""
    return make_tls_context()


class Dialer(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, rules: AddressRules, *, is_registered: bool) -> None:
        """Take the rules, and whether the hosts it is for were entered by an operator."""
        self._rules = rules
        self._is_registered = is_registered
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def connect_tcp(  # noqa: PLR0917 — httpcore's signature
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> SocketStream:
        """Try the host's addresses in turn; raise `HostRefusedError`, `httpcore.ConnectError` or `ConnectTimeout`."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
                return await self._connect_first(addresses, timeout)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpcore.ConnectError("no connection") from error

    async def _resolve(self, host: str, port: int) -> list[tuple[int, Any]]:
        self._rules.check_host(host)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for _, _, _, _, address in found:
            self._rules.check(host, ip_address(address[0]), is_registered=self._is_registered)
        families = [
            [(family, address) for family, _, _, _, address in found if family == wanted] for wanted in _FAMILIES
        ]
        return [pair for pair in chain.from_iterable(zip_longest(*families)) if pair]

    async def _connect_first(self, addresses: list[tuple[int, Any]], seconds: float | None) -> SocketStream:
        failure: OSError = OSError("the name has no address")
        for position, (family, address) in enumerate(addresses):
            # The last address gets all the time that is left, those before it a share, so that a silent one
            # (an IPv6 address without a route, say) leaves some for the next.
            is_last = position == len(addresses) - 1
            share = None if is_last or seconds is None else seconds / len(addresses)
            try:
                async with asyncio.timeout(share):
                    return SocketStream(await _connect(family, address), self._buffer)
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure


class SocketStream(httpcore.AsyncNetworkStream):
    """A connected socket, plain or TLS."""

    def __init__(self, connected: socket.socket, buffer: memoryview) -> None:
        """Take a non-blocking socket, and the buffer that streams of one event loop share."""
        self._socket = connected
        self._buffer = buffer
        self._early = b""
        self._needs = _READ
        self._waiting: asyncio.Future[int] | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109 — httpcore's
        """Return what has arrived, at least one byte, or nothing at the end; `max_bytes` is not needed."""
        try:
            while (received := self._early or self._receive()) is None:
                async with asyncio.timeout(timeout):
                    await self._ready(self._needs)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("nothing arrived in time") from error
        except OSError as error:
            raise httpcore.ReadError("the connection broke") from error
        self._early = b""
        if len(received) == len(self._buffer):
            await asyncio.sleep(0)  # others get a turn, however fast the peer sends
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 — httpcore's
        """Send everything; raise `httpcore.WriteError` as soon as an answer comes while the peer does not read on.

        httpcore then reads that answer: a registry that refuses an upload early (401, 413) is heard.
        """
        rest = memoryview(buffer)
        try:
            while rest := rest[self._send(rest) :]:
                async with asyncio.timeout(timeout):
                    await self._can_send()
        except TimeoutError as error:
            raise httpcore.WriteTimeout("nothing was taken in time") from error
        except OSError as error:
            raise httpcore.WriteError("the connection broke") from error

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 — httpcore's signature
    ) -> SocketStream:
        """Shake hands; the stream this is called on is used up. Raise `httpcore.ConnectError` from `ssl.SSLError`."""
        try:
            self._socket = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            async with asyncio.timeout(timeout):
                await self._shake_hands(self._socket)
        except TimeoutError as error:
            await self.aclose()
            raise httpcore.ConnectTimeout("no TLS handshake in time") from error
        except OSError as error:
            await self.aclose()
            raise httpcore.ConnectError("the TLS handshake failed") from error
        except BaseException:
            await self.aclose()
            raise
        return SocketStream(self._socket, self._buffer)

    async def aclose(self) -> None:
        """Close at once; whoever waits for this connection is told."""
        self.close()

    def close(self) -> None:
        """Close at once; whoever waits for this connection is told."""
        if self._waiting is not None:
            self._forget(self._waiting)
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        """Answer what httpcore asks: the TLS object, and whether an idle connection has been ended by the peer."""
        match info:
            case "ssl_object":
                return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
            case "is_readable":
                return self._is_spoiled()
            case _:
                return None

    def _receive(self) -> bytes | None:
        """Take what is there; None when nothing is."""
        filled = 0
        while filled < len(self._buffer):
            try:
                count = self._socket.recv_into(self._buffer[filled:])
            except ssl.SSLWantWriteError:
                self._needs = _WRITE
                break
            except (BlockingIOError, ssl.SSLWantReadError):
                self._needs = _READ
                break
            except InterruptedError:
                continue
            if count == 0:
                return bytes(self._buffer[:filled])
            filled += count
        # A copy: a view into the shared buffer would change under whoever holds it.
        return bytes(self._buffer[:filled]) if filled else None

    def _send(self, data: memoryview) -> int:
        """Send until the socket takes no more; return how much it took."""
        sent = 0
        while sent < len(data):
            try:
                sent += self._socket.send(data[sent:])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._needs = _WRITE
                break
            except ssl.SSLWantReadError:
                self._needs = _READ
                break
        return sent

    async def _can_send(self) -> None:
        if self._needs == _READ:  # TLS wants to hear something first
            await self._ready(_READ)
        elif await self._ready(_READ | _WRITE) == _READ and self._has_answer():
            raise httpcore.WriteError("an answer came before everything was sent")

    def _has_answer(self) -> bool:
        received = self._receive()
        if received is None:  # only TLS 1.3 session tickets
            return False
        self._early += received
        return not self._early.startswith(_CONTINUE)

    async def _shake_hands(self, tls: ssl.SSLSocket) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._ready(_READ)
            except ssl.SSLWantWriteError:
                await self._ready(_WRITE)
            else:
                return

    async def _ready(self, wanted: int) -> int:
        """Wait until the socket can be read or written; return which."""
        loop, number = asyncio.get_running_loop(), self._socket.fileno()
        if number < 0:
            raise OSError("the connection is closed")
        ready: asyncio.Future[int] = loop.create_future()
        self._waiting = ready
        if wanted & _READ:
            loop.add_reader(number, _settle, ready, _READ)
        if wanted & _WRITE:
            loop.add_writer(number, _settle, ready, _WRITE)
        try:
            return await ready
        finally:
            self._forget(ready)

    def _forget(self, ready: asyncio.Future[int]) -> None:
        # Before the socket is closed, never after: its number may then belong to another connection already.
        if self._waiting is not ready:
            return
        self._waiting = None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        if not ready.done():
            ready.set_exception(OSError("the connection is closed"))

    def _is_spoiled(self) -> bool:
        """Whether an idle connection was ended, or holds bytes nobody asked for."""
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.recv(1)  # takes in late TLS 1.3 session tickets, which mean nothing
            else:
                self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True


_READ, _WRITE = 1, 2
_FAMILIES = (socket.AF_INET6, socket.AF_INET)
_CONTINUE = b"HTTP/1.1 1"


async def _connect(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _settle(ready: asyncio.Future[int], which: int) -> None:
    if not ready.done():
        ready.set_result(which)
