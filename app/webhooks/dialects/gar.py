"""Google Artifact Registry and Container Registry: the Pub/Sub topic `gcr` as a push subscription."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Payload, Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read one message, in Pub/Sub's wrapper or without it ("payload unwrapping")."""
    document = load_object(body)
    reading = Reading(Dialect.GAR)
    message = document.at("message")
    if message:
        change = load_object(_decoded(message.text("data")))
        event_id, moment = message.first_text("messageId", "message_id"), message.moment("publishTime")
    elif document.text("action"):
        change, event_id = document, headers.get("x-goog-pubsub-message-id", "")
        moment = Payload({"at": headers.get("x-goog-pubsub-publish-time", "")}).moment("at")
    else:
        raise malformed("not a message of Pub/Sub: there is neither a message nor an action")
    if change.text("action") != "INSERT":
        reading.ignore("not_a_push", change.text("action") or "a message without an action")
        return reading.delivery()
    name, _, digest = change.text("digest").partition("@")
    tagged, _, tag = change.text("tag").rpartition(":")
    host, _, repository = (tagged or name).partition("/")
    reading.push(
        repository=repository,
        tag=tag,
        digest=digest,
        host=host,
        action="INSERT",
        event_id=event_id,
        occurred_at=moment,
    )
    return reading.delivery()


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise malformed("the message's data is not base64") from error
