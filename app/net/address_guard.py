"""The SSRF guard: which addresses and hosts may be connected to at all, and the dialer, which connects to no others.

A sync service connects to hosts that callers, registries and push events name, so it is prone to server-side request
forgery (OWASP, CWE-918). The dialer asks `AddressRules` about every address a name resolves to, and connects to one
that was checked, so DNS rebinding does not get around it. httpcore calls it in place of its own network backend, for
`registry` and `webhooks`, which must not know each other and both connect to hosts that a caller named.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain, zip_longest
from typing import Any
from urllib.parse import urlsplit

import certifi
import httpcore

from app.domain.errors import RegistrySyncError
from app.net.public_names import addresses_within, is_public_name
from app.net.stream import SocketStream

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE = IPv6Network("::/96")
_FORBIDDEN_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network: reaches the machine itself
        "169.254.0.0/16",  # link-local; AWS, GCP, Azure, Oracle and ECS answer metadata there
        "fe80::/10",
        "255.255.255.255/32",
        "100.100.100.200/32",  # Alibaba Cloud metadata
        "168.63.129.16/32",  # Azure WireServer
        "100.96.0.96/32",  # Volcano Engine metadata
        "192.0.0.192/32",  # Oracle Cloud metadata
        "fd00:ec2::254/128",  # AWS metadata
        "fd00:ec2::23/128",  # AWS: credentials of a pod of EKS
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud metadata
        "fd00:42::42/128",  # Scaleway metadata
        "fd20:ce::254/128",  # GCP metadata
    )
)
_NUMBERS = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+)){0,3}", re.IGNORECASE)
"""What `inet_aton` takes for an address."""
_FORBIDDEN_HOSTS = re.compile(
    r"metadata(\.google\.internal|\.goog"  # Google
    r"|\.azure\.internal"  # Azure
    r"|\.tencentyun\.com"  # Tencent Cloud
    r"|\.exoscale\.com"  # Exoscale
    r"|\.platformequinix\.com|\.packet\.net"  # Equinix Metal
    r"|\.oraclecloud\.com)?"  # Oracle Cloud
    r"|api\.metadata\.cloud\.ibm\.com"  # IBM Cloud
    r"|instance-data(\.ec2\.internal)?"  # AWS
    r"|kubernetes(\.default(\.svc(\..*)?)?)?"
)
"""Names that mean the machine's or the cluster's own services, wherever they resolve to."""


HTTPS_PORT = 443


class HostRefusedError(RegistrySyncError):
    """A host may not be connected to. The message never says what its name resolved to."""

    code = "host_not_allowed"


class PrivateAddressError(HostRefusedError):
    """A host that would be allowed if an operator named it: its address is private."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a host may not be connected to."""

    text: str
    is_private: bool = False
    """Whether it might be if an operator named it."""


class AddressRules:
    """The SSRF guard's rules: decide, before every connection, whether it may be made.

    Hosts that an operator registered may be private or loopback, all others must be public; link-local, metadata and
    multicast addresses are never reached.
    """

    def refusal(
        self, host: str, address: IPv4Address | IPv6Address | str | None, *, is_registered: bool
    ) -> Refusal | None:
        """Return why a host may not be connected to, None where it may: by its name, and by one address of it.

        It is of the names of metadata services, or an address of theirs however spelled; or the address is.
        """
        spelled = spelled_address(host)
        if _FORBIDDEN_HOSTS.fullmatch(host.lower().rstrip(".")) or (spelled and _is_forbidden(spelled)):
            return Refusal(f"{host} is never connected to")
        if address is None:
            return None
        address = ip_address(address)
        if _is_forbidden(address):
            return Refusal(f"{host} is never connected to: it is link-local, multicast or a metadata address")
        for reached in _reached(address):
            if reached.is_unspecified:
                return Refusal(f"{host} is never connected to: it has no address")
            if not is_registered and not _is_public(reached):
                return Refusal(f"{host} is not a public address", is_private=True)
        return None

    def check_unresolved(self, host: str, *, is_registered: bool) -> None:
        """Raise `HostRefusedError` for a host that a proxy resolves, as far as its name says where it leads.

        What no operator entered has to be a name of the public DNS, or a public address.
        """
        address, name = spelled_address(host), host.lower().rstrip(".")
        self.check(host, address, is_registered=is_registered)
        if (
            address is None
            and not is_registered
            and not (is_public_name(name) and all(map(_is_public, addresses_within(name))))
        ):
            raise PrivateAddressError(f"{host} is not a name of the public DNS")

    def check(self, host: str, address: IPv4Address | IPv6Address | str | None, *, is_registered: bool) -> None:
        """Raise `HostRefusedError` unless this host, and this address of it, may be connected to.

        `PrivateAddressError` for one that is only too private for a host that no operator entered.
        """
        if (refusal := self.refusal(host, address, is_registered=is_registered)) is not None:
            raise (PrivateAddressError if refusal.is_private else HostRefusedError)(refusal.text)


@dataclass(frozen=True, slots=True)
class EgressRule:
    """Which hosts without an entry may be copied from and to: `allow`, `sources`, `deny`, or patterns of host names."""

    hosts: tuple[str, ...] = ("allow",)

    @classmethod
    def of(cls, setting: Sequence[str], *, has_key: bool) -> EgressRule:
        """Return what a setting comes to: `auto` is `allow` until there is an API key, then `deny`."""
        return cls(("deny" if has_key else "allow",) if tuple(setting) == AUTO else tuple(setting))

    @property
    def admits_all(self) -> bool:
        """Whether every host may be reached."""
        return self.hosts == ("allow",)

    def admits(self, registry: str, *, is_source: bool) -> bool:
        """Return whether a host, which may have a port, may be copied from, or to."""
        if self.admits_all:
            return True
        place = urlsplit(f"//{registry}")
        host = place.hostname or ""
        is_named = is_source if self.hosts == ("sources",) else any(fnmatchcase(host, one) for one in self.hosts)
        return is_named and place.port in {None, HTTPS_PORT}


AUTO = ("auto",)
"""The setting that goes by whether there is an API key."""


def is_address(host: str) -> bool:
    """Return whether a host is given as an IP address, not as a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def spelled_address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host is, in any spelling that resolvers take (`inet_aton`: `0x7f.1`, `2130706433`).

    None for a name.
    """
    name = host.strip("[]").rstrip(".")
    try:
        return ip_address(name)
    except ValueError:
        pass
    if not _NUMBERS.fullmatch(name):
        return None
    try:
        return IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


def _is_forbidden(address: IPv4Address | IPv6Address) -> bool:
    return any(one.is_multicast or any(one in network for network in _FORBIDDEN_NETWORKS) for one in _reached(address))


def _reached(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """List what an address leads to: itself, and the IPv4 address packed into it (mapped, NAT64, 6to4, Teredo)."""
    if isinstance(address, IPv4Address):
        return (address,)
    low = IPv4Address(int(address) & int(IPv4Address("255.255.255.255")))
    if address.ipv4_mapped or any(address in network for network in _NAT64):
        return (low,)
    if address in _IPV4_COMPATIBLE and not address.is_loopback:
        return (address, low)
    packed = address.sixtofour or (address.teredo[1] if address.teredo else None)
    return (address, packed) if packed else (address,)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not address.is_reserved


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
        self._rules.check(host, None, is_registered=self._is_registered)
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
