"""What makes a job without a caller: policies with their schedules, and push events that registries send.

How a registry's hook is spoken (`HookSettings`) and proven (`HookAuth`) is configured here too; the checking itself is
`app.hooks.inbound`'s.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from app.domain.reference import Digest, Registry, Tag
from app.domain.request import MAX_RULES, Labels, Options, Rule, SyncRequest

MAX_JITTER_SECONDS = 24 * 60 * 60
"""A day: more would be another schedule."""
MIN_URL_TOKEN_LENGTH = 22
"""128 bits in base64url: the address is all that proves such a sender."""
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


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
class Delivery:
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


class HeaderProof(_Value):
    """The sender puts one fixed value in one header; compared whole, so `Bearer x` is written as `Bearer x`."""

    type: Literal["header"] = "header"
    header: HeaderName = "Authorization"
    secret: HeaderSecret


class BearerProof(_Value):
    """The sender puts a token after `Bearer` in `Authorization`."""

    type: Literal["bearer"] = "bearer"
    secret: HeaderSecret


class BasicProof(_Value):
    """The sender logs in with a user name and a password (RFC 7617)."""

    type: Literal["basic"] = "basic"
    username: str = Field(min_length=1, max_length=1_024, pattern=r"^[^:]*$")
    secret: SecretStr = Field(min_length=8, max_length=4_096)


class HmacProof(_Value):
    """The sender signs the body; what is left out is as the hook's format documents it."""

    type: Literal["hmac"] = "hmac"
    secret: SecretStr = Field(min_length=8, max_length=4_096)
    header: HeaderName | None = None
    algorithm: Literal["sha1", "sha256", "sha512"] | None = None
    prefix: str | None = Field(default=None, max_length=32)
    encoding: Literal["hex", "base64"] = "hex"


class UrlTokenProof(_Value):
    """The sender can prove nothing, so the address it was given is the secret."""

    type: Literal["url_token"] = "url_token"
    secret: SecretStr = Field(min_length=MIN_URL_TOKEN_LENGTH, max_length=256)


class GoogleProof(_Value):
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


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:  # by zoneinfo: unknown name, name of a folder, no name at all
        code, message = "invalid_timezone", "{name} is no time zone of the IANA database, such as Europe/Berlin"
        raise PydanticCustomError(code, message, {"name": name}) from error
    return name


def _cron_line(text: str) -> str:
    try:
        if len(text.split()) != 5:  # noqa: PLR2004 — minute, hour, day, month, weekday
            raise _invalid_cron("it has not five fields")
        next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise _invalid_cron(str(error)) from error
    except StopIteration as error:
        raise _invalid_cron("there is no such day") from error
    return text


def _invalid_cron(reason: str) -> PydanticCustomError:
    code, message = "invalid_cron", "not a cron line (minute hour day month weekday): {reason}"
    return PydanticCustomError(code, message, {"reason": reason})


def parse_duration(text: str) -> int:
    """Read `30s`, `5m`, `1h` or `2d` as seconds; raise `ValueError`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        message = f"{text[:40]!r} is not a duration such as 30s, 5m or 1h"
        raise ValueError(message)
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _jitter(text: str) -> str:
    if parse_duration(text) > MAX_JITTER_SECONDS:
        message = "a jitter is at most a day"
        raise ValueError(message)
    return text


class Schedule(_Value):
    """When a policy runs by itself."""

    cron: Annotated[str, Field(max_length=256), AfterValidator(_cron_line)]
    timezone: Annotated[str, Field(max_length=64), AfterValidator(_known_timezone)] = "UTC"
    jitter: Annotated[str, AfterValidator(_jitter)] = "0s"
    """Up to this much later, the same for every process that asks: so that not all policies start at once."""
    catch_up: Literal["once", "skip"] = "once"
    """What becomes of runs that came due while no worker was there: one run for all of them, or none."""

    def next_after(self, moment: datetime, *, name: str) -> datetime:
        """Find the first run later than `moment`, in UTC; `name` (the policy's) decides its share of the jitter.

        The jitter is the same for all runs of a policy, so runs keep their order and their distance.
        """
        shift = timedelta(seconds=self._shift(name))
        local = (moment - shift).astimezone(ZoneInfo(self.timezone))
        return next(CronSim(self.cron, local)).astimezone(UTC) + shift

    def _shift(self, name: str) -> int:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return number % (parse_duration(self.jitter) + 1)


PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]


class Policy(_Value):
    """A sync that stands: what to copy, when by itself, and whether pushes set it off."""

    name: PolicyName
    enabled: bool = True
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=MAX_RULES)
    options: Options = Options()
    schedule: Schedule | None = None
    on_push: bool = False
    labels: Labels = Field(default_factory=dict)

    @property
    def request(self) -> SyncRequest:
        """What one whole run asks for."""
        return SyncRequest(rules=self.rules, options=self.options)

    @model_validator(mode="after")
    def _is_a_request(self) -> Self:
        SyncRequest(rules=self.rules, options=self.options)
        return self
