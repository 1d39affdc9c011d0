"""Which host may be told what: the registry itself, hosts that are known to belong to it, and strangers.

Credentials belong to an origin, that is scheme, host and port. Distribution spec: a client must not carry them across
hosts on a redirect; a token server is asked with them only if it plainly belongs to the registry.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from ipaddress import ip_address

from publicsuffixlist import PublicSuffixList

from app.domain.reference import DOCKER_HUB
from app.domain.registry import RegistryEntry
from app.registry.url import InvalidUrlError, Url

_TOKEN_SERVERS = {
    DOCKER_HUB: "auth.docker.io",
    "lscr.io": "ghcr.io",  # LinuxServer's front for GHCR
    "registry.gitlab.com": "gitlab.com",
    "registry.redhat.io": "sso.redhat.com",
}
"""Token servers of public registries that lie in another domain, or are named for clarity."""


class Standing(Enum):
    """What a URL is to a registry."""

    HOME = "home"
    """Its own origin: credentials, client certificate, its address rules."""
    KNOWN = "known"
    """Another port of its host, or a host its operator trusts: its address rules, but no credentials."""
    STRANGER = "stranger"
    """Anyone else: public addresses with a proper certificate only."""


class Trust:
    """The trust rules of one registry entry."""

    def __init__(self, entry: RegistryEntry) -> None:
        self.home = Url.parse(entry.base_url)
        self._registry = entry.registry
        self._trusted = tuple(pattern.lower() for pattern in entry.trusted_hosts)

    def standing(self, url: Url) -> Standing:
        """Place a URL."""
        if url.origin == self.home.origin:
            return Standing.HOME
        if url.host == self.home.host or self._is_trusted(url):
            return Standing.KNOWN
        return Standing.STRANGER

    def allows_hop(self, begin: Url, end: Url) -> bool:
        """Whether a redirect may be followed: never from https to http."""
        return end.scheme == "https" or begin.scheme == "http"

    def allows_realm(self, realm: Url) -> bool:
        """Whether a token server may be asked, and be shown credentials.

        https, unless the registry itself is entered as insecure; the same host on any port, a trusted host, a known
        pair, or the same registrable domain. Addresses and localhost only when identical or named by the operator.
        """
        if not self.allows_hop(self.home, realm):
            return False
        if self.standing(realm) is not Standing.STRANGER or _TOKEN_SERVERS.get(self._registry) == realm.host:
            return True
        domain = _registrable_domain(realm.host)
        return domain is not None and domain == _registrable_domain(self.home.host)

    def locate(self, base: Url, location: str) -> Url:
        """Resolve a `Location` or `Link` from the registry; raise `InvalidUrlError`.

        A proxy that does not pass `X-Forwarded-Proto` on makes registries name themselves with http, or without the
        port they are known by: the registry's own name always means the registry.
        """
        url = base.join(location)
        is_home_in_plain = url.host == self.home.host and url.scheme == "http" and self.home.scheme == "https"
        if is_home_in_plain and url.port in {80, 443, self.home.port}:
            return self.home.with_target(url.target)
        return url

    def _is_trusted(self, url: Url) -> bool:
        names = (url.host, f"{url.host}:{url.port}", url.authority)
        return any(fnmatchcase(name, pattern) for pattern in self._trusted for name in names if _is_pattern(pattern))


def parse_realm(base: Url, realm: str) -> Url:
    """Read a challenge's realm, which some registries give relative to the request; raise `InvalidUrlError`."""
    if not realm:
        raise InvalidUrlError("a challenge without a realm")
    return base.join(realm)


def _is_pattern(pattern: str) -> bool:
    # `*.example.com`, or a plain host; anything wider (`*`, `*.com`) would trust the world.
    wild, _, rest = pattern.rpartition("*")
    return "*" not in pattern or (wild == "" and rest.startswith(".") and "." in rest[1:])


def _registrable_domain(host: str) -> str | None:
    if _is_address(host):
        return None
    domain = _suffixes().privatesuffix(host)
    return str(domain) if domain else None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
