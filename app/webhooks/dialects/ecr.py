"""Amazon ECR through EventBridge, straight, by way of SNS, or turned into CloudEvents on the way.

docs.aws.amazon.com: AmazonECR/latest/userguide/ecr-eventbridge.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.domain.push_event import Dialect, HookDelivery
from app.webhooks.event_formats import cloud_event, read_image_event
from app.webhooks.payload import Payload, Reading, load_object, malformed


def parse(body: bytes, headers: Mapping[str, str]) -> HookDelivery:
    """Read one event; ECR names account and region, from which the registry's host follows."""
    reading = Reading(Dialect.ECR)
    document = load_object(body)
    if document.text("Type") in {"SubscriptionConfirmation", "UnsubscribeConfirmation"}:
        reading.ignore("confirmation", "SNS wants an address visited; confirm the subscription in AWS")
        return reading.delivery()
    if document.text("Type") == "Notification":
        document = load_object(document.text("Message"))
    if "specversion" in document or "ce-type" in headers:
        event = cloud_event(document, headers)
        read_image_event(event, reading, host=_host_of_arn(event.source))
        return reading.delivery()
    if not document.text("detail-type"):
        raise malformed("not an event of EventBridge: there is no detail-type")
    _read_event(document, reading)
    return reading.delivery()


def _read_event(document: Payload, reading: Reading) -> None:
    detail, kind = document.at("detail"), document.text("detail-type")
    action = detail.text("action-type")
    if kind != "ECR Image Action" or action != "PUSH":
        reading.ignore("not_a_push", f"{kind} {action}".strip())
    elif detail.text("result") != "SUCCESS":
        reading.ignore("failed_push", f"result {detail.text('result')}")
    else:
        reading.push(
            repository=detail.text("repository-name"),
            tag=detail.text("image-tag"),
            digest=detail.text("image-digest"),
            host=_host(document.text("account"), document.text("region")),
            action=action,
            event_id=document.text("id"),
            occurred_at=document.moment("time"),
        )


def _host_of_arn(source: str) -> str:
    match = re.fullmatch(r"(?:urn:aws|arn:aws[a-z-]*):ecr:([a-z0-9-]+):([0-9]+):.*", source)
    return _host(match[2], match[1]) if match else ""


def _host(account: str, region: str) -> str:
    if not (account and region):
        return ""
    return f"{account}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
