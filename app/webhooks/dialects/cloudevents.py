"""CloudEvents about images, in any of the three HTTP modes: zot's events extension, and other senders."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import cloud_events, read_image_event
from app.webhooks.payload import Reading


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read all events; zot's `reference` is the tag, or the digest of a manifest pushed without one."""
    reading = Reading(Dialect.CLOUDEVENTS)
    for event in cloud_events(body, headers):
        read_image_event(event, reading)
    return reading.delivery()
