"""JFrog Artifactory's web hooks of the domain `docker`."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Reading, host_of_url, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read one event; it names the local repository, and the manifest file's checksum, which is the digest."""
    document = load_object(body)
    kind, data = document.text("event_type"), document.at("data")
    if not kind or not data:
        raise malformed("not an event of Artifactory's: event_type or data is missing")
    reading = Reading(Dialect.ARTIFACTORY)
    if document.text("domain") != "docker" or kind != "pushed":
        reading.ignore("not_a_push", f"{document.text('domain')} {kind}".strip())
        return reading.delivery()
    checksum = data.text("sha256")
    reading.push(
        repository=f"{data.text('repo_key')}/{data.text('image_name')}",
        tag=data.text("tag"),
        digest=f"sha256:{checksum}" if checksum else "",
        host=host_of_url(document.text("jpd_origin")),
        action=kind,
    )
    return reading.delivery()
