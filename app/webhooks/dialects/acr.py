"""Azure Container Registry: its own web hooks, and Event Grid in both of its schemas.

learn.microsoft.com: container-registry-webhook-reference, event-schema-container-registry.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import read_distribution_event
from app.webhooks.payload import Payload, Reading, load_objects, malformed

_PUSHED = "Microsoft.ContainerRegistry.ImagePushed"
_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read a web hook's event, or a list of Event Grid's, whose `data` has the same form."""
    reading = Reading(Dialect.ACR)
    for item in load_objects(body):
        kind = item.text("eventType") or item.text("type")
        if kind:
            _read_event_grid(kind, item, reading)
        elif item.text("action") == "ping":
            reading.ignore("test", "ping")
        elif item.text("action"):
            read_distribution_event(item, reading)
        else:
            raise malformed("not an event of Azure Container Registry: there is neither an action nor a type")
    return reading.delivery()


def _read_event_grid(kind: str, item: Payload, reading: Reading) -> None:
    if kind == _PUSHED:
        read_distribution_event(item.at("data"), reading, event_id=item.text("id"))
    elif kind == _VALIDATION:
        reading.ignore("confirmation", "Event Grid asks for its validation code, not for a sync")
    else:
        reading.ignore("not_a_push", kind)
