"""Alibaba Cloud Container Registry's triggers: pushes only, without host, signature or id."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.payload import Payload, Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:  # noqa: ARG001 — one signature for all dialects
    """Read one push."""
    document = load_object(body)
    pushed = document.at("push_data")
    if not pushed or not document.at("repository"):
        raise malformed("not an Alibaba Cloud ACR event: push_data or repository is missing")
    # Alibaba writes its time without a zone; China's is assumed, and serves only to tell deliveries apart.
    moment = Payload({"at": f"{pushed.text('pushed_at')}+08:00"}).moment("at")
    reading = Reading(Dialect.ALIBABA)
    reading.push(
        repository=document.text("repository", "repo_full_name"),
        tag=pushed.text("tag"),
        digest=pushed.text("digest"),
        action="push",
        occurred_at=moment,
    )
    return reading.delivery()
