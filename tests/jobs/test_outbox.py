"""What the log and the metrics say of jobs: every step of a job's life, why images failed, and what took over."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog.testing
from prometheus_client import REGISTRY

from tests.worker.house import ON_SQLITE, House
from tests.worker.test_claims import planned, take

Events = list[Any]


@pytest.fixture
def events() -> Iterator[Events]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def named(events: Events, name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


async def test_a_jobs_life_is_in_the_log(working: House, events: Events) -> None:
    job = await working.run("t1", "t2")
    steps = [event["event"] for event in events if event.get("job") == job.id and event["event"].startswith("job_")]
    assert steps == ["job_submitted", "job_started", "job_planned", "job_finished"]
    (finished,) = named(events, "job_finished")
    assert (finished["log_level"], finished["state"], finished["copied"]) == ("info", "succeeded", 2)
    (first, _) = sorted(named(events, "image_copied"), key=lambda event: event["image"])
    assert (first["image"], first["source"], first["bytes"]) == (f"{job.id}-0", "src.example.com/app:t1", 100)


async def test_a_failure_is_logged_with_its_side_and_code_and_counted(working: House, events: Events) -> None:
    labels = {"kind": "image", "code": "denied", "side": "destination"}
    before = REGISTRY.get_sample_value("registry_sync_failures_total", labels) or 0
    job = await working.run("t1", "fails", "unlisted", "clashes")
    (failed,) = named(events, "image_failed")
    assert (failed["log_level"], failed["code"], failed["side"], failed["error"]) == (
        "warning",
        "denied",
        "destination",
        "no",
    )
    (listing,) = named(events, "listing_failed")
    assert (listing["job"], listing["code"]) == (job.id, "registry_unreachable")
    (finished,) = named(events, "job_finished")
    assert (finished["log_level"], finished["state"], finished["code"]) == ("warning", "failed", "images_failed")
    assert REGISTRY.get_sample_value("registry_sync_failures_total", labels) == before + 1


@ON_SQLITE
async def test_a_unit_taken_over_from_a_dead_worker_is_logged(house: House, events: Events) -> None:
    unit_id = await planned(house, "slow-60s")
    await take(house, "one", unit_id)
    assert not named(events, "unit_stalled")
    await take(house, "two", unit_id)
    (stalled,) = named(events, "unit_stalled")
    assert (stalled["unit"], stalled["worker"]) == (unit_id, "one")
