"""What is told, as bytes: Standard Webhooks payloads, CloudEvents on request, and the headers that sign either."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from standardwebhooks import Webhook

from app.domain.job import Job
from app.domain.notification import EventType, MessageFormat

CLOUD_EVENTS_SOURCE = "/registry-sync"
CLOUD_EVENTS_TYPE_PREFIX = "registry-sync."
_CONTENT_TYPES: dict[MessageFormat, str] = {
    "standard": "application/json",
    "cloudevents": "application/cloudevents+json",
}


def job_data(job: Job) -> dict[str, Any]:
    """Describe a job as far as a receiver needs to decide what to do; `href` leads to the rest."""
    return {
        "id": job.id,
        "href": f"/v1/jobs/{job.id}",
        "state": job.state,
        "policy": job.policy,
        "retry_of": job.retry_of,
        "trigger": asdict(job.trigger),
        "labels": job.labels,
        "created_by": job.created_by,
        "images": {"total": job.progress.images.total, **asdict(job.progress.images)},
        "bytes": {"total": job.progress.bytes.total, "transferred": job.progress.bytes.transferred},
        "error": asdict(job.error) if job.error else None,
        "warnings": len(job.warnings),
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "finished_at": _moment(job.finished_at),
        "version": job.version,
    }


def write_message(
    message_format: MessageFormat,
    *,
    message_id: str,
    event: EventType,
    occurred_at: datetime,
    subject: str,
    data: Mapping[str, Any],
) -> str:
    """Write a message's body, once: what is signed is what is sent, at each attempt the same."""
    if message_format == "standard":
        return json.dumps({"type": event, "timestamp": _moment(occurred_at), "data": data}, ensure_ascii=False)
    document = {
        "specversion": "1.0",
        "id": message_id,
        "source": CLOUD_EVENTS_SOURCE,
        "type": f"{CLOUD_EVENTS_TYPE_PREFIX}{event}",
        "subject": subject,
        "time": _moment(occurred_at),
        "datacontenttype": "application/json",
        "data": data,
    }
    return json.dumps(document, ensure_ascii=False)


def message_headers(
    body: str, message_format: MessageFormat, *, message_id: str, secrets: Sequence[str], now: datetime
) -> dict[str, str]:
    """Make the headers of one attempt: signed with each secret (Standard Webhooks, "Webhook Headers")."""
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "Content-Type": _CONTENT_TYPES[message_format],
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
