"""The dialer: resolve a name, check every address it has (SSRF), connect to a checked one, move bytes.

Below `registry` and `webhooks`, which must not know each other and both connect to hosts that a caller named.
httpcore calls this in place of its own network backend.
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

from app.net.address_guard import AddressRules
from app.net.stream import SocketStream


def make_tls_context() -> ssl.SSLContext:
    """Make a context that trusts the system's authorities and certifi's: small containers come without any.

    Whatever Python's version has as its default, a certificate need not follow RFC 5280 to the letter
    (`VERIFY_X509_STRICT`): authorities that companies run for themselves leave extensions out, and curl and Go take
    them. Chain, name and dates are checked all the same.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cafile=certifi.where())
    return context


@lru_cache(maxsize=1)
def shared_tls_context() -> ssl.SSLContext:
    """Return the one such context that is shared and never changed; reading the authorities takes a while."""
    return make_tls_context()


class Dialer(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, rules: AddressRules, *, is_registered: bool) -> None:
        """Take the rules, and whether the hosts it is for were entered by an operator."""
        self._rules = rules
        self._is_registered = is_registered

    async def connect_tcp(  # noqa: PLR0917 — httpcore's signature
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 — the protocol's name
        local_address: str | None = None,  # noqa: ARG002 — the protocol's name
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 — the protocol's name
    ) -> SocketStream:
        """Try the host's addresses in turn; raise `HostRefusedError`, `httpcore.ConnectError` or `ConnectTimeout`."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
                return await self._connect_first(addresses, timeout)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:  # the latter for a name that IDNA can't spell, such as `a..b`
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
                    return SocketStream(await _connect(family, address))
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure


_FAMILIES = (socket.AF_INET6, socket.AF_INET)


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
