"""Which host may see credentials: the registry itself, hosts that are known to belong to it, and strangers (SSRF).

What lies at a private address is reached when an operator named it, or when the type of the entry says that it belongs
to the registry; metadata and link-local addresses never, see `AddressRules`. Credentials belong to an origin, that is
scheme, host and port. Distribution spec: a client must not carry them across hosts on a redirect; a token server is
asked with them only if it plainly belongs to the registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache

from publicsuffixlist import PublicSuffixList

from app.domain.reference import DOCKER_HUB
from app.domain.registry import RegistryEntry
from app.net.address_guard import is_address
from app.net.public_names import LEADS_ANYWHERE
from app.registry.http.message import InvalidUrlError, Url

_TOKEN_SERVERS = {
    DOCKER_HUB: "auth.docker.io",
    "lscr.io": "ghcr.io",  # LinuxServer's front for GHCR
    "registry.gitlab.com": "gitlab.com",
    "registry.redhat.io": "sso.redhat.com",
}
"""Token servers of public registries that lie in another domain, or are named for clarity."""
_ALIBABA = re.compile(r"[a-z0-9-]+\.(?P<region>[a-z0-9-]+)(?:\.cr)?\.aliyuncs\.com")
_ALIBABA_TOKENS = re.compile(r"dockerauth[a-z-]*\.(?P<region>[a-z0-9-]+)\.aliyuncs\.com")
_ACR = re.compile(r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)(?:\.[a-z0-9]+\.geo)?\.azurecr\.(?P<cloud>io|cn|us)")
"""The name has a hyphen where the registry was made with a domain name label (`contoso-abc123def456ghij`); its regional
endpoints have `.<region>.geo` behind it."""
_SHARED = (
    "azurecr.io",
    "azurecr.cn",
    "azurecr.us",
    "pkg.dev",
    "gcr.io",
    "jfrog.io",
    "amazonaws.com",
    "amazonaws.com.cn",
    "aliyuncs.com",
    "myqcloud.com",
    "tencentcloudcr.com",
    "myhuaweicloud.com",
    "volces.com",
    "ocir.io",
    "azure.com",
    "cluster.local",
    "svc",
    *LEADS_ANYWHERE,
)
"""Domains whose names belong to many owners, and which the public suffix list does not have as such: clouds, the
services of a Kubernetes cluster, names made of addresses. A neighbour there is a stranger."""


_MAX_TOKEN_SERVERS = 4


class HostTrust(Enum):
    """What a URL is to a registry."""

    HOME = "home"
    """Its own origin: credentials, client certificate, its address rules."""
    KNOWN = "known"
    """Another port of its host, or a host its operator trusts: its address rules, but no credentials."""
    STRANGER = "stranger"
    """Any other host: public addresses with a proper certificate only."""


@dataclass(frozen=True, slots=True)
class _TrustedHost:
    """A host, or a `*.` pattern, that an operator named; with a scheme for that alone."""

    pattern: str
    scheme: str | None

    @classmethod
    def parse(cls, text: str) -> _TrustedHost:
        scheme, separator, pattern = text.lower().partition("://")
        return cls(pattern, scheme) if separator else cls(text.lower(), None)

    def fits(self, url: Url) -> bool:
        names = (url.host, f"{url.host}:{url.port}", url.authority)
        is_named = _is_pattern(self.pattern) and any(fnmatchcase(name, self.pattern) for name in names)
        return is_named and self.scheme in {None, url.scheme}


class Trust:
    """The trust rules of one registry entry."""

    def __init__(self, entry: RegistryEntry) -> None:
        self.home = Url.parse(entry.base_url)
        self._entry = entry
        self._registry = entry.registry
        self._token_servers: set[str] = set()
        """Origins in the registry's own domain that it has named, and that were allowed, as token servers."""
        self._trusted = tuple(_TrustedHost.parse(text) for text in entry.trusted_hosts)

    def trust_of(self, url: Url) -> HostTrust:
        """Place a URL."""
        home = self.home
        if url.host == home.host and url.port == home.port and url.scheme == home.scheme:
            return HostTrust.HOME
        if url.host == home.host or any(host.fits(url) for host in self._trusted) or self._is_of_type(url):
            return HostTrust.KNOWN
        if f"{url.scheme}://{url.authority}" in self._token_servers:
            return HostTrust.KNOWN
        return HostTrust.STRANGER

    def allows_hop(self, begin: Url, end: Url) -> bool:
        """Whether a redirect may be followed: from https to http only where the operator named the host with `http://`.

        No credentials go there, since it is another origin.
        """
        is_named = any(host.scheme == "http" and host.fits(end) for host in self._trusted)
        return end.scheme == "https" or begin.scheme == "http" or is_named

    def allows_realm(self, realm: Url) -> bool:
        """Whether a token server may be asked, and be shown credentials.

        https, unless the registry itself is entered as insecure; the same host on any port, a trusted host, a known
        pair, or the same registrable domain unless that has many owners. Addresses and localhost only when identical or
        named by the operator. One in the domain of a registry that an operator entered may be at a private address.
        """
        if realm.scheme != "https" and self.home.scheme == "https":
            return False
        if self.trust_of(realm) is not HostTrust.STRANGER or self._is_known_token_server(realm.host):
            return True
        if not self._is_neighbour(realm.host):
            return False
        if self._entry.is_registered and len(self._token_servers) < _MAX_TOKEN_SERVERS:
            self._token_servers.add(f"{realm.scheme}://{realm.authority}")
        return True

    def refusal_of_realm(self, realm: Url) -> str:
        """Say why a token server is not asked, and what to do about it."""
        registry, where = self._registry, f"{realm.scheme}://{realm.authority}"
        if realm.scheme != "https" and self.home.scheme == "https":
            return (
                f"{registry} sends us to log in at {where}, without TLS, where no password is sent: let the registry, "
                "or the proxy before it, name its token server with https (its external URL, X-Forwarded-Proto)"
            )
        return (
            f"{registry} sends us to log in at {where}, which is not known to belong to it; add {realm.host} to "
            f"trusted_hosts of the entry {self._entry.name} if it does"
        )

    def advice(self, url: Url) -> str:
        """Say what to do where a host was not reached because its address is private."""
        entry = self._entry
        if url.host == self.home.host:
            return "register the host to allow it"
        if not entry.is_registered:
            return f"if it belongs to {entry.registry}, register that with this host among its trusted_hosts"
        return f"if it belongs to {entry.registry}, add {url.host} to trusted_hosts of the entry {entry.name}"

    def refusal_of_hop(self, begin: Url, end: Url) -> str:
        """Say why a redirect is not followed that `allows_hop` does not allow, and what to do about it."""
        return (
            f"{self._registry} leads from https://{begin.authority} to http://{end.authority}, without TLS; if that is "
            f"its storage, add http://{end.host} to trusted_hosts of the entry {self._entry.name}"
        )

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

    def _is_of_type(self, url: Url) -> bool:
        """Whether the type of an entry says that a host is its registry's, as far as addresses go.

        ACR keeps blobs at data endpoints of its own (`<name>.<region>.data.azurecr.io`), which private links put at
        private addresses. Harbor and GitLab have their token server and storage beside them, in one domain.
        """
        if not self._entry.is_registered or url.scheme != "https":
            return False
        acr = _ACR.fullmatch(self.home.host)
        if acr is not None and self._entry.type in {"auto", "acr"}:
            endpoint = rf"{acr['name']}\.[a-z0-9]+\.data\.azurecr\.{acr['cloud']}"
            return re.fullmatch(endpoint, url.host) is not None
        return self._entry.type in {"harbor", "gitlab"} and self._is_neighbour(url.host)

    def _is_known_token_server(self, host: str) -> bool:
        if _TOKEN_SERVERS.get(self._registry) == host:
            return True
        home, tokens = _ALIBABA.fullmatch(self.home.host), _ALIBABA_TOKENS.fullmatch(host)
        return home is not None and tokens is not None and home["region"] == tokens["region"]

    def _is_neighbour(self, host: str) -> bool:
        """Whether a host has the registry's own registrable domain, and that domain one owner."""
        domain = _registrable_domain(host)
        return domain is not None and domain == _registrable_domain(self.home.host)


def parse_realm(trust: Trust, realm: str) -> Url:
    """Read a challenge's realm; raise `InvalidUrlError`.

    Some registries give it relative to the request. The registry's own name with http means the registry, as it does in
    `Trust.locate`: behind a proxy that ends TLS, a registry may not know that there is any.
    """
    if not realm:
        raise InvalidUrlError("a challenge without a realm")
    return trust.locate(trust.home.with_target("/v2/"), realm)


def _is_pattern(pattern: str) -> bool:
    # `*.example.com`, or a plain host; anything wider (`*`, `*.com`) would trust the world.
    wild, _, rest = pattern.rpartition("*")
    return "*" not in pattern or (wild == "" and rest.startswith(".") and "." in rest[1:])


def _registrable_domain(host: str) -> str | None:
    """Return the part of a name that one owner has; None for an address, or where names have many owners."""
    if is_address(host) or any(host == suffix or host.endswith(f".{suffix}") for suffix in _SHARED):
        return None
    domain = _suffixes().privatesuffix(host)
    return str(domain) if domain else None


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
