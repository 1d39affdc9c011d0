"""A registry entry: where it is, how to log in, its limits; and which entry a reference uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.domain.push_event import HookSettings
from app.domain.reference import DOCKER_HUB, Registry, Repository, split_host_prefix
from app.domain.registry_logins import AlibabaAuth, GithubAppAuth, OidcAuth, TencentAuth
from app.domain.tagged_value import TaggedValue

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
    """How the registry's certificate is checked, and a client certificate shown; all are PEM texts."""

    ca: str | None = None
    client_certificate: str | None = None
    client_key: SecretStr | None = None
    verify: bool = True


class NoAuth(TaggedValue):
    """Ask anonymously; a registry that hands out anonymous tokens is asked for one."""

    type: Literal["none"] = "none"


class BasicAuth(TaggedValue):
    """User name and password, used directly or to fetch tokens."""

    type: Literal["basic"] = "basic"
    username: str = Field(min_length=1, max_length=1_024)
    password: SecretStr


class BearerAuth(TaggedValue):
    """A registry token sent as it is."""

    type: Literal["bearer"] = "bearer"
    token: SecretStr


class IdentityTokenAuth(TaggedValue):
    """An OAuth2 refresh token, exchanged for access tokens (docker calls it identity token)."""

    type: Literal["identity_token"] = "identity_token"
    username: str | None = None
    token: SecretStr


class DockerConfigAuth(TaggedValue):
    """The entry for this host in a docker `config.json` on the worker's machine."""

    type: Literal["docker_config"] = "docker_config"
    path: str = Field(min_length=1, max_length=4_096)


_ECR_HOST = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_REGION = r"^[a-z]{2,}(-[a-z]+)+-\d+$"


class AwsAuth(TaggedValue):
    """An identity of AWS, which ECR's passwords are asked for with before the last one ends.

    Without an access key it is the identity of the worker's machine: botocore's default chain (environment, shared
    files, web identity, container, instance), or a profile of its shared files.
    """

    type: Literal["aws"] = "aws"
    access_key_id: str | None = Field(default=None, min_length=16, max_length=128, pattern=r"^[A-Z0-9]+$")
    secret_access_key: SecretStr | None = None
    profile: str | None = Field(default=None, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\[\]]+$")
    """A profile of the worker's AWS configuration; not beside an access key."""
    role_arn: str | None = Field(
        default=None, max_length=640, pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[A-Za-z0-9_+=,.@/-]+$"
    )
    external_id: str | None = Field(default=None, min_length=2, max_length=1224, pattern=r"^[A-Za-z0-9_+=,.@:/-]+$")
    region: str | None = Field(default=None, pattern=_REGION)
    """None where the host says it."""


