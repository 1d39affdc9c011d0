"""Notifications as bytes: Standard Webhooks payloads, CloudEvents, or messages for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

from app.domain.job import Job
from app.domain.notification import EventType, MessageFormat
from app.domain.policy_summary import PolicySummary
from app.domain.report import ExecutionError
from app.net.http_headers import PRODUCT
from app.webhooks.chat_messages import slack_message, teams_message
from app.webhooks.email_messages import email_message

CLOUD_EVENTS_SOURCE = f"/{PRODUCT}"
CLOUD_EVENTS_TYPE_PREFIX = f"{PRODUCT}."
_FOR_PEOPLE: dict[MessageFormat, Callable[..., str]] = {"slack": slack_message, "teams": teams_message}


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
        "error": _error(job.error),
        "warnings": len(job.warnings),
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "finished_at": _moment(job.finished_at),
        "version": job.version,
    }


def summary_data(summary: PolicySummary) -> dict[str, Any]:
    """Describe a policy's day; `last_state` is that of its last job, whenever that was."""
    stored, runs, last = summary.stored, summary.runs, summary.stored.last_job
    return {
        "policy": stored.policy.name,
        "href": f"/v1/policies/{stored.policy.name}",
        "enabled": stored.policy.enabled,
        "since": _moment(summary.day.since),
        "until": _moment(summary.day.until),
        "runs": {name: getattr(runs, name) for name in ("total", "succeeded", "failed", "cancelled")},
        "images": {
            "copied": runs.images_copied,
            "up_to_date": runs.images_up_to_date,
            "failed": runs.images_failed,
        },
        "bytes": {"transferred": runs.bytes_transferred},
        "failures": [asdict(failure) for failure in runs.failures],
        "last_state": last.state if last else None,
        "last_run_at": _moment(last.created_at) if last else None,
        "next_run_at": _moment(stored.next_run_at),
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
    """Write a message as it is stored, once; formats for people are made of the standard one when it is sent."""
    if message_format != "cloudevents":
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


def sent_body(body: str, message_format: MessageFormat, *, public_url: str | None) -> str:
    """Write what is sent of a stored message: at each attempt the same.

    `public_url` is where people and programs reach the service, with no slash at its end: links are absolute where it
    is known.
    """
    if public_url is None and message_format in {"standard", "cloudevents"}:
        return body
    message = json.loads(body)
    data = message.get("data", {})
    is_linked = public_url is not None and "href" in data
    if message_format in _FOR_PEOPLE:
        return _FOR_PEOPLE[message_format](message, page=_page_of(message, public_url))
    if is_linked:
        data["href"] = f"{public_url}{data['href']}"
    return json.dumps(message, ensure_ascii=False)


def email_of(body: str, *, sender: Address, to: Sequence[str], message_id: str, public_url: str | None) -> EmailMessage:
    """Write the e-mail of a stored message: at each attempt the same. `public_url` is that of `sent_body`."""
    page = _page_of(json.loads(body), public_url)
    return email_message(body, sender=sender, to=to, message_id=message_id, page=page)


def _page_of(message: Mapping[str, Any], public_url: str | None) -> str | None:
    """Return the address of the page about it, where it is about something and the service knows its own address."""
    data = message.get("data", {})
    if public_url is None or "href" not in data:
        return None
    return f"{public_url}/console/{data['href'].removeprefix('/v1/')}"


def _error(error: ExecutionError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {**asdict(error), "failures": [asdict(failure) for failure in error.failures]}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
