"""Who belongs to a registry, and who may see its credentials."""

import pytest

from app.domain.reference import Registry
from app.domain.registry import RegistryEntry
from app.registry.http.host_trust import HostTrust, Trust, parse_realm
from app.registry.http.message import Url


def trust(host: str = "registry.example.com", **fields: object) -> Trust:
    return Trust(RegistryEntry.model_validate({"name": "r", "host": host, **fields}))


@pytest.mark.parametrize(
    ("host", "realm", "fields"),
    [
        ("registry.example.com", "https://registry.example.com/token", {}),
        ("registry.example.com:5000", "https://registry.example.com:5001/token", {}),
        ("registry.example.com", "https://auth.example.com/token", {}),
        ("gcr.example.co.uk", "https://login.example.co.uk/token", {}),
        ("docker.io", "https://auth.docker.io/token", {}),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth", {}),
        ("lscr.io", "https://ghcr.io/token", {}),
        ("registry.corp.internal", "https://auth.corp.internal/token", {}),
        ("registry.example.com", "https://login.other.net/token", {"trusted_hosts": ["login.other.net"]}),
        ("registry.example.com", "https://a.login.other.net/token", {"trusted_hosts": ["*.login.other.net"]}),
        ("127.0.0.1:5000", "http://127.0.0.1:5001/token", {"insecure": True}),
        ("registry.example.com", "https://10.0.0.7/token", {"trusted_hosts": ["10.0.0.7"]}),
        ("registry.example.com", "http://registry.example.com/token", {"insecure": True}),
        ("registry.cn-hangzhou.aliyuncs.com", "https://dockerauth.cn-hangzhou.aliyuncs.com/auth", {}),
        ("my-registry.cn-hangzhou.cr.aliyuncs.com", "https://dockerauth-ee.cn-hangzhou.aliyuncs.com/auth", {}),
        ("a.jfrog.io", "https://b.jfrog.io/token", {"trusted_hosts": ["b.jfrog.io"]}),
        ("old.azurecr.io", "https://old.azurecr.io/oauth2/token", {}),
    ],
)
def test_token_servers_that_belong_to_the_registry_are_asked(host: str, realm: str, fields: dict[str, object]) -> None:
    assert trust(host, **fields).allows_realm(Url.parse(realm))


