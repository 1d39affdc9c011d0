"""How far a job is, as pages show it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.console.commands import commands_for
from app.console.formatting import share
from app.domain.job import ByteCounts, ImageCounts, Job, JobState, Progress, Trigger
from app.domain.request import Rule, SyncRequest


def a_job(state: JobState = JobState.QUEUED, progress: Progress = Progress()) -> Job:  # noqa: B008 — a frozen value
    return Job(
        id="j",
        state=state,
        request=SyncRequest(rules=(Rule(source="a.example.com/x", destination=("b.example.com/x",)),)),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by="local",
        trigger=Trigger("api"),
        progress=progress,
    )


def test_lines_to_copy_name_the_service_where_the_settings_say_where_it_is() -> None:
    for _, _, line in commands_for(a_job(), public_url="https://sync.example.com"):
        assert "https://sync.example.com" in line
        assert "$URL" not in line
    for _, _, line in commands_for(a_job(), public_url=None):
        assert '"$URL' in line


def lines_of(**more: Any) -> list[str]:
    rule = {"source": "a.example.com/x", "destination": ["b.example.com/x"], **more.pop("rule", {})}
    request = SyncRequest.model_validate({"rules": [rule], **more})
    lines = commands_for(replace(a_job(), request=request), public_url="https://sync.example.com")
    return [line for tool, purpose, line in lines if tool == "registry-sync" and purpose == "Submit it again"]


def test_a_job_of_one_plain_rule_is_a_line_of_the_command_line_too() -> None:
    rule = {"tags": {"include": ["v*", "semver:>=1.2"], "exclude": ["-rc"]}, "platforms": ["linux/amd64"]}
    [line] = lines_of(rule=rule, options={"overwrite": "never", "force": True})
    assert line == (
        "registry-sync sync a.example.com/x b.example.com/x '--tags=v*' '--tags=semver:>=1.2' --exclude-tags=-rc "
        "--platform=linux/amd64 --overwrite=never --force --url https://sync.example.com"
    )
    assert len(lines_of()) == 1
    for other in ({"rule": {"min_age": "7d"}}, {"rule": {"tags": {"newest": 3}}}, {"options": {"referrers": False}}):
        assert lines_of(**other) == []


@pytest.mark.parametrize(
    ("state", "images", "bytes_", "expected"),
    [
        (JobState.QUEUED, ImageCounts(), ByteCounts(), 0),
        (JobState.RUNNING, ImageCounts(running=1), ByteCounts(), 0),
        (JobState.RUNNING, ImageCounts(running=1, up_to_date=3), ByteCounts(), 75),
        (JobState.RUNNING, ImageCounts(running=4), ByteCounts(total=200, done=50), 25),
        (JobState.RUNNING, ImageCounts(running=1), ByteCounts(total=200, done=200), 99),
        (JobState.FAILED, ImageCounts(failed=1), ByteCounts(total=200, done=50), 100),
    ],
)
def test_a_bar_is_full_only_when_the_job_is_done(
    state: JobState, images: ImageCounts, bytes_: ByteCounts, expected: int
) -> None:
    job = a_job(state, Progress(images=images, bytes=bytes_))
    assert share(job) == expected
