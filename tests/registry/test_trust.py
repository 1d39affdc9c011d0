"""Who belongs to a registry, and who may see its credentials."""

import pytest

from app.domain.registry import RegistryEntry
from app.registry.trust import Standing, Trust
from app.registry.url import Url


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
    ],
)
def test_other_token_servers_are_not(host: str, realm: str, fields: dict[str, object]) -> None:
    assert not trust(host, **fields).allows_realm(Url.parse(realm))


@pytest.mark.parametrize(
    ("url", "standing"),
    [
        ("https://registry.example.com/v2/", Standing.HOME),
        ("https://registry.example.com:443/v2/", Standing.HOME),
        ("https://registry.example.com:444/v2/", Standing.KNOWN),
        ("http://registry.example.com/v2/", Standing.KNOWN),
        ("https://blobs.cdn.net/x", Standing.KNOWN),
        ("https://registry.example.com.evil.net/", Standing.STRANGER),
        ("https://auth.example.com/", Standing.STRANGER),
    ],
)
def test_credentials_belong_to_scheme_host_and_port_together(url: str, standing: Standing) -> None:
    assert trust(trusted_hosts=["*.cdn.net"]).standing(Url.parse(url)) is standing


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
