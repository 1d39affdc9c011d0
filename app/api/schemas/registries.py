"""Registries as operators enter and see them: secrets go in and never come out."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from cryptography.x509 import load_pem_x509_certificates
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.api.schemas.hooks import HOOK, HOOK_SEEN, HookIn, HookOut, shown_hook
from app.api.schemas.jobs import ExecutionErrorOut
from app.api.schemas.pages import PageOut
from app.domain.reference import InvalidReferenceError, Repository, split_host_prefix
from app.domain.registry import (
    Auth,
    BasicAuth,
    BearerAuth,
    DockerConfigAuth,
    IdentityTokenAuth,
    NoAuth,
    RegistryEntry,
    RegistryLimits,
    RegistryType,
    TlsSettings,
)

REGISTRY_NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
REGISTRY: dict[str, Any] = {
    "host": "old.azurecr.io",
    "auth": {"type": "basic", "username": "puller", "password": "…"},
    "trusted_hosts": ["*.blob.core.windows.net"],
    "hook": HOOK,
}
REGISTRY_SEEN: dict[str, Any] = {
    "name": "old-acr",
    "host": "old.azurecr.io",
    "type": "auto",
    "insecure": False,
    "tls": {"ca": None, "client_certificate": None, "has_client_key": False, "verify": True},
    "auth": {"type": "basic", "username": "puller", "has_password": True},
    "trusted_hosts": ["*.blob.core.windows.net"],
    "limits": {"connections": 16, "requests_per_second": None, "bytes_per_second": None},
    "proxy": None,
    "hook": HOOK_SEEN,
    "created_at": "2026-11-23T08:31:02Z",
    "updated_at": "2026-11-23T08:31:02Z",
    "version": 1,
}
_HOST_PATTERN = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:\d{1,5})?")


def _host(text: str) -> str:
    try:
        registry, prefix = split_host_prefix(text)
        if prefix:
            Repository(registry, prefix)
    except InvalidReferenceError as error:
        raise PydanticCustomError(error.code, "{reason}", {"reason": str(error)}) from error
    return f"{registry}/{prefix}" if prefix else registry


def _trusted_host(text: str) -> str:
    if not _HOST_PATTERN.fullmatch(text.lower()):
        message = "a trusted host is a name such as auth.example.com, or a pattern such as *.example.com"
        raise PydanticCustomError("invalid_host", message)
    return text.lower()


def _proxy(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "http" or not url.hostname or url.path.strip("/") or url.query or url.fragment:
        raise PydanticCustomError("invalid_proxy", "a proxy is http://host:port")
    if url.username is not None:
        message = "a proxy's URL is shown to readers, so it can't hold a password"
        raise PydanticCustomError("secret_in_url", message)
    return text.rstrip("/")


def _certificates(text: str) -> str:
    try:
        load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise PydanticCustomError("invalid_certificate", "these are no certificates in PEM form") from error
    return text


Certificates = Annotated[str, Field(max_length=262_144), AfterValidator(_certificates)]
NOT_SENT = SecretStr("")
"""A secret left out: the one kept so far stays."""


class _In(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsIn(_In):
    """How the registry's certificate is checked, and ours shown."""

    ca: Certificates | None = Field(default=None, description="Certificates (PEM) to trust beside the system's.")
    client_certificate: Certificates | None = Field(default=None, description="Ours (PEM), for registries that ask.")
    client_key: SecretStr | None = Field(default=None, description="Its key (PEM); write-only.", max_length=65_536)
    verify: bool = True


class BasicAuthIn(BasicAuth):
    """User name and password, used directly or to fetch tokens; without `password` the one kept stays."""

    password: SecretStr = Field(default=NOT_SENT, max_length=65_536)


class BearerAuthIn(BearerAuth):
    """A registry token sent as it is; without `token` the one kept stays."""

    token: SecretStr = Field(default=NOT_SENT, max_length=65_536)


class IdentityTokenAuthIn(IdentityTokenAuth):
    """An OAuth2 refresh token (docker's identity token); without `token` the one kept stays."""

    token: SecretStr = Field(default=NOT_SENT, max_length=65_536)


AuthIn = Annotated[
    NoAuth | BasicAuthIn | BearerAuthIn | IdentityTokenAuthIn | DockerConfigAuth, Field(discriminator="type")
]


