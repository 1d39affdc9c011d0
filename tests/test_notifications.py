"""Told by real processes: images copied between real registries, and every receiver told once, signed."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.security import Sealer
from app.store.db.migrate import migrate
from tests.conftest import Namespace
from tests.domain.test_notification import secret
from tests.support.images import oci_image
from tests.support.receiver import Receiver
from tests.support.service import AppProcess, ServiceProcess

SECRET = secret(32)
JOBS = 12
WORKERS = 3


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_a_pipeline_is_told_that_its_image_has_arrived(
    tmp_path: Path, source: Namespace, destination: Namespace, receiver: Receiver
) -> None:
    source.push("app", oci_image("told"), "1.0")
    with ServiceProcess(tmp_path, settings={"NOTIFY_PRIVATE_HOSTS": "127.0.0.1"}) as service:
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        hook = {"url": receiver.url("/all"), "secret": SECRET, "format": "cloudevents"}
        service.client.put("/v1/subscriptions/ci", json=hook).raise_for_status()
        job = service.run_job(
            {
                "source": source.reference("app", "1.0"),
                "destination": destination.reference("app", "1.0"),
                "notify": {"url": receiver.url("/builds/42"), "subscription": "ci"},
            }
        )
        assert job["state"] == "succeeded"
        messages = receiver.wait_for(2)
    assert {message.path for message in messages} == {"/all", "/builds/42"}
    for message in messages:
        event = message.verified(SECRET)
        assert (event["type"], event["subject"]) == ("registry-sync.job.succeeded", job["id"])
        assert event["data"]["images"]["copied"] == 1
        assert event["data"]["version"] == job["version"]


async def test_several_processes_on_one_database_tell_of_each_job_once(
    tmp_path: Path, postgres_url: str, source: Namespace, destination: Namespace, receiver: Receiver
) -> None:
    source.push("app", oci_image("told"), *[f"v{number}" for number in range(JOBS)])
    await migrate(postgres_url)
    settings = {
        "DATABASE_URL": postgres_url,
        "SECRET_KEYS": Sealer.make_key(),
        "NOTIFY_PRIVATE_HOSTS": "127.0.0.1",
    }
    with ExitStack() as processes:
        service = processes.enter_context(ServiceProcess(tmp_path, "--no-worker", settings=settings))
        for number in range(WORKERS):
            folder = tmp_path / f"worker-{number}"
            folder.mkdir()
            processes.enter_context(AppProcess(folder, "work", settings=settings))
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        hook = {"url": receiver.url(), "secret": SECRET}
        service.client.put("/v1/subscriptions/ci", json=hook).raise_for_status()
        jobs = [
            service.submit(
                {"source": source.reference("app", f"v{number}"), "destination": destination.reference(f"to-{number}")}
            )
            for number in range(JOBS)
        ]
        for job in jobs:
            assert service.follow(job["id"])["state"] == "succeeded"
        receiver.wait_for(JOBS)
        deliveries = service.client.get("/v1/subscriptions/ci/deliveries?limit=200").json()["items"]
    told = [message.verified(SECRET)["data"]["id"] for message in receiver.received]
    assert sorted(told) == sorted(job["id"] for job in jobs)
    assert len(deliveries) == JOBS
