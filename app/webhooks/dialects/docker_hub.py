"""Docker Hub's web hooks: pushes only, without digest, signature or id."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.domain.reference import DOCKER_HUB
from app.webhooks.payload import Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read one push; its `callback_url` proves nothing and is never visited."""
    document = load_object(body)
    if not document.at("push_data") or not document.at("repository"):
        raise malformed("not a Docker Hub event: push_data or repository is missing")
    name = document.text("repository", "repo_name")
    reading = Reading(Dialect.DOCKER_HUB)
    reading.push(
        repository=name if "/" in name or not name else f"library/{name}",
        tag=document.text("push_data", "tag"),
        host=DOCKER_HUB,
        action="push",
        occurred_at=document.moment("push_data", "pushed_at"),
    )
    return reading.delivery()
