"""Quay's repository notification `repo_push`: tags without digest, time or id."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read one push; old deployments send `updated_tags` as an object from tag to image id."""
    document = load_object(body)
    repository = document.text("repository")
    if not repository:
        raise malformed("not a notification of Quay's: there is no repository")
    reading = Reading(Dialect.QUAY)
    if "updated_tags" not in document:
        reading.ignore("not_a_push", "a notification without updated_tags")
    elif not document.texts("updated_tags"):
        reading.ignore("incomplete", "a push without tags")
    for tag in document.texts("updated_tags"):
        reading.push(
            repository=repository,
            tag=tag,
            host=document.text("docker_url").partition("/")[0],
            action="repo_push",
        )
    return reading.delivery()
