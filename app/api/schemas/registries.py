"""Registry entries as operators write and read them: secrets are write-only."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from cryptography.x509 import load_pem_x509_certificates
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.api.schemas.hooks import HOOK, HOOK_SEEN, HookIn, HookOut, shown_hook
from app.api.schemas.jobs import ExecutionErrorOut
from app.api.schemas.pages import PageOut
from app.api.schemas.registry_auth import AuthIn, plain_auth
from app.api.schemas.registry_states import REGISTRY_STATE, RegistryStateOut
from app.api.schemas.round_trip import RoundTripIn, without_flags
from app.api.schemas.shown_auth import AuthOut, shown_auth
from app.domain.reference import InvalidReferenceError, Repository, refuse_foreign_notation, split_host_prefix
from app.domain.registry import (
    NoAuth,
    RegistryEntry,
    RegistryLimits,
    RegistryType,
    RepositoryTemplate,
    StoredRegistry,
    TlsSettings,
)
from app.domain.registry_state import RegistryState

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
    "create_missing": None,
    "login_expires_at": "2027-06-30T00:00:00Z",
    "hook": HOOK_SEEN,
    "state": REGISTRY_STATE,
    "created_at": "2026-11-23T08:31:02Z",
    "updated_at": "2026-11-23T08:31:02Z",
    "version": 1,
}
_HOST_PATTERN = re.compile(
    r"(https?://)?(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:\d{1,5})?"
)


def _host(text: str) -> str:
    try:
        refuse_foreign_notation(text, may_have_digest=False)
        registry, prefix = split_host_prefix(text)
        if prefix:
            Repository(registry, prefix)
    except InvalidReferenceError as error:
        raise PydanticCustomError(error.code, "{reason}", {"reason": str(error)}) from error
    return f"{registry}/{prefix}" if prefix else registry


def _trusted_host(text: str) -> str:
    if not _HOST_PATTERN.fullmatch(text.lower()):
        message = (
            "a trusted host is a name such as auth.example.com, or a pattern such as *.example.com; with http:// "
            "before it for storage without TLS"
        )
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


def _template(wanted: object) -> RepositoryTemplate | None:
    """Return what `true` stands for, repositories that are made with nothing special; `false` is none at all."""
    if isinstance(wanted, RepositoryTemplate):
        return wanted
    return RepositoryTemplate() if wanted else None


def _certificates(text: str) -> str:
    try:
        load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise PydanticCustomError("invalid_certificate", "these are no certificates in PEM form") from error
    return text


Certificates = Annotated[str, Field(max_length=262_144), AfterValidator(_certificates)]


class _In(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsIn(_In):
    """How the registry's certificate is checked, and a client certificate shown."""

    ca: Certificates | None = Field(default=None, description="Certificates (PEM) to trust beside the system's.")
    client_certificate: Certificates | None = Field(
        default=None, description="The client certificate (PEM), for registries that ask for one."
    )
    client_key: SecretStr | None = Field(default=None, description="Its key (PEM); write-only.", max_length=65_536)
    verify: bool = True


class RegistryIn(RoundTripIn, _In):
    """A registry to be entered: a reference uses the entry with the longest `host[/prefix]` that fits it."""

    SHOWN_ONLY = frozenset({"state", "created_at", "updated_at"})

    model_config = ConfigDict(json_schema_extra={"examples": [REGISTRY]})

    name: str | None = Field(default=None, description="The name in the path; may be left out.")
    host: Annotated[str, AfterValidator(_host)] = Field(
        max_length=512, description="`host[:port][/prefix]`; it may be private, since an operator entered it."
    )
    type: RegistryType = Field(
        default="auto",
        description="Whose quirks to expect; `auto` goes by the host, and by where its tokens come from.",
    )
    insecure: bool = Field(default=False, description="Speak plain http.")
    tls: Annotated[TlsIn, BeforeValidator(without_flags)] = Field(default_factory=TlsIn)
    auth: Annotated[AuthIn, BeforeValidator(without_flags)] = Field(default_factory=NoAuth)
    trusted_hosts: tuple[Annotated[str, AfterValidator(_trusted_host)], ...] = Field(
        default=(),
        max_length=64,
        description="Hosts that may issue tokens, hold blobs, and have private addresses, beside the registry's own; "
        "`http://host` for storage that is reached without TLS. Storage never gets credentials.",
    )
    limits: RegistryLimits = RegistryLimits()
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    create_missing: Annotated[RepositoryTemplate | bool | None, AfterValidator(_template)] = Field(
        default=None,
        description="Make repositories that a copy finds missing here: `true`, or what they are to be like.",
    )
    login_expires_at: AwareDatetime | None = Field(
        default=None,
        description="When the password, token or key in `auth` ends, where it does: the console counts the days, a "
        "metric has it, an alert comes a week before. What a cloud's identity is given is renewed without it.",
    )
    hook: HookIn | None = Field(default=None, description="Take in this registry's push events at `/v1/hooks/{name}`.")

    def entry(self, name: str) -> RegistryEntry:
        """Return the entry; secrets that were not sent are empty in it."""
        return RegistryEntry(
            name=name,
            host=self.host,
            type=self.type,
            insecure=self.insecure,
            tls=TlsSettings(**dict(self.tls)),
            auth=plain_auth(self.auth),
            trusted_hosts=self.trusted_hosts,
            limits=self.limits,
            proxy=self.proxy,
            create_missing=_template(self.create_missing),
            login_expires_at=self.login_expires_at,
            hook=self.hook.settings if self.hook else None,
        )


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class TlsOut(_Out):
    """TLS settings, without the key."""

    ca: str | None
    client_certificate: str | None
    has_client_key: bool
    verify: bool


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
    create_missing: RepositoryTemplate | None
    login_expires_at: datetime | None = Field(default=None, description="When what was entered in `auth` ends.")
    hook: HookOut | None


