"""Messages and their signatures, checked with the library receivers use."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain.job import ImageCounts, Job, JobState, Progress
from app.domain.notification import EventType, MessageFormat
from app.domain.report import ExecutionError
from app.domain.request import Rule, SyncRequest
from app.webhooks.messages import job_data, sent_body, write_message
from app.webhooks.outbound import message_headers
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


def failed_job(error: str) -> str:
    """Write the stored message of a failed job of the policy `p`."""
    request = SyncRequest(rules=(Rule(source="src.example.com/app:1", destination=("dst.example.com/app",)),))
    denied = ExecutionError("denied", error, side="destination")
    images = Progress(images=ImageCounts(copied=2, failed=1))
    job = Job("j" * 36, JobState.FAILED, request, AT, "ann", policy="p", error=denied, progress=images)
    return write_message(
        "slack", message_id="msg_1", event=EventType.JOB_FAILED, occurred_at=AT, subject=job.id, data=job_data(job)
    )


def texts_of(value: Any) -> list[str]:
    """List all texts of a document, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    return [value] if isinstance(value, str) else [text for one in value or () for text in texts_of(one)]


@pytest.mark.parametrize("message_format", ["slack", "teams"])
def test_people_read_what_failed_and_why_and_open_the_job(message_format: MessageFormat) -> None:
    body = json.loads(sent_body(failed_job("no right"), message_format, public_url="https://sync.example.com/x"))
    texts = texts_of(body)
    assert "❌ policy p failed" in texts
    assert "Images: 2 copied, 1 failed" in texts
    assert "denied: no right" in texts
    assert f"https://sync.example.com/x/console/jobs/{'j' * 36}" in texts
    without = json.loads(sent_body(failed_job("no right"), message_format, public_url=None))
    assert not [text for text in texts_of(without) if "/console/" in text]


def test_what_a_registry_wrote_is_never_markup() -> None:
    stored = failed_job("<!channel> [log in](https://bad.example.com) " + "x" * 5_000)
    slack = json.loads(sent_body(stored, "slack", public_url=None))
    assert "<" not in slack["text"]
    for block in slack["blocks"]:
        for text in [block.get("text"), *block.get("fields", ())]:
            assert text is None or (text["type"] == "plain_text" and len(text["text"]) <= 2_000)
    (attachment,) = json.loads(sent_body(stored, "teams", public_url=None))["attachments"]
    assert {block["type"] for block in attachment["content"]["body"]} == {"RichTextBlock"}
    assert len(json.dumps(attachment)) < 28_000


@pytest.mark.parametrize("message_format", ["slack", "teams"])
def test_a_test_message_says_for_which_subscription_it_is(message_format: MessageFormat) -> None:
    data = {"subscription": "ops"}
    stored = write_message(
        message_format, message_id="msg_1", event=EventType.TEST, occurred_at=AT, subject="ops", data=data
    )
    sent = texts_of(json.loads(sent_body(stored, message_format, public_url="https://sync.example.com")))
    assert "registry-sync: a test message for ops" in sent


@pytest.mark.parametrize("message_format", ["standard", "cloudevents"])
def test_programs_get_a_whole_address_where_a_setting_says_it(
    message_format: MessageFormat,
) -> None:
    stored = write_message(
        message_format,
        message_id="msg_1",
        event=EventType.JOB_FAILED,
        occurred_at=AT,
        subject="j",
        data={"href": "/v1/jobs/j"},
    )
    assert sent_body(stored, message_format, public_url=None) == stored
    sent = json.loads(sent_body(stored, message_format, public_url="https://sync.example.com"))
    assert sent == json.loads(stored) | {"data": {"href": "https://sync.example.com/v1/jobs/j"}}


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