class RegistryIn(_In):
    """A registry to be entered: a reference uses the entry with the longest `host[/prefix]` that fits it."""

    model_config = ConfigDict(json_schema_extra={"examples": [REGISTRY]})

    name: str | None = Field(default=None, description="As in the path, where given.")
    host: Annotated[str, AfterValidator(_host)] = Field(
        max_length=512, description="`host[:port][/prefix]`; it may be private, since an operator entered it."
    )
    type: RegistryType = Field(
        default="auto",
        description="Whose quirks to expect; `auto` goes by the host, and by where its tokens come from.",
    )
    insecure: bool = Field(default=False, description="Speak plain http.")
    tls: TlsIn = TlsIn()
    auth: AuthIn = NoAuth()
    trusted_hosts: tuple[Annotated[str, AfterValidator(_trusted_host)], ...] = Field(
        default=(), max_length=64, description="Hosts that may issue tokens or hold blobs, beside the registry's own."
    )
    limits: RegistryLimits = RegistryLimits()
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    hook: HookIn | None = Field(default=None, description="Take in this registry's push events at `/v1/hooks/{name}`.")

    def entry(self, name: str) -> RegistryEntry:
        """Return the entry; secrets that were not sent are empty in it."""
        return RegistryEntry(
            name=name,
            host=self.host,
            type=self.type,
            insecure=self.insecure,
            tls=TlsSettings(**dict(self.tls)),
            auth=_plain_auth(self.auth),
            trusted_hosts=self.trusted_hosts,
            limits=self.limits,
            proxy=self.proxy,
            hook=self.hook.settings if self.hook else None,
        )


def _plain_auth(auth: AuthIn) -> Auth:
    match auth:
        case BasicAuthIn():
            return BasicAuth(username=auth.username, password=auth.password)
        case BearerAuthIn():
            return BearerAuth(token=auth.token)
        case IdentityTokenAuthIn():
            return IdentityTokenAuth(username=auth.username, token=auth.token)
        case NoAuth() | DockerConfigAuth():
            return auth


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class TlsOut(_Out):
    """TLS settings, without the key."""

    ca: str | None
    client_certificate: str | None
    has_client_key: bool
    verify: bool


class NoAuthOut(_Out):
    """Asked anonymously."""

    type: Literal["none"]


class BasicAuthOut(_Out):
    """User name; the password stays here."""

    type: Literal["basic"]
    username: str
    has_password: bool


class BearerAuthOut(_Out):
    """A token, which stays here."""

    type: Literal["bearer"]
    has_token: bool


class IdentityTokenAuthOut(_Out):
    """A token, which stays here."""

    type: Literal["identity_token"]
    username: str | None
    has_token: bool


class DockerConfigAuthOut(_Out):
    """Where the docker configuration lies."""

    type: Literal["docker_config"]
    path: str


AuthOut = Annotated[
    NoAuthOut | BasicAuthOut | BearerAuthOut | IdentityTokenAuthOut | DockerConfigAuthOut, Field(discriminator="type")
]


class RegistryFieldsOut(_Out):
    """What is said of a registry, without its secrets."""

    name: str
    host: str
    type: RegistryType
    insecure: bool
    tls: TlsOut
    auth: AuthOut
    trusted_hosts: list[str]
    limits: RegistryLimits
    proxy: str | None
    hook: HookOut | None


class RegistryOut(RegistryFieldsOut):
    """A registry as entered, without its secrets."""

    model_config = ConfigDict(json_schema_extra={"examples": [REGISTRY_SEEN]})

    created_at: datetime
    updated_at: datetime
    version: int = Field(description="Also the `ETag`; send it as `If-Match` to change just this version.")

    @classmethod
    def of(cls, entry: RegistryEntry, *, created_at: datetime, updated_at: datetime, version: int) -> Self:
        """Show an entry."""
        return cls.model_validate(
            shown_entry(entry) | {"created_at": created_at, "updated_at": updated_at, "version": version}
        )


class RegistryPage(PageOut[RegistryOut]):
    """Registries, by name."""


def shown_entry(entry: RegistryEntry) -> dict[str, Any]:
    """Dump what readers may see of an entry."""
    document = entry.model_dump(
        mode="json", exclude={"is_registered": True, "tls": {"client_key"}, "auth": True, "hook": True}
    )
    document["tls"]["has_client_key"] = bool(entry.tls.client_key)
    return document | {"auth": _shown_auth(entry.auth), "hook": shown_hook(entry.hook)}


def _shown_auth(auth: Auth) -> dict[str, Any]:
    match auth:
        case NoAuth():
            return {"type": auth.type}
        case BasicAuth():
            return {"type": auth.type, "username": auth.username, "has_password": bool(auth.password)}
        case BearerAuth():
            return {"type": auth.type, "has_token": bool(auth.token)}
        case IdentityTokenAuth():
            return {"type": auth.type, "username": auth.username, "has_token": bool(auth.token)}
        case DockerConfigAuth():
            return {"type": auth.type, "path": auth.path}


class CheckIn(BaseModel):
    """What to try beside reaching the registry and logging in."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"repository": "mirror/check", "push": True}]}
    )

    repository: str | None = Field(
        default=None, max_length=255, description="A repository to list the tags of, and to push to."
    )
    push: bool = Field(default=False, description="Open an upload to `repository`, and take it back.")


class CheckStepOut(_Out):
    """One thing tried."""

    name: Literal["reach", "log_in", "list", "push"]
    ok: bool
    detail: str
    error: ExecutionErrorOut | None


class CheckOut(_Out):
    """What works; it ends with the first step that doesn't."""

    ok: bool
    steps: list[CheckStepOut]