@pytest.mark.parametrize(
    ("host", "realm", "fields"),
    [
        ("registry.example.com", "https://evil.example/token", {}),
        ("registry.example.com", "https://example.com.evil.net/token", {}),
        ("registry.example.com", "http://registry.example.com/token", {}),
        ("registry.example.com", "https://127.0.0.1/token", {}),
        ("registry.example.com", "https://localhost/token", {}),
        ("10.1.2.3", "https://10.1.2.4/token", {}),
        ("10.1.2.3", "https://10.9.2.3/token", {}),
        ("[2001:db8::1]", "https://[2001:db8::2]/token", {}),
        ("localhost:5000", "http://127.0.0.1:5001/token", {"insecure": True}),
        ("victim.github.io", "https://evil.github.io/token", {}),
        ("victim.co.uk", "https://evil.co.uk/token", {}),
        ("registry", "https://auth/token", {}),
        ("registry.gitlab.com", "http://gitlab.com/jwt/auth", {}),
        ("registry.example.com", "https://evil.example/token", {"trusted_hosts": ["*"]}),
        ("registry.example.com", "https://evil.com/token", {"trusted_hosts": ["*.com"]}),
        ("registry.example.com", "https://evil.example/token", {"trusted_hosts": ["e*l.example"]}),
        ("ghcr.io", "https://auth.docker.io/token", {}),
        ("old.azurecr.io", "https://evil.azurecr.io/oauth2/token", {}),
        ("eu-docker.pkg.dev", "https://evil.pkg.dev/token", {}),
        ("a.jfrog.io", "https://evil.jfrog.io/token", {}),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "https://evil.s3.amazonaws.com/token", {}),
        ("registry.team.svc.cluster.local", "https://evil.other.svc.cluster.local/token", {}),
        ("registry.team.svc", "https://evil.other.svc/token", {}),
        ("registry.10.0.0.1.nip.io", "https://evil.10.0.0.2.nip.io/token", {}),
        ("registry.cn-hangzhou.aliyuncs.com", "https://dockerauth.cn-beijing.aliyuncs.com/auth", {}),
        ("registry.cn-hangzhou.aliyuncs.com", "https://evil.oss-cn-hangzhou.aliyuncs.com/auth", {}),
        ("registry.example.com", "http://auth.example.com/token", {"trusted_hosts": ["http://auth.example.com"]}),
    ],
)
def test_other_token_servers_are_not(host: str, realm: str, fields: dict[str, object]) -> None:
    assert not trust(host, **fields).allows_realm(Url.parse(realm))


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://registry.example.com/v2/", HostTrust.HOME),
        ("https://registry.example.com:443/v2/", HostTrust.HOME),
        ("https://registry.example.com:444/v2/", HostTrust.KNOWN),
        ("http://registry.example.com/v2/", HostTrust.KNOWN),
        ("https://blobs.cdn.net/x", HostTrust.KNOWN),
        ("https://registry.example.com.evil.net/", HostTrust.STRANGER),
        ("https://auth.example.com/", HostTrust.STRANGER),
    ],
)
def test_credentials_belong_to_scheme_host_and_port_together(url: str, wanted: HostTrust) -> None:
    assert trust(trusted_hosts=["*.cdn.net"]).trust_of(Url.parse(url)) is wanted


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "old.azurecr.io"}, "https://old.westeurope.data.azurecr.io/x"),
        ({"host": "old.azurecr.io", "type": "acr"}, "https://old.westeurope.data.azurecr.io/x"),
        ({"host": "old-abc123d4e5.azurecr.io"}, "https://old-abc123d4e5.westeurope.data.azurecr.io/x"),
        ({"host": "old.westeurope.geo.azurecr.io"}, "https://old.westeurope.data.azurecr.io/x"),
        ({"host": "old.azurecr.cn"}, "https://old.chinaeast2.data.azurecr.cn/x"),
        ({"host": "harbor.corp.example", "type": "harbor"}, "https://minio.corp.example/x"),
        ({"host": "registry.corp.example:5050", "type": "gitlab"}, "https://gitlab.corp.example/jwt/auth"),
        ({"host": "registry.corp.example", "trusted_hosts": ["http://minio"]}, "http://minio:9000/x"),
    ],
)
def test_what_belongs_to_an_entry_by_its_type_may_be_private(fields: dict[str, object], url: str) -> None:
    entry = RegistryEntry.model_validate({"name": "r", **fields})
    assert Trust(entry).trust_of(Url.parse(url)) is HostTrust.KNOWN


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "old.azurecr.io"}, "https://other.westeurope.data.azurecr.io/x"),
        ({"host": "old.azurecr.io"}, "https://old.westeurope.data.azurecr.io.evil.example/x"),
        ({"host": "old.azurecr.io"}, "https://old.westeurope.data.azurecr.cn/x"),
        ({"host": "old.azurecr.io"}, "https://old-abc123d4e5.westeurope.data.azurecr.io/x"),
        ({"host": "old.azurecr.io"}, "http://old.westeurope.data.azurecr.io/x"),
        ({"host": "old.azurecr.io", "type": "generic"}, "https://old.westeurope.data.azurecr.io/x"),
        ({"host": "old.azurecr.io", "is_registered": False}, "https://old.westeurope.data.azurecr.io/x"),
        ({"host": "registry.corp.example"}, "https://gitlab.corp.example/jwt/auth"),
        ({"host": "harbor.corp.example", "type": "harbor"}, "https://minio.other.example/x"),
        ({"host": "harbor.corp.example", "type": "harbor"}, "http://minio.corp.example/x"),
        ({"host": "harbor.team.svc.cluster.local", "type": "harbor"}, "https://minio.other.svc.cluster.local/x"),
        ({"host": "10.0.0.1", "type": "harbor"}, "https://10.0.0.2/x"),
        ({"host": "harbor.10.0.0.1.nip.io", "type": "harbor"}, "https://minio.10.0.0.2.nip.io/x"),
        ({"host": "harbor.10.0.0.1.traefik.me", "type": "harbor"}, "https://minio.10.0.0.2.traefik.me/x"),
        ({"host": "registry.corp.example", "trusted_hosts": ["http://minio"]}, "https://minio/x"),
    ],
)
def test_what_only_looks_like_it_is_a_stranger(fields: dict[str, object], url: str) -> None:
    entry = RegistryEntry.model_validate({"name": "r", **fields})
    assert Trust(entry).trust_of(Url.parse(url)) is HostTrust.STRANGER


