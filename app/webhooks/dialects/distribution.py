"""CNCF Distribution's notifications (docs/content/about/notifications.md): an envelope with a list of events."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import read_distribution_event
from app.webhooks.payload import Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read an envelope; it asks receivers not to be picky, and repeats what was refused for ever."""
    document = load_object(body)
    if "events" not in document:
        raise malformed("not a Distribution notification: there is no list of events")
    reading = Reading(Dialect.DISTRIBUTION)
    for event in document.objects("events"):
        read_distribution_event(event, reading)
    return reading.delivery()
