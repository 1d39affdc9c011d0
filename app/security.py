"""Secrets of ours: API keys that are told apart from typos offline, and seals for secrets that must be read again.

An API key is random, so a plain SHA-256 of it is all the database needs to hold; it is shown once. A registry's
password has to be sent on, so it is sealed (Fernet: AES-128-CBC and HMAC-SHA-256) with keys that lie outside the
database.

And the rules for where connections may go: `AddressRules`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.domain.errors import AccessError, RegistrySyncError, UnavailableError

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_LENGTH = 43
"""Base-62 characters that hold 256 bits."""
_CHECKSUM_LENGTH = 6
"""Base-62 characters that hold a CRC-32."""
_API_KEY = re.compile(
    rf"rsk_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}[0-9A-Za-z]{{{_CHECKSUM_LENGTH}}}"
)
_FOREIGN_KEY = re.compile(r"[!-~]{32,256}")
"""A key that an operator made: long enough not to be guessed, visible ASCII so that it fits a header."""

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
        "192.0.0.192/32",  # Oracle Cloud metadata
        "fd00:ec2::254/128",  # AWS metadata
        "fd20:ce::254/128",  # GCP metadata
    )
)
_FORBIDDEN_HOSTS = re.compile(
    r"metadata(\.google\.internal|\.goog)?|instance-data(\.ec2\.internal)?|kubernetes(\.default(\.svc(\..*)?)?)?"
)
"""Names that mean the machine's or the cluster's own services, wherever they resolve to."""

Choose = Callable[[str], str]
"""Picks one character of a text at random."""


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """What the database is asked with: the public id to find the row by, and the digest it must hold."""

    id: str
    digest: str = field(repr=False)

    def matches(self, digest: str) -> bool:
        """Compare with a stored digest, in a time that says nothing."""
        return hmac.compare_digest(self.digest, digest)


def make_api_key(choose: Choose = secrets.choice) -> str:
    """Make a key `rsk_<id>_<secret><checksum>`; the prefix lets secret scanners recognise it."""
    key_id, secret = ("".join(choose(_ALPHABET) for _ in range(length)) for length in (_ID_LENGTH, _SECRET_LENGTH))
    body = f"rsk_{key_id}_{secret}"
    return body + _checksum(body)


def read_api_key(text: str) -> PresentedKey:
    """Check a key's form, offline; raise `AccessError` for what can be no key, such as one with a typo.

    A key that an operator made (`BOOTSTRAP_KEY`) has no id in it, so its id comes from its digest.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    match = _API_KEY.fullmatch(text)
    if match and hmac.compare_digest(_checksum(text[:-_CHECKSUM_LENGTH]), text[-_CHECKSUM_LENGTH:]):
        return PresentedKey(match[1], digest)
    if text.startswith("rsk_") or not _FOREIGN_KEY.fullmatch(text):
        raise AccessError("this is no API key of this service; was it copied whole?", code="unauthenticated")
    return PresentedKey(f"x{digest[: _ID_LENGTH - 1]}", digest)


class Sealer:
    """Seals texts with the first of its keys and opens those sealed with any of them.

    The context says what a text is for, such as `registry/hub/password`; it is sealed in with the text, so that a token
    moved to another row does not open.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """Take Fernet keys, newest first; raise `ValueError` for none, or a malformed one."""
        if not keys:
            raise ValueError("at least one secret key is needed")
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @staticmethod
    def make_key() -> str:
        """Make a key, as `SECRET_KEYS` takes it."""
        return Fernet.generate_key().decode()

    def seal(self, text: str, *, context: str) -> str:
        """Seal a text for one use."""
        return self._fernet.encrypt(json.dumps([context, text]).encode()).decode()

    def unseal(self, token: str, *, context: str) -> str:
        """Open what was sealed for this very use; raise `UnavailableError` when no key fits or it was for another."""
        try:
            sealed_context, text = json.loads(self._fernet.decrypt(token.encode()))
        except InvalidToken as error:
            raise _unreadable(context) from error
        if sealed_context != context:
            raise _unreadable(context)
        return str(text)

    def rotate(self, token: str) -> str:
        """Seal with the first key what any key opens; raise `UnavailableError` when none does."""
        try:
            return self._fernet.rotate(token.encode()).decode()
        except InvalidToken as error:
            raise _unreadable("a stored secret") from error


class HostRefusedError(RegistrySyncError):
    """A host may not be connected to. The message never says what its name resolved to."""

    code = "host_not_allowed"


class AddressRules:
    """Decide, before every connection, whether it may be made.

    Hosts that an operator registered may be private or loopback, all others must be public; link-local, metadata and
    multicast addresses are never reached.
    """

    def check_host(self, host: str) -> None:
        """Raise `HostRefusedError` for the names of metadata services."""
        if _FORBIDDEN_HOSTS.fullmatch(host.lower().rstrip(".")):
            raise HostRefusedError(f"{host} is never connected to")

    def check(self, host: str, address: IPv4Address | IPv6Address | str, *, is_registered: bool) -> None:
        """Raise `HostRefusedError` unless this address of the host may be connected to."""
        self.check_host(host)
        for reached in _reached(ip_address(address)):
            if any(reached in network for network in _FORBIDDEN_NETWORKS) or reached.is_multicast:
                raise HostRefusedError(
                    f"{host} is never connected to: it is link-local, multicast or a metadata address"
                )
            if reached.is_unspecified:
                raise HostRefusedError(f"{host} is never connected to: it has no address")
            if not is_registered and not _is_public(reached):
                raise HostRefusedError(f"{host} is not a public address; register the host to allow it")


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


def _unreadable(what: str) -> UnavailableError:
    message = f"{what} can't be opened: the key it was sealed with is not among the secret keys"
    return UnavailableError(message, code="secret_unreadable")


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
