"""Push events that registries send to hooks: their formats, what one says, and how a hook is spoken and proven.

`HookSettings` and `HookAuth` are configuration; the checking itself is in `app.webhooks.inbound`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.domain.reference import Digest, Registry, Tag
from app.domain.tagged_value import TaggedValue

MIN_URL_TOKEN_LENGTH = 22
"""128 bits in base64url: the address is all that proves such a sender."""


class Dialect(StrEnum):
    """The formats push events arrive in, each named after its sender."""

    DISTRIBUTION = "distribution"
    HARBOR = "harbor"
    DOCKER_HUB = "docker_hub"
    ACR = "acr"
    ECR = "ecr"
    GHCR = "ghcr"
    GAR = "gar"
    QUAY = "quay"
    GITLAB = "gitlab"
    GITEA = "gitea"
    ARTIFACTORY = "artifactory"
    NEXUS = "nexus"
    ALIBABA = "alibaba"
    TENCENT = "tencent"
    CLOUDEVENTS = "cloudevents"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class PushEvent:
    """A manifest was pushed, says the sender: a hint what to look at, never a fact to act on.

    `host` is how the sender calls its registry, often an inner name: the registry a hook belongs to decides, not this.
    At least one of `tag` and `digest` is set.
    """

    dialect: Dialect
    repository: str
    tag: Tag | None = None
    digest: Digest | None = None
    host: Registry | None = None
    action: str = "push"
    """The sender's own word for what happened."""
    event_id: str | None = None
    occurred_at: datetime | None = None
    user_agent: str | None = None
    """The program that pushed, where the sender says so."""

    @property
    def dedupe_key(self) -> str | None:
        """What is the same for each delivery of this event; None where the sender gives nothing to know it by.

        Repository, tag and digest alone do not do: a tag may be moved away and back within a minute.
        """
        moment = self.occurred_at.isoformat() if self.occurred_at else None
        if not (self.event_id or moment):
            return None
        parts = (self.dialect, self.event_id or moment, self.repository, self.tag, self.digest)
        return hashlib.sha256("\n".join(part or "" for part in parts).encode()).hexdigest()


IgnoredReason = Literal[
    "not_a_push",
    "not_a_manifest",
    "failed_push",
    "test",
    "confirmation",
    "incomplete",
    "invalid_name",
]
"""`confirmation`: the sender wants an address visited to confirm it; none ever is. `incomplete`: names no image."""


@dataclass(frozen=True, slots=True)
class IgnoredEvent:
    """Something in a delivery that is no push of a manifest, and why."""

    reason: IgnoredReason
    detail: str


@dataclass(frozen=True, slots=True)
class HookDelivery:
    """What one delivery of a sender says: the pushes in it, and what else was in it."""

    events: tuple[PushEvent, ...] = ()
    ignored: tuple[IgnoredEvent, ...] = ()


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _header_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", text):
        code, message = "invalid_header", "not the name of an HTTP header"
        raise PydanticCustomError(code, message)
    return text


def _header_secret(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x20-\x7e]+", secret.get_secret_value()):
        code, message = "invalid_secret", "a header's value has printable ASCII characters only"
        raise PydanticCustomError(code, message)
    return secret


HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderSecret = Annotated[SecretStr, Field(min_length=8, max_length=4_096), AfterValidator(_header_secret)]


class HeaderProof(TaggedValue):
    """The sender puts one fixed value in one header; compared whole, so `Bearer x` is written as `Bearer x`."""

    type: Literal["header"] = "header"
    header: HeaderName = "Authorization"
    secret: HeaderSecret


class BearerProof(TaggedValue):
    """The sender puts a token after `Bearer` in `Authorization`."""

    type: Literal["bearer"] = "bearer"
    secret: HeaderSecret


class BasicProof(TaggedValue):
    """The sender logs in with a user name and a password (RFC 7617)."""

    type: Literal["basic"] = "basic"
    username: str = Field(min_length=1, max_length=1_024, pattern=r"^[^:]*$")
    secret: SecretStr = Field(min_length=8, max_length=4_096)


class HmacProof(TaggedValue):
    """The sender signs the body; what is left out is as the hook's format documents it."""

    type: Literal["hmac"] = "hmac"
    secret: SecretStr = Field(min_length=8, max_length=4_096)
    header: HeaderName | None = None
    algorithm: Literal["sha1", "sha256", "sha512"] | None = None
    prefix: str | None = Field(default=None, max_length=32)
    encoding: Literal["hex", "base64"] = "hex"


class UrlTokenProof(TaggedValue):
    """The sender can prove nothing, so the address it was given is the secret."""

    type: Literal["url_token"] = "url_token"
    secret: SecretStr = Field(min_length=MIN_URL_TOKEN_LENGTH, max_length=256)


class GoogleProof(TaggedValue):
    """Pub/Sub sends an OpenID token of Google's for one service account (push authentication)."""

    type: Literal["google"] = "google"
    audience: str = Field(min_length=1, max_length=1_024)
    email: str = Field(min_length=3, max_length=320)
    issuer: str = Field(default="https://accounts.google.com", pattern=r"^https?://[^/?#\s@]+(/[^?#\s]*)?$")


HookAuth = Annotated[
    HeaderProof | BearerProof | BasicProof | HmacProof | UrlTokenProof | GoogleProof, Field(discriminator="type")
]


class HookSettings(_Value):
    """How a registry's push events arrive: in which format, and proven how."""

    format: Dialect
    auth: HookAuth
    allowed_origins: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = Field(default=(), max_length=16)
    """Origins that may ask by OPTIONS whether they may send (CloudEvents web hooks, "Abuse Protection")."""
