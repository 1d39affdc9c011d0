"""A registry as it is entered here: where it is, how to log in, how much it may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.domain.reference import DOCKER_HUB, Registry, Repository, split_host_prefix
from app.domain.trigger import HookSettings

RegistryType = Literal[
    "auto",
    "docker_hub",
    "acr",
    "ecr",
    "gar",
    "ghcr",
    "gitlab",
    "harbor",
    "quay",
    "artifactory",
    "nexus",
    "zot",
    "generic",
]
DEFAULT_CONNECTIONS = 16


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(_Value):
    """How the registry's certificate is checked, and ours shown; certificates and keys are PEM texts."""

    ca: str | None = None
    client_certificate: str | None = None
    client_key: SecretStr | None = None
    verify: bool = True


class NoAuth(_Value):
    """Ask anonymously; a registry that hands out anonymous tokens is asked for one."""

    type: Literal["none"] = "none"


class BasicAuth(_Value):
    """User name and password, used directly or to fetch tokens."""

    type: Literal["basic"] = "basic"
    username: str = Field(min_length=1, max_length=1_024)
    password: SecretStr


class BearerAuth(_Value):
    """A registry token sent as it is."""

    type: Literal["bearer"] = "bearer"
    token: SecretStr


class IdentityTokenAuth(_Value):
    """An OAuth2 refresh token, exchanged for access tokens (docker calls it identity token)."""

    type: Literal["identity_token"] = "identity_token"
    username: str | None = None
    token: SecretStr


class DockerConfigAuth(_Value):
    """The entry for this host in a docker `config.json` on the worker's machine."""

    type: Literal["docker_config"] = "docker_config"
    path: str = Field(min_length=1, max_length=4_096)


Auth = Annotated[NoAuth | BasicAuth | BearerAuth | IdentityTokenAuth | DockerConfigAuth, Field(discriminator="type")]


class RegistryLimits(_Value):
    """How hard this registry may be asked, by all jobs together."""

    connections: int = Field(default=DEFAULT_CONNECTIONS, ge=1, le=256)
    requests_per_second: float | None = Field(default=None, gt=0)
    bytes_per_second: int | None = Field(default=None, ge=1)


class RegistryEntry(_Value):
    """A named registry. `host` may carry a path prefix: the entry is then for repositories below it only."""

    name: str
    host: str
    type: RegistryType = "auto"
    insecure: bool = False
    """Speak plain http."""
    tls: TlsSettings = TlsSettings()
    auth: Auth = NoAuth()
    trusted_hosts: tuple[str, ...] = ()
    """Host names, or `*.` patterns, that tokens may be fetched from and blobs redirected to beside the host itself."""
    limits: RegistryLimits = RegistryLimits()
    proxy: str | None = None
    hook: HookSettings | None = None
    """How its push events arrive here; None: they do not."""
    is_registered: bool = True
    """False for a host that nobody entered: asked anonymously, and only at public addresses."""

    @classmethod
    def unregistered(cls, registry: Registry) -> Self:
        """Stand in for a host that has no entry."""
        return cls(name=registry, host=registry, is_registered=False)

    @property
    def registry(self) -> Registry:
        """The host alone, as references name it."""
        return split_host_prefix(self.host)[0]

    @property
    def prefix(self) -> str:
        """The path prefix this entry is for; empty for the whole host."""
        return split_host_prefix(self.host)[1]

    @property
    def authority(self) -> str:
        """The host requests go to; Docker Hub's API lives on a host of its own."""
        return "registry-1.docker.io" if self.registry == DOCKER_HUB else self.registry

    @property
    def base_url(self) -> str:
        """Where the API is, without a trailing slash."""
        return f"{'http' if self.insecure else 'https'}://{self.authority}"

    def covers(self, repository: Repository) -> bool:
        """Whether this entry's host and prefix hold the repository."""
        if repository.registry != self.registry:
            return False
        return not self.prefix or repository.path == self.prefix or repository.path.startswith(f"{self.prefix}/")


CLOSED = SecretStr("(stored, and not opened here)")
"""Stands for a secret that is stored and was not opened, or was not sent since the stored one is to stay."""


@dataclass(frozen=True, slots=True)
class KeptRegistry:
    """An entry as it is stored, for those who look at it: each secret in it is `CLOSED`."""

    entry: RegistryEntry
    version: int
    created_at: datetime
    updated_at: datetime


def entry_for(entries: tuple[RegistryEntry, ...], repository: Repository) -> RegistryEntry:
    """Choose the entry with the longest matching `host[/prefix]`, or an anonymous stand-in."""
    matching = [entry for entry in entries if entry.covers(repository)]
    if not matching:
        return RegistryEntry.unregistered(repository.registry)
    return max(matching, key=lambda entry: len(entry.prefix))
