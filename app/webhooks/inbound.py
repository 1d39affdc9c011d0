"""Verifies who sent a delivery (webhook secret, HMAC signature, token), on its raw bytes and in constant time.

Whatever is wrong with a proof is answered with one and the same error, so that a sender doesn't learn which hooks exist
or how near a guess was. Nothing here waits or asks another host: Google's keys are handed in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from pydantic import SecretStr

from app.domain.errors import HookError
from app.domain.push_event import (
    BasicProof,
    BearerProof,
    Dialect,
    GoogleProof,
    HeaderProof,
    HmacProof,
    HookDelivery,
    HookSettings,
    UrlTokenProof,
)
from app.webhooks.dialects import (
    acr,
    alibaba,
    artifactory,
    cloudevents,
    distribution,
    docker_hub,
    ecr,
    gar,
    generic,
    ghcr,
    gitea,
    gitlab,
    harbor,
    nexus,
    quay,
    tencent,
)
from app.webhooks.google_tokens import SigningKey, check_google_token
from app.webhooks.payload import load_objects

Parser = Callable[[bytes, Mapping[str, str]], HookDelivery]

DIALECTS: Mapping[Dialect, Parser] = {
    Dialect.DISTRIBUTION: distribution.parse,
    Dialect.HARBOR: harbor.parse,
    Dialect.DOCKER_HUB: docker_hub.parse,
    Dialect.ACR: acr.parse,
    Dialect.ECR: ecr.parse,
    Dialect.GHCR: ghcr.parse,
    Dialect.GAR: gar.parse,
    Dialect.QUAY: quay.parse,
    Dialect.GITLAB: gitlab.parse,
    Dialect.GITEA: gitea.parse,
    Dialect.ARTIFACTORY: artifactory.parse,
    Dialect.NEXUS: nexus.parse,
    Dialect.ALIBABA: alibaba.parse,
    Dialect.TENCENT: tencent.parse,
    Dialect.CLOUDEVENTS: cloudevents.parse,
    Dialect.GENERIC: generic.parse,
}


@dataclass(frozen=True, slots=True)
class RawDelivery:
    """A delivery as it came in: the bytes that were sent, header names in lower case, the token in the address."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    token: str = field(default="", repr=False)


_SIGNATURES: Mapping[Dialect, tuple[str, str]] = {
    Dialect.ARTIFACTORY: ("x-jfrog-event-auth", "sha256"),  # with "use secret for payload signing"
    Dialect.NEXUS: ("x-nexus-webhook-signature", "sha1"),
}
_USUAL_SIGNATURE = ("x-hub-signature-256", "sha256")
"""GitHub's, and Gitea's beside its own; what everybody else takes over."""


def read(hook: HookSettings, delivery: RawDelivery) -> HookDelivery:
    """Read a delivery in its hook's format; raise `HookError` where it is not in that format."""
    return DIALECTS[hook.format](delivery.body, delivery.headers)


def verify(
    hook: HookSettings, delivery: RawDelivery, *, now: datetime, google_keys: Mapping[str, SigningKey] | None = None
) -> None:
    """Raise `HookError` unless the delivery proves what its hook asks for."""
    if not _is_proven(hook, delivery, now=now, google_keys=google_keys or {}):
        raise rejected()


def rejected() -> HookError:
    """Make the one error for a missing or wrong proof, and for a hook that does not exist."""
    return HookError("there is no such hook, or its secret is missing or wrong", code="hook_rejected")


def bearer_token(headers: Mapping[str, str]) -> str:
    """Read what stands after `Bearer` in `Authorization`; empty where nothing does."""
    return _credentials(headers, "bearer")


def event_grid_answer(delivery: RawDelivery) -> dict[str, str] | None:
    """Answer Event Grid's question whether it may send here; None for any other delivery.

    The code it sent is sent back, which proves as much as visiting its `validationUrl` would. To be asked only after
    `verify`: else any sender could have a subscription of its own confirmed.
    """
    if delivery.headers.get("aeg-event-type", "").lower() != "subscriptionvalidation":
        return None
    for item in load_objects(delivery.body):
        if code := item.text("data", "validationCode"):
            return {"validationResponse": code}
    return None


def origin_answer(hook: HookSettings, headers: Mapping[str, str]) -> dict[str, str] | None:
    """Answer a CloudEvents sender's OPTIONS request with the headers that allow its origin; None if it may not send.

    CloudEvents, "HTTP 1.1 Web Hooks", section 4 (Abuse Protection). The callback address it may send is left alone.
    """
    origin = headers.get("webhook-request-origin", "")
    if not origin or origin not in hook.allowed_origins:
        return None
    rate = {"WebHook-Allowed-Rate": "*"} if "webhook-request-rate" in headers else {}
    return {"WebHook-Allowed-Origin": origin, **rate}


def _is_proven(
    hook: HookSettings, delivery: RawDelivery, *, now: datetime, google_keys: Mapping[str, SigningKey]
) -> bool:
    match hook.auth:
        case HeaderProof() as proof:
            return _is_same(delivery.headers.get(proof.header.lower(), ""), proof.secret)
        case BearerProof() as proof:
            return _is_same(bearer_token(delivery.headers), proof.secret)
        case BasicProof() as proof:
            return _is_login(_credentials(delivery.headers, "basic"), proof)
        case HmacProof() as proof:
            return _is_signed(delivery, proof, hook.format)
        case UrlTokenProof() as proof:
            return _is_same(delivery.token, proof.secret)
        case GoogleProof() as proof:
            return check_google_token(bearer_token(delivery.headers), proof, keys=google_keys, now=now)
        case _ as unknown:
            assert_never(unknown)


def _is_login(credentials: str, proof: BasicProof) -> bool:
    try:
        given = base64.b64decode(credentials.encode(), validate=True)
    except ValueError:
        return False
    wanted = f"{proof.username}:{proof.secret.get_secret_value()}".encode()
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())


def _is_signed(delivery: RawDelivery, proof: HmacProof, dialect: Dialect) -> bool:
    usual_header, usual_algorithm = _SIGNATURES.get(dialect, _USUAL_SIGNATURE)
    algorithm = proof.algorithm or usual_algorithm
    prefix = f"{algorithm}=" if proof.prefix is None else proof.prefix  # left out by some senders
    given = delivery.headers.get((proof.header or usual_header).lower(), "").removeprefix(prefix)
    made = hmac.new(proof.secret.get_secret_value().encode(), delivery.body, algorithm).digest()
    text = made.hex() if proof.encoding == "hex" else base64.b64encode(made).decode()
    return _is_same(given, SecretStr(text))


def _is_same(given: str, wanted: SecretStr) -> bool:
    # Digests of both are compared, so that not even the secret's length shows in the time taken.
    digests = (
        hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in (given, wanted.get_secret_value())
    )
    return hmac.compare_digest(*digests)


def _credentials(headers: Mapping[str, str], scheme: str) -> str:
    named, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if named.lower() == scheme else ""
