"""Names of the public DNS: which host names are some, as far as a name says, where a proxy resolves it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address

from publicsuffixlist import PublicSuffixList

_INSIDE = re.compile(r"(^|\.)(onion|home\.arpa)$|\.svc\.")
"""What the list of public suffixes has and yet is not resolved by the public DNS (RFC 7686, RFC 8375); the services of
a Kubernetes cluster, with the rest of any search domain."""
LEADS_ANYWHERE = frozenset(
    {
        # Names made of an address, by what they offer, and the same for certificates of hosts in a LAN.
        *("nip.io", "sslip.io", "xip.io", "xip.name", "ip6.name", "traefik.me", "backname.io", "plex.direct"),
        *("local-ip.co", "local-ip.sh", "local-ip.medicmobile.org", "cprapid.com"),
        # Every name below it is the machine itself; the last ones are those of tools that developers run.
        *("localtest.me", "lvh.me", "vcap.me", "lacolhost.com", "fuf.me", "42foo.com", "smackaho.st", "local.gd"),
        *("localho.st", "localhost.direct", "127.ca", "127-0-0-1.org.uk", "localcert.net", "localhostcert.net"),
        *("lndo.site", "ddev.site", "my127.site"),
        # Names that change where they lead from one question to the next, made to try guards like this one.
        *("1u.ms", "rbndr.us"),
    }
)
"""Zones of the public DNS whose names lead to an address that the name chooses, or to loopback."""
_QUAD = re.compile(r"(?<!\d)(?=(\d{1,3})[.-](\d{1,3})[.-](\d{1,3})[.-](\d{1,3})(?!\d))")
"""An IPv4 address within a name, as services that make names of addresses take it."""
_LARGEST_BYTE = 255


def is_public_name(name: str) -> bool:
    """Return whether a name, in lower case, is one of the public DNS that one owner has.

    Its top-level domain has to be in the list of public suffixes, as ICANN's are: those of private networks are not
    (RFC 6761; RFC 6762, appendix G; `internal`, which ICANN keeps for them), whatever a company chose.
    """
    labels = name.split(".")
    if len(labels) == 1 or _INSIDE.search(name) or _suffixes().publicsuffix(name) is None:
        return False
    return not any(".".join(labels[first:]) in LEADS_ANYWHERE for first in range(len(labels)))


def addresses_within(name: str) -> Iterator[IPv4Address]:
    """Yield the addresses that a name may be made of (`10-0-0-1.example.com`)."""
    for quad in _QUAD.finditer(name):
        numbers = tuple(map(int, quad.groups()))
        if max(numbers) <= _LARGEST_BYTE:
            yield IPv4Address(bytes(numbers))


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False, only_icann=True)