class RegistryOut(RegistryFieldsOut):
    """A registry as entered, without its secrets."""

    model_config = ConfigDict(json_schema_extra={"examples": [REGISTRY_SEEN]})

    state: RegistryStateOut | None = Field(description="Null where no worker asked it anything lately.")
    created_at: datetime
    updated_at: datetime
    version: int = Field(description="The `ETag` begins with it; send it as `If-Match` to change just this version.")

    @classmethod
    def of(cls, stored: StoredRegistry, state: RegistryState | None) -> Self:
        """Show an entry, and how the workers stand with it."""
        shown = shown_entry(stored.entry) | {"state": None if state is None else RegistryStateOut.model_validate(state)}
        moments = {"created_at": stored.created_at, "updated_at": stored.updated_at}
        return cls.model_validate(shown | moments | {"version": stored.version})


class RegistryPage(PageOut[RegistryOut]):
    """Registries, by name."""


def shown_entry(entry: RegistryEntry) -> dict[str, Any]:
    """Dump what readers may see of an entry."""
    document = entry.model_dump(
        mode="json", exclude={"is_registered": True, "tls": {"client_key"}, "auth": True, "hook": True}
    )
    document["tls"]["has_client_key"] = bool(entry.tls.client_key)
    return document | {"auth": shown_auth(entry.auth), "hook": shown_hook(entry.hook)}


class CheckIn(BaseModel):
    """What to try beside reaching the registry and logging in."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"repository": "mirror/check", "push": True}]}
    )

    repository: str | None = Field(
        default=None, max_length=255, description="A repository to list the tags of, to read from, and to push to."
    )
    namespace: str | None = Field(
        default=None, max_length=255, description="Instead of a repository: what to list, and read the first of."
    )
    push: bool = Field(default=False, description="Open an upload to `repository`, and take it back.")


class CheckStepOut(_Out):
    """One thing tried."""

    name: Literal["reach", "log_in", "list", "read", "push"]
    ok: bool
    detail: str
    error: ExecutionErrorOut | None
    is_needed: bool = Field(
        description="False for a list of all repositories that this login may not have: it copies what rules name."
    )


class PermissionOut(_Out):
    """Whether the login may do something."""

    allowed: bool | None = Field(description="Null where it can't be said without doing it, or was not got to.")
    detail: str


class PermissionsOut(_Out):
    """What the login may do: by what was tried, else by what its token allows, else by an API that says so."""

    list: PermissionOut
    pull: PermissionOut
    push: PermissionOut
    create: PermissionOut = Field(
        description="What is missing, a repository or what it lies in; nothing is made to see."
    )


class CheckOut(_Out):
    """What works along the way a copy goes; nothing is tried beyond a registry that is not reached or logged in to."""

    ok: bool
    steps: list[CheckStepOut]
    identity: str | None = Field(
        description="Who the registry takes the login for, else the name that logs in; null for an anonymous caller."
    )
    valid_until: datetime | None = Field(
        description="When the login ends: what an identity was given, or `login_expires_at` if earlier."
    )
    may: PermissionsOut | None = Field(description="Null where nothing further was tried.")
