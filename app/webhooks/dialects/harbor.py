"""Harbor's web hooks in both payload formats, `Default` and `CloudEvents` (src/pkg/notifier)."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import cloud_event, read_harbor_event
from app.webhooks.payload import Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read one Harbor event; it names only the first tag of a push, and a digest in its place where there is none."""
    document = load_object(body)
    reading = Reading(Dialect.HARBOR)
    if "specversion" in document:
        event = cloud_event(document, headers)
        # Each of Harbor's own policies makes a new `id` for one push; the push is told apart by time and digest.
        read_harbor_event(event.type, event.data, reading, occurred_at=event.time)
        return reading.delivery()
    if not document.text("type"):
        raise malformed("not a Harbor event: there is no type")
    read_harbor_event(
        document.text("type"), document.at("event_data"), reading, occurred_at=document.moment("occur_at")
    )
    return reading.delivery()
