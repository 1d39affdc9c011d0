"""Which addresses are ever connected to."""

import pytest

from app.net.address_guard import AddressRules, HostRefusedError

NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd20:ce::254",
    "fe80::1",
    "0.0.0.0",  # noqa: S104 — nobody binds it here
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "239.1.2.3",
    "ff02::1",
    "255.255.255.255",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::169.254.169.254",
]
REGISTERED_ONLY = [
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "240.0.0.1",
    "fc00::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:7f00:1::",
]
PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]

PRIVATE_DOMAINS = (
    *("test", "invalid", "example", "localhost"),  # RFC 6761
    *("intranet", "internal", "private", "corp", "home", "lan", "local"),  # RFC 6762, appendix G
    *("home.arpa", "onion", "alt"),  # RFC 8375, RFC 7686, RFC 9476
    *("localdomain", "consul", "acme"),  # habits, and whatever a company chose
)
LEAD_ANYWHERE = ("localtest.me", "lvh.me", "vcap.me", "lacolhost.com", "traefik.me", "backname.io", "local.gd", "1u.ms")


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("is_registered", [True, False])
def test_link_local_metadata_and_multicast_are_never_reached(address: str, *, is_registered: bool) -> None:
    with pytest.raises(HostRefusedError) as refusal:
        AddressRules().check("registry.example.com", address, is_registered=is_registered)
    assert refusal.value.code == "host_not_allowed"


@pytest.mark.parametrize("address", REGISTERED_ONLY)
def test_private_addresses_are_for_registered_hosts(address: str) -> None:
    rules = AddressRules()
    rules.check("registry.example.com", address, is_registered=True)
    with pytest.raises(HostRefusedError) as refusal:
        rules.check("registry.example.com", address, is_registered=False)
    assert address not in refusal.value.message


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_for_everybody(address: str) -> None:
    AddressRules().check("registry.example.com", address, is_registered=False)


@pytest.mark.parametrize(
    "host",
    [
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
        "kubernetes.default.svc.cluster.local",
        "metadata.tencentyun.com",
        "metadata.azure.internal",
        "metadata.exoscale.com",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "api.metadata.cloud.ibm.com",
    ],
)
def test_names_of_metadata_services_are_refused_wherever_they_lead(host: str) -> None:
    with pytest.raises(HostRefusedError):
        AddressRules().check(host, "8.8.8.8", is_registered=True)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.16689662",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "0.0.0.1",
    ],
)
def test_an_address_that_is_never_reached_is_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(HostRefusedError):
        AddressRules().check(host, None, is_registered=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "10.0.0.1.",
        "localhost",
        "localhost.",
        "vault",
        "vault.",
        "a.localhost",
        "db.corp.internal",
        "db.team.svc",
        "db.team.svc.cluster.local",
        "10.0.0.1.nip.io",
        "a-7f000001.sslip.io.",
        *(f"foo.{name}" for name in PRIVATE_DOMAINS),
        *(f"foo.{name}" for name in LEAD_ANYWHERE),
        *LEAD_ANYWHERE,
        "1.1.1.1.traefik.me",
        "10-0-0-1.example.com",
        "app-192-168-3-4.example.com",
        "app-1-8-10-0-0-1.example.com",
        "app.127.0.0.1.example.com",
        "ip-172-16-0-1.compute.example.com",
    ],
)
def test_what_a_proxy_would_resolve_to_a_place_inside_is_for_registered_hosts(host: str) -> None:
    AddressRules().check_unresolved(host, is_registered=True)
    with pytest.raises(HostRefusedError):
        AddressRules().check_unresolved(host, is_registered=False)


@pytest.mark.parametrize(
    "host",
    [
        "registry.example.com",
        "8.8.8.8",
        "[2606:4700::1111]",
        "0x08080808",
        "internal.example.com",
        "registry.example.co.uk",
        "ghcr.io",
        "xn--fiq228c.xn--fiqs8s",
        "registry.example.ck",
        "notnip.io",
        "ec2-52-0-56-137.compute-1.amazonaws.com",
        "v1-2-3-400.example.com",
        "europe-docker.pkg.dev",
    ],
)
def test_what_a_proxy_would_resolve_to_a_public_place_is_for_everybody(host: str) -> None:
    AddressRules().check_unresolved(host, is_registered=False)
