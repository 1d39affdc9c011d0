"""Hooks: how a sender of push events proves itself, and what became of each event."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from app.api.schemas.pages import PageOut
from app.api.schemas.round_trip import without_flags
from app.domain.hook_event import HookEvent, HookEventState
from app.domain.push_event import (
    MIN_URL_TOKEN_LENGTH,
    BasicProof,
    BearerProof,
    Dialect,
    GoogleProof,
    HeaderProof,
    HeaderSecret,
    HmacProof,
    HookSettings,
    UrlTokenProof,
)
from app.domain.registry import CLOSED
from app.services.push_events import Receipt

HOOK: dict[str, Any] = {
    "format": "acr",
    "auth": {"type": "header", "header": "Authorization", "secret": "a-long-random-secret"},
}
HOOK_SEEN: dict[str, Any] = {
    "format": "acr",
    "auth": {"type": "header", "header": "Authorization", "has_secret": True},
    "allowed_origins": [],
}
_EVENT_ID = "019ab2c4-d5e6-7f80-91a2-b3c4d5e6f708"
RECEIPT: dict[str, Any] = {"status": "accepted", "reason": None, "events": [_EVENT_ID]}
HOOK_EVENT: dict[str, Any] = {
    "id": _EVENT_ID,
    "registry": "old-acr",
    "format": "acr",
    "received_at": "2026-11-23T08:31:02Z",
    "status": "accepted",
    "reason": None,
    "detail": None,
    "action": "push",
    "repository": "platform/api",
    "tag": "1.42.0",
    "digest": "sha256:e25cd2645ee52a743b9bcad840273e6f31c0e3908e4eaca90229d5098bfa6df1",
    "user_agent": "docker/27.1.1",
    "event_id": "cb8c3971-9adc-488b-bdd8-43cbb4974ff5",
    "occurred_at": "2026-11-23T08:31:01.343145Z",
    "jobs": ["019ab2c4-d5ea-7b03-8d4e-5f60718293a4"],
}


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # it only says that the stored one stays


_MAY_STAY = Field(json_schema_extra=_without_default, description="The secret; never shown again.")


class HeaderProofIn(HeaderProof):
    """One fixed value in one header, compared whole; without `secret` the stored one stays."""

    secret: Annotated[HeaderSecret, _MAY_STAY] = CLOSED


class BearerProofIn(BearerProof):
    """A token after `Bearer` in `Authorization`; without `secret` the stored one stays."""

    secret: Annotated[HeaderSecret, _MAY_STAY] = CLOSED


class BasicProofIn(BasicProof):
    """User name and password; without `secret` the stored one stays."""

    secret: Annotated[SecretStr, Field(min_length=8, max_length=4_096), _MAY_STAY] = CLOSED


class HmacProofIn(HmacProof):
    """A signature of the body, as the format's sender makes it; without `secret` the stored one stays."""

    secret: Annotated[SecretStr, Field(min_length=8, max_length=4_096), _MAY_STAY] = CLOSED


class UrlTokenProofIn(UrlTokenProof):
    """A token at the end of the address, for senders that can do no better; without `secret` the stored one stays."""

    secret: Annotated[SecretStr, Field(min_length=MIN_URL_TOKEN_LENGTH, max_length=256), _MAY_STAY] = CLOSED


HookAuthIn = Annotated[
    HeaderProofIn | BearerProofIn | BasicProofIn | HmacProofIn | UrlTokenProofIn | GoogleProof,
    Field(discriminator="type"),
]


class HookIn(HookSettings):
    """How push events of this registry arrive: in which format, and proven how."""

    model_config = ConfigDict(json_schema_extra={"examples": [HOOK]})

    auth: Annotated[HookAuthIn, BeforeValidator(without_flags)]

    @property
    def settings(self) -> HookSettings:
        """The settings; a secret that was not sent is `CLOSED` in them."""
        return HookSettings.model_validate(self.model_dump())


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class HeaderProofOut(_Out):
    """One fixed value in one header."""

    type: Literal["header"]
    header: str
    has_secret: bool


class BearerProofOut(_Out):
    """A token after `Bearer`."""

    type: Literal["bearer"]
    has_secret: bool


class BasicProofOut(_Out):
    """User name and password."""

    type: Literal["basic"]
    username: str
    has_secret: bool


class HmacProofOut(_Out):
    """A signature of the body; null is the sender's usual way."""

    type: Literal["hmac"]
    header: str | None
    algorithm: Literal["sha1", "sha256", "sha512"] | None
    prefix: str | None
    encoding: Literal["hex", "base64"]
    has_secret: bool


class UrlTokenProofOut(_Out):
    """A token at the end of the address."""

    type: Literal["url_token"]
    has_secret: bool


class GoogleProofOut(_Out):
    """An OpenID token of Google's."""

    type: Literal["google"]
    audience: str
    email: str
    issuer: str


HookAuthOut = Annotated[
    HeaderProofOut | BearerProofOut | BasicProofOut | HmacProofOut | UrlTokenProofOut | GoogleProofOut,
    Field(discriminator="type"),
]


class HookOut(_Out):
    """How push events arrive, without the secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [HOOK_SEEN]})

    format: Dialect
    auth: HookAuthOut
    allowed_origins: list[str]


def shown_hook(hook: HookSettings | None) -> dict[str, Any] | None:
    """Dump what readers may see of a hook."""
    if hook is None:
        return None
    document = hook.model_dump(mode="json")
    if "secret" in document["auth"]:
        document["auth"]["has_secret"] = bool(document["auth"].pop("secret"))
    return document


class ReceiptOut(_Out):
    """What became of a delivery; `accepted` when it is stored and a policy takes what was pushed: its job follows."""

    model_config = ConfigDict(json_schema_extra={"examples": [RECEIPT]})

    status: Literal["accepted", "ignored"]
    reason: str | None = Field(description="Why nothing came of it.")
    events: list[str] = Field(description="As `/v1/hook-events` lists them, soon with their jobs.")

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """Show a receipt."""
        return cls(
            status="accepted" if receipt.is_accepted else "ignored",
            reason=receipt.reason,
            events=list(receipt.events),
        )


class HookEventOut(_Out):
    """A push event, and what became of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [HOOK_EVENT]})

    id: str
    registry: str = Field(description="The registry entry whose hook it came to.")
    format: Dialect
    received_at: datetime
    status: HookEventState
    reason: str | None = Field(description="Why nothing came of it: `no_policy`, `not_a_push`, `loop` …")
    detail: str | None
    action: str | None = Field(description="The sender's own word for what happened.")
    repository: str | None
    tag: str | None
    digest: str | None = Field(description="As the sender says; the job asks the source itself.")
    user_agent: str | None
    event_id: str | None = Field(description="The sender's own id of the event.")
    occurred_at: datetime | None
    jobs: list[str] = Field(description="The jobs that do it, one for each policy; several events may share one.")

    @classmethod
    def of(cls, event: HookEvent) -> Self:
        """Show an event."""
        fields = {name: getattr(event, name) for name in cls.model_fields if name not in {"status", "jobs"}}
        return cls(**fields, status=event.state, jobs=list(event.jobs))


class HookEventPage(PageOut[HookEventOut]):
    """Events, the newest first."""
