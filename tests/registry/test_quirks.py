"""Whose a registry is: by the type it was entered with, by its host, by where its tokens come from."""

import re
from pathlib import Path
from typing import get_args

import pytest

from app.domain.registry import RegistryEntry, RegistryType
from app.registry.http.message import Url
from app.registry.limits import MIB
from app.registry.quirks import UploadStrategy, quirks_of, quirks_of_token_server

DOCUMENTS = Path(__file__).parents[2] / "docs" / "registries"


def of(host: str, type: RegistryType = "auto") -> RegistryEntry:  # noqa: A002 — the contract's word
    return RegistryEntry(name="r", host=host, type=type)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("docker.io", "docker_hub"),
        ("index.docker.io", "docker_hub"),
        ("docker.io/library", "docker_hub"),
        ("old.azurecr.io", "acr"),
        ("old.azurecr.cn", "acr"),
        ("old-abc123d4e5.azurecr.io", "acr"),
        ("old.westeurope.geo.azurecr.io", "acr"),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "ecr"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr"),
        ("europe-west1-docker.pkg.dev", "gar"),
        ("ghcr.io", "ghcr"),
        ("registry.gitlab.com", "gitlab"),
        ("quay.io", "quay"),
    ],
)
def test_a_host_that_is_nobody_elses_is_known(host: str, kind: RegistryType) -> None:
    assert quirks_of(of(host)) == quirks_of(of("registry.example.com", kind))


@pytest.mark.parametrize(
    "host",
    [
        "registry.example.com",
        "azurecr.io",
        "old.azurecr.io.example.com",
        "notghcr.io",
        "quay.io.example.com",
        "a.b.azurecr.io",
        "quay.io:8443",
        "eu.gcr.io.example.com",
    ],
)
def test_a_host_that_only_looks_like_one_is_not(host: str) -> None:
    assert not quirks_of(of(host)).is_known


def test_the_type_that_was_entered_counts_more_than_the_host() -> None:
    assert quirks_of(of("ghcr.io", "harbor")).lists_by == "harbor"
    assert all(quirks_of(of("a.example.com", kind)).is_known for kind in get_args(RegistryType) if kind != "auto")


@pytest.mark.parametrize("host", ["gcr.io", "eu.gcr.io"])
def test_googles_older_hosts_make_their_repositories_with_the_first_push(host: str) -> None:
    old, new = quirks_of(of(host)), quirks_of(of("europe-docker.pkg.dev"))
    assert (old.creates_by, old.lists_by, new.creates_by, new.lists_by) == ("first_push", "catalog", "google", "google")
    assert (old.takes_chunks, old.digests_by) == (new.takes_chunks, new.digests_by)


def test_amazons_registries_list_by_its_apis_and_take_no_chunks() -> None:
    public, private = (quirks_of(of(host)) for host in ("public.ecr.aws", "1.dkr.ecr.eu-west-1.amazonaws.com"))
    assert (public.lists_by, public.takes_chunks) == ("ecr_public", False)
    assert (private.lists_by, private.takes_chunks) == ("ecr", False)


def test_every_type_has_a_row_and_a_page() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\|$", (DOCUMENTS / "README.md").read_text(), re.MULTILINE)
    documented = [name for name in rows if name in get_args(RegistryType)]
    assert sorted(documented) == sorted(set(get_args(RegistryType)) - {"auto"})
    for name in documented:
        page = DOCUMENTS / f"{'distribution' if name == 'generic' else name.replace('_', '-')}.md"
        assert f"Type `{name}`" in " ".join(page.read_text().split()), page


@pytest.mark.parametrize(
    ("kind", "chunk_bytes", "refuses"),
    [("generic", 32 * MIB, False), ("ghcr", 4 * MIB, False), ("ecr", 32 * MIB, True), ("gar", 32 * MIB, True)],
)
def test_uploads_begin_with_what_is_known(kind: RegistryType, chunk_bytes: int, *, refuses: bool) -> None:
    strategy = UploadStrategy.of(of("registry.example.com", kind), 32 * MIB)
    assert (strategy.chunk_bytes, strategy.refuses_chunks) == (chunk_bytes, refuses)


@pytest.mark.parametrize(
    ("realm", "service"),
    [
        ("https://harbor.example.com/service/token", "other"),
        ("https://gitlab.example.com/jwt/auth", "other"),
        ("https://quay.example.com/v2/auth", "elsewhere.example.com"),
        ("https://auth.example.com/token", "harbor-registry"),
    ],
)
def test_half_a_likeness_is_none(realm: str, service: str) -> None:
    assert quirks_of_token_server(Url.parse(realm), service) is None
