"""Who is told of what."""

import base64
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from app.domain.job import Job, JobState
from app.domain.notification import EVENT_OF_STATE, EventFilter, EventType, SigningSecret, Subscription, delivery_id
from app.domain.notify_url import Notify, NotifyUrl
from app.domain.request import Rule, SyncRequest

REQUEST = SyncRequest(rules=(Rule(source="src.example.com/app:1", destination=("dst.example.com/app",)),))


def job(policy: str | None = None, **labels: str) -> Job:
    return Job("j", JobState.RUNNING, REQUEST, datetime.now(UTC), "ann", policy=policy, labels=labels)


def test_a_filter_wants_one_of_the_policies_and_all_of_the_labels() -> None:
    wanted = EventFilter(policies=("nightly", "hourly"), labels={"team": "a"})
    assert wanted.matches(job("hourly", team="a", more="b"))
    assert not wanted.matches(job("weekly", team="a"))
    assert not wanted.matches(job(None, team="a"))
    assert not wanted.matches(job("hourly", team="b"))
    assert not wanted.matches(job("hourly"))
    assert EventFilter().matches(job())


def test_a_subscription_that_is_off_wants_nothing() -> None:
    on = Subscription(name="ci", url="https://ci.example.com/x")
    assert on.wants(EventType.JOB_FAILED, job())
    assert not on.wants(EventType.JOB_STARTED, job())
    assert not on.model_copy(update={"enabled": False}).wants(EventType.JOB_FAILED, job())


def test_nobody_is_told_that_a_job_waits() -> None:
    assert JobState.QUEUED not in EVENT_OF_STATE
    assert set(EVENT_OF_STATE.values()) == {*EventType} - {EventType.TEST, EventType.POLICY_SUMMARY}


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ci.example.com/x",
        "ci.example.com/x",
        "https:///x",
        "https://ann:secret@ci.example.com/x",
        "https://ci.example.com/x#part",
        "https://ci.example.com:99999/x",
        "https://ci.example.com:0/x",
        "https://[::1/x",
        "https://ci.example.com/a b",
        "https://ci.example.com/a\r\nX: y",
        "https://ci.example.com\\@evil.example.com/",
        "https://bücher.example.com/",
        "https://ci.example.com/" + "x" * 2_048,
    ],
)
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(NotifyUrl).validate_python(url)


def test_readers_of_a_job_see_an_address_up_to_its_path() -> None:
    notify = Notify(url="https://ci.example.com:8443/hooks/T0K3N?key=secret", subscription="ci")
    assert notify.origin == "https://ci.example.com:8443"


def secret(size: int, prefix: str = "whsec_") -> str:
    return prefix + base64.b64encode(b"k" * size).decode()


@pytest.mark.parametrize("text", [secret(24), secret(64)])
def test_a_secret_has_24_to_64_bytes(text: str) -> None:
    assert TypeAdapter(SigningSecret).validate_python(SecretStr(text)).get_secret_value() == text


@pytest.mark.parametrize("text", [secret(23), secret(65), secret(32, ""), secret(32, "whsk_"), "whsec_***", ""])
def test_what_is_no_secret_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(SigningSecret).validate_python(SecretStr(text))
    assert not text or text not in str(caught.value)


def test_a_message_is_named_by_what_makes_it_the_one_it_is() -> None:
    one = delivery_id("job", "job.failed", "ci", "")
    assert one == delivery_id("job", "job.failed", "ci", "")
    assert one != delivery_id("job", "job.failed", "ops", "")
    assert "." not in one