class AzureAuth(TaggedValue):
    """An identity of Azure, which ACR's refresh tokens are asked for with before the last one ends.

    With `tenant_id` it is a service principal (an app registration); without, the identity of the worker's machine:
    workload identity, environment, or managed identity.
    """

    type: Literal["azure"] = "azure"
    tenant_id: str | None = Field(default=None, max_length=253, pattern=r"^[0-9A-Za-z]+([.-][0-9A-Za-z]+)*$")
    client_id: str | None = Field(default=None, pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")
    """The application's id; without `tenant_id`, which of the machine's identities (user-assigned) is meant."""
    client_secret: SecretStr | None = None
    client_certificate: SecretStr | None = None
    """Certificate and private key (RSA), as one PEM text."""


class GoogleAuth(TaggedValue):
    """An identity of Google, which access tokens are asked for with before the last one ends.

    With `service_account` it is that account's key; without, the identity of the worker's machine: the file that
    `GOOGLE_APPLICATION_CREDENTIALS` names, or the attached service account.
    """

    type: Literal["google"] = "google"
    service_account: str | None = Field(default=None, max_length=320, pattern=r"^[a-z0-9.-]+@[a-z0-9.-]+$")
    """The account's e-mail address, as its key says it."""
    service_account_key: SecretStr | None = None
    """The key file, JSON."""


Auth = Annotated[
    NoAuth
    | BasicAuth
    | BearerAuth
    | IdentityTokenAuth
    | DockerConfigAuth
    | AwsAuth
    | AzureAuth
    | GoogleAuth
    | OidcAuth
    | GithubAppAuth
    | AlibabaAuth
    | TencentAuth,
    Field(discriminator="type"),
]


ECR_PUBLIC = "public.ecr.aws"
"""Amazon's public registry: its passwords and repositories are asked for in one region."""
_ECR_PUBLIC_REGION = "us-east-1"


def ecr_region(registry: str) -> str | None:
    """Return the region that a registry of ECR is asked in, as its host says; None for any other host."""
    if registry == ECR_PUBLIC:
        return _ECR_PUBLIC_REGION
    found = _ECR_HOST.fullmatch(registry)
    return found[1] if found else None


class RegistryLimits(_Value):
    """How hard this registry may be asked, by all jobs together."""

    connections: int = Field(default=DEFAULT_CONNECTIONS, ge=1, le=256)
    requests_per_second: float | None = Field(default=None, gt=0)
    bytes_per_second: int | None = Field(default=None, ge=1)


class RepositoryTemplate(_Value):
    """What a repository, or the project it is in, is made like where a copy finds it missing.

    Registries know some of it each; what one does not know is refused at its entry.
    """

    public: bool = False
    description: str = Field(default="", max_length=1_024)
    scan_on_push: bool = False
    immutable_tags: bool = False
    encryption_key: str | None = Field(default=None, min_length=1, max_length=2_048)
    """The id, alias or ARN of a key in the cloud's key store."""
    quota_bytes: int | None = Field(default=None, ge=1, le=2**62)
    tags: tuple[Annotated[str, Field(max_length=385, pattern=r"^[^=]{1,128}=.{0,256}$")], ...] = Field(
        default=(), max_length=50
    )
    """Labels of the cloud's for the repository, each as `name=value`."""
    lifecycle: str | None = Field(default=None, min_length=2, max_length=30_720)
    """What is deleted when, in the registry's own words (JSON)."""

    @property
    def labels(self) -> dict[str, str]:
        """Its tags by name."""
        return dict(tag.split("=", 1) for tag in self.tags)

    @property
    def given(self) -> frozenset[str]:
        """The settings that are not as they are by default."""
        return frozenset(name for name in type(self).model_fields if getattr(self, name) != type(self)().__dict__[name])


class RegistryEntry(_Value):
    """A named registry. `host` may carry a path prefix for the repositories below it; the longest prefix wins."""

    name: str
    host: str
    type: RegistryType = "auto"
    insecure: bool = False
    """Speak plain http."""
    tls: TlsSettings = TlsSettings()
    auth: Auth = NoAuth()
    trusted_hosts: tuple[str, ...] = ()
    """Host names, or `*.` patterns, that tokens may be fetched from and blobs redirected to beside the host itself,
    also at private addresses; with `http://` before it, blobs may be redirected there from https."""
    limits: RegistryLimits = RegistryLimits()
    proxy: str | None = None
    create_missing: RepositoryTemplate | None = None
    """What to make repositories like that are missing at a destination; None: they are not made."""
    hook: HookSettings | None = None
    """How its push events arrive here; None: they do not."""
    login_expires_at: datetime | None = None
    """When the password, token or key ends that was entered; None: not known, or it does not."""
    is_registered: bool = True
    """False for a host without an entry: asked anonymously, and only at public addresses."""
    is_readable: bool = Field(default=True, exclude=True)
    """False where a secret of a stored entry can't be opened: then it has none of them, and is asked nothing."""

    is_admitted: bool = Field(default=True, exclude=True)
    """False for a host without an entry that may not be reached (`UNREGISTERED_HOSTS`): it is asked nothing."""

    @classmethod
    def unregistered(cls, registry: Registry) -> Self:
        """Stand in for a host that has no entry."""
        return cls(name=registry, host=registry, is_registered=False)

    @property
    def label(self) -> str:
        """What metrics call it: never a host without an entry, of which a caller could name new ones without end."""
        return self.name if self.is_registered else "(not registered)"

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
class StoredRegistry:
    """An entry as it is stored, for those who look at it: each secret in it is `CLOSED`."""

    entry: RegistryEntry
    version: int
    created_at: datetime
    updated_at: datetime


def entry_for(entries: tuple[RegistryEntry, ...], repository: Repository) -> RegistryEntry:
    """Return the entry with the longest matching prefix (`host[/prefix]`), or an anonymous stand-in."""
    matching = [entry for entry in entries if entry.covers(repository)]
    if not matching:
        return RegistryEntry.unregistered(repository.registry)
    return max(matching, key=lambda entry: len(entry.prefix))