@pytest.mark.parametrize(
    ("trusted", "allowed"),
    [
        (["http://storage.example.net"], True),
        (["http://*.example.net"], True),
        (["storage.example.net"], False),
        ([], False),
    ],
)
def test_storage_without_tls_is_named_with_its_scheme(trusted: list[str], *, allowed: bool) -> None:
    rules = trust(trusted_hosts=trusted)
    end = Url.parse("http://storage.example.net/x")
    assert rules.allows_hop(rules.home, end) is allowed


def test_a_realm_of_the_registrys_own_name_with_http_means_the_registry() -> None:
    rules = trust("registry.example.com:5000")
    realm = parse_realm(rules, "http://registry.example.com:5000/service/token")
    assert realm == rules.home.with_target("/service/token")
    assert parse_realm(rules, "http://auth.example.com/token").scheme == "http"


def test_docker_hub_is_asked_at_its_own_host() -> None:
    assert str(trust("docker.io").home) == "https://registry-1.docker.io/"


def test_the_registrys_own_name_with_http_means_the_registry() -> None:
    rules = trust("registry.example.com:5000")
    here = rules.home.with_target("/v2/")
    assert rules.locate(here, "http://registry.example.com/v2/u?_state=x") == rules.home.with_target("/v2/u?_state=x")
    assert rules.locate(here, "http://registry.example.com:5000/v2/u").origin == rules.home.origin
    assert rules.locate(here, "http://registry.example.com:8080/v2/u").origin != rules.home.origin
    assert rules.locate(here, "http://other.example.com/v2/u").scheme == "http"


def test_a_redirect_never_leads_from_https_to_http() -> None:
    rules = trust()
    secure, plain = Url.parse("https://a.example/"), Url.parse("http://a.example/")
    assert rules.allows_hop(secure, secure)
    assert rules.allows_hop(plain, secure)
    assert rules.allows_hop(plain, plain)
    assert not rules.allows_hop(secure, plain)


def test_a_private_token_server_in_the_registrys_domain_is_reached_once_it_was_named() -> None:
    realm, neighbour = Url.parse("https://auth.corp.example/token"), Url.parse("https://vault.corp.example/token")
    registered = trust("registry.corp.example")
    assert registered.trust_of(realm) is HostTrust.STRANGER
    assert registered.allows_realm(realm)
    assert registered.trust_of(realm) is HostTrust.KNOWN
    assert registered.trust_of(neighbour) is HostTrust.STRANGER
    assert registered.trust_of(Url.parse("https://auth.corp.example:8443/token")) is HostTrust.STRANGER
    elsewhere = Trust(RegistryEntry.unregistered(Registry("registry.corp.example")))
    assert elsewhere.allows_realm(realm)
    assert elsewhere.trust_of(realm) is HostTrust.STRANGER


def test_a_registry_names_few_token_servers_at_private_addresses() -> None:
    registered = trust("registry.corp.example")
    realms = [Url.parse(f"https://auth-{number}.corp.example/token") for number in range(20)]
    assert all(registered.allows_realm(realm) for realm in realms)
    assert sum(registered.trust_of(realm) is HostTrust.KNOWN for realm in realms) == 4
