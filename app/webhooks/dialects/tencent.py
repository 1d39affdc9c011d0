"""Tencent Container Registry, Enterprise edition: triggers in the form of Harbor 1."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import read_harbor_event
from app.webhooks.payload import Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read one event; `pushImage` is the one that counts."""
    document = load_object(body)
    if not document.text("type"):
        raise malformed("not a Tencent TCR event: there is no type")
    reading = Reading(Dialect.TENCENT)
    read_harbor_event(
        document.text("type"), document.at("event_data"), reading, occurred_at=document.moment("occur_at")
    )
    return reading.delivery()
