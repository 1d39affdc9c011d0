"""Messages and their signatures, checked with the library receivers use."""

import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain.job import Job, JobState
from app.domain.notification import EventType
from app.domain.report import ExecutionError
from app.domain.request import Rule, SyncRequest
from app.hooks.messages import job_data, message_headers, write_message
from tests.domain.test_notification import secret

NEW, OLD = secret(32), secret(24)
AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def signed(body: str, *secrets: str) -> dict[str, str]:
    return message_headers(body, "standard", message_id="msg_1", secrets=secrets, now=datetime.now(UTC))


@pytest.mark.parametrize("held", [NEW, OLD])
def test_while_a_secret_is_changed_both_old_and_new_verify(held: str) -> None:
    body = '{"type": "job.succeeded", "name": "bücher"}'
    assert Webhook(held).verify(body.encode(), signed(body, NEW, OLD)) == json.loads(body)


def test_another_secret_or_another_body_does_not_verify() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify("{}", signed("{}", NEW))
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify("{ }", signed("{}", NEW))


def test_a_standard_message_has_type_timestamp_and_data() -> None:
    body = write_message(
        "standard", message_id="msg_1", event=EventType.JOB_FAILED, occurred_at=AT, subject="j", data={"id": "j"}
    )
    assert json.loads(body) == {"type": "job.failed", "timestamp": "2030-01-02T03:04:05Z", "data": {"id": "j"}}


def test_a_cloud_event_has_the_attributes_of_structured_mode() -> None:
    body = write_message(
        "cloudevents", message_id="msg_1", event=EventType.JOB_FAILED, occurred_at=AT, subject="j", data={"id": "j"}
    )
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": "msg_1",
        "source": "/registry-sync",
        "type": "registry-sync.job.failed",
        "subject": "j",
        "time": "2030-01-02T03:04:05Z",
        "datacontenttype": "application/json",
        "data": {"id": "j"},
    }
    headers = message_headers(body, "cloudevents", message_id="msg_1", secrets=[NEW], now=datetime.now(UTC))
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert Webhook(NEW).verify(body, headers)


def test_a_job_is_told_in_short_and_without_its_request() -> None:
    request = SyncRequest(rules=(Rule(source="src.example.com/app:1", destination=("dst.example.com/app",)),))
    error = ExecutionError("denied", "no", side="source")
    data = job_data(Job("j", JobState.FAILED, request, AT, "ann", policy="p", labels={"a": "b"}, error=error))
    assert json.loads(json.dumps(data)) == data
    assert (data["id"], data["href"], data["state"], data["policy"]) == ("j", "/v1/jobs/j", "failed", "p")
    assert data["error"]["code"] == "denied"
    assert data["created_at"] == "2030-01-02T03:04:05Z"
    assert data["images"]["total"] == 0
    assert "request" not in data
    assert "notify" not in data
