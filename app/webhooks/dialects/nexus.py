"""Sonatype Nexus 3's repository webhooks: components, and assets where those are enabled."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Payload, Reading, load_object, malformed

_PUSHES = frozenset({"CREATED", "UPDATED"})
_MANIFEST_PATH = re.compile(r"/?v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)")


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read one event; it names neither host nor digest, the registry the hook belongs to does."""
    document = load_object(body)
    part = document.at("component") or document.at("asset")
    if not part:
        raise malformed("not a repository event of Nexus: there is neither a component nor an asset")
    reading = Reading(Dialect.NEXUS)
    if part.text("format") != "docker":
        reading.ignore("not_a_manifest", f"format {part.text('format')}")
    elif document.text("action") not in _PUSHES:
        reading.ignore("not_a_push", document.text("action"))
    else:
        _read_part(document, part, reading, event_id=headers.get("x-nexus-webhook-delivery", ""))
    return reading.delivery()


def _read_part(document: Payload, part: Payload, reading: Reading, *, event_id: str) -> None:
    repository, reference = part.text("name"), part.text("version")
    if "asset" in document:
        path = _MANIFEST_PATH.fullmatch(repository)
        if path is None:
            reading.ignore("not_a_manifest", repository)
            return
        repository, reference = path["repository"], path["reference"]
    reading.push(
        repository=repository,
        tag=reference,
        action=document.text("action"),
        event_id=event_id,
        occurred_at=document.moment("timestamp"),
    )
