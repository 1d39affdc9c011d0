"""The service as it runs: a supervisor, the API and two workers in processes of their own, of which any may die.

On SQLite and on PostgreSQL. Processes are really killed and frozen; each is found by the pid that `/metrics` and the
log show.
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.security import Sealer
from tests.support.fake_registry import Call, FakeRegistry, fake_registry_thread, on
from tests.support.images import Manifest, blob, oci_image
from tests.support.service import ServiceProcess

RESCUED_SECONDS = 120.0
WORKERS = 2
IMAGES = 40


@dataclass
class Host:
    """A service over two fake registries."""

    source: FakeRegistry
    destination: FakeRegistry
    service: ServiceProcess

    @property
    def request(self) -> dict[str, str]:
        return {"source": f"{self.source.host}/team/**", "destination": self.destination.host}

    def load(self) -> dict[str, Manifest]:
        """Fill the source."""
        images = {f"v{number}": oci_image(f"v{number}", layers=[blob(f"own-{number}")]) for number in range(IMAGES)}
        for tag, image in images.items():
            self.source.load("team/app", image, tag)
        return images

    def arrived(self, images: dict[str, Manifest]) -> None:
        """See that the destination holds exactly what the source does."""
        self.destination.check(open_sessions=True)
        assert self.destination.content.tags("team/app") == {tag: image.digest for tag, image in images.items()}

    def pids(self) -> dict[str, int]:
        """Return the latest process of each name."""
        return {event["child"]: event["pid"] for event in self.events("process_started")}

    def workers(self) -> list[int]:
        return [pid for name, pid in self.pids().items() if name.startswith("worker")]

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.service.log.read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["event"] == name]

    def metrics(self) -> dict[str, float]:
        text = self.service.client.get("/metrics").raise_for_status().text
        samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}


@pytest.fixture(params=["sqlite", "postgresql"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """Run the service with two workers."""
    with ExitStack() as stack:
        source = stack.enter_context(fake_registry_thread())
        destination = stack.enter_context(fake_registry_thread())
        settings = {"GRACE_PERIOD": "600s", "WORKER_PROCESSES": str(WORKERS)}
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = server.create_database(template=request.getfixturevalue("migrated_postgres")).url
            settings |= {"DATABASE_URL": url, "SECRET_KEYS": json.dumps([Sealer.make_key()])}
        service = stack.enter_context(ServiceProcess(tmp_path, settings=settings))
        host = Host(source, destination, service)
        stack.callback(thaw, host)
        stack.callback(service.running.kill)  # grace is long here
        for name, registry in (("source", source), ("destination", destination)):
            body = {"host": registry.host, "insecure": True}
            service.client.put(f"/v1/registries/{name}", json=body).raise_for_status()
        yield host


def until(reached: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + RESCUED_SECONDS
    while not reached():
        assert time.monotonic() < deadline, "it never came to what was waited for"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Say whether a process still runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(pid: int, number: signal.Signals) -> None:
    if lives(pid):
        os.kill(pid, number)


def thaw(host: Host) -> None:
    for pid in host.pids().values():
        send(pid, signal.SIGCONT)


def hold_uploads(host: Host) -> threading.Event:
    """Let no blob arrive until the event is set."""
    released = threading.Event()

    async def hold(_entry: object) -> None:
        while not released.is_set():  # noqa: ASYNC110 — the event is a thread's
            await asyncio.sleep(0.02)

    host.destination.faults.add(Call(hold), matching=on("upload_start"), times=10_000)
    return released


def test_both_workers_work_and_one_answer_shows_the_metrics_of_all(host: Host) -> None:
    images = host.load()
    released = hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 4)
    assert host.metrics()['registry_sync_jobs{state="running"}'] == 1
    released.set()

    job = host.service.follow(job_id)

    host.arrived(images)
    finished = 'registry_sync_jobs_finished_total{state="succeeded"}'
    until(lambda: host.metrics().get(finished) == 1)  # counted by its worker a moment after the row says so
    until(lambda: host.metrics()['registry_sync_images_total{state="copied"}'] == IMAGES)
    metrics = host.metrics()
    assert metrics["registry_sync_transferred_bytes_total"] == job["progress"]["bytes"]["transferred"]
    assert metrics['registry_sync_jobs_finished_total{state="succeeded"}'] == 1
    assert metrics["registry_sync_queue_depth"] == 0
    names = ["supervisor", "api", *(f"worker-{number}" for number in range(1, WORKERS + 1))]
    assert all(metrics[f'process_resident_memory_bytes{{process="{name}"}}'] > 0 for name in names)
    sent = host.destination.journal.count("manifest", method="PUT", status=201)
    counted = [
        value
        for name, value in metrics.items()
        if name.startswith("registry_sync_registry_requests_total") and 'method="PUT"' in name and "201" in name
    ]
    assert sum(counted) >= sent


def test_a_list_of_digests_is_read_once_for_all_workers(host: Host) -> None:
    image, tags = oci_image("app"), [f"v{number:04}" for number in range(1_000)]
    for name, registry in (("source", host.source), ("destination", host.destination)):
        registry.change(digest_list="harbor")
        registry.load("team/app", image, *tags)
        body = {"host": registry.host, "insecure": True, "type": "harbor"}
        host.service.client.put(f"/v1/registries/{name}", json=body).raise_for_status()
    request = {
        "source": f"{host.source.host}/team/app",
        "destination": host.destination.host,
        "options": {"companions": "on_change"},
    }
    job = host.service.run_job(request)
    assert job["progress"]["images"]["up_to_date"] == len(tags)
    for registry in (host.source, host.destination):
        asked = [entry for entry in registry.journal if entry.kind != "ping"]  # a login, which each worker finds out
        assert len(asked) <= 12, registry.journal.table()


def test_a_worker_that_is_killed_loses_nothing_and_is_replaced(host: Host) -> None:
    images = host.load()
    released = hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 4)
    before = host.pids()

    os.kill(before["worker-1"], signal.SIGKILL)
    until(lambda: host.pids()["worker-1"] != before["worker-1"])
    released.set()

    job = host.service.follow(job_id, seconds=RESCUED_SECONDS)
    assert job["state"] == "succeeded"
    host.arrived(images)
    assert host.pids() == before | {"worker-1": host.pids()["worker-1"]}
    assert host.metrics()['registry_sync_process_restarts_total{process="worker-1"}'] == 1
    until(lambda: host.metrics()['registry_sync_images_total{state="copied"}'] == IMAGES)
    [ended] = host.events("process_ended")
    assert (ended["child"], ended["status"]) == ("worker-1", -signal.SIGKILL)


def test_all_workers_may_be_killed_at_once(host: Host) -> None:
    images = host.load()
    released = hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 4)

    for pid in host.workers():
        os.kill(pid, signal.SIGKILL)
    released.set()

    assert host.service.follow(job_id, seconds=RESCUED_SECONDS)["state"] == "succeeded"
    host.arrived(images)


def test_the_api_may_be_killed_while_workers_go_on(host: Host) -> None:
    images = host.load()
    released = hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 4)
    before = host.pids()
    counted = host.metrics()['registry_sync_http_requests_total{code="202",method="POST",route="/v1/jobs"}']

    os.kill(before["api"], signal.SIGKILL)
    until(lambda: host.pids()["api"] != before["api"])
    released.set()

    until(host.service._is_ready)
    assert host.service.follow(job_id, seconds=RESCUED_SECONDS)["state"] == "succeeded"
    host.arrived(images)
    assert host.pids() == before | {"api": host.pids()["api"]}
    assert counted == host.metrics()['registry_sync_http_requests_total{code="202",method="POST",route="/v1/jobs"}']


def test_the_api_answers_while_every_worker_stands_still(host: Host) -> None:
    """What a registry sends may freeze a worker; here it is frozen for good.

    One that was frozen inside a transaction is killed for the locks it has, which a writing caller waits for.
    """
    host.load()
    released = hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 0)
    for pid in host.workers():
        os.kill(pid, signal.SIGSTOP)

    assert host.service.client.get("/healthz", timeout=5).is_success
    assert host.service.client.get("/metrics", timeout=5).is_success
    assert host.service.client.get(f"/v1/jobs/{job_id}", timeout=5).json()["state"] == "running"
    other = host.service.submit({"source": f"{host.source.host}/team/app:v1", "destination": "x.example.com/app"})
    assert host.service.client.post(f"/v1/jobs/{other['id']}/cancel").is_success
    assert host.service.client.post(f"/v1/jobs/{job_id}/cancel").is_success

    for pid in host.workers():
        send(pid, signal.SIGCONT)  # one that stood still in a transaction was killed for it
    assert host.service.follow(job_id, seconds=RESCUED_SECONDS)["state"] == "cancelled"
    released.set()


def test_a_stream_of_events_shows_what_workers_do(host: Host) -> None:
    host.load()
    job = host.service.submit(
        {"source": f"{host.source.host}/team/app:v1", "destination": host.destination.host + "/x"}
    )
    with httpx.stream(
        "GET",
        f"{host.service.client.base_url}/v1/jobs/{job['id']}/events",
        headers={"Accept": "text/event-stream"},
        trust_env=False,
        timeout=RESCUED_SECONDS,
    ) as stream:
        names = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    assert names[0] == "job"
    assert names[-1] == "end"


def test_a_signal_gives_work_time_and_a_second_one_takes_it(host: Host) -> None:
    images = host.load()
    hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 0)
    pids = host.pids()
    supervisor = host.service.running
    os.kill(supervisor.pid, signal.SIGTERM)
    until(lambda: not lives(pids["api"]))
    assert lives(supervisor.pid)
    assert any(lives(pid) for pid in host.workers())  # not each need have got an image by then; one without has ended

    os.kill(supervisor.pid, signal.SIGTERM)

    assert supervisor.wait(RESCUED_SECONDS) == 0
    assert not [pid for pid in pids.values() if lives(pid)]
    assert host.events("process_killed") == []  # they gave back what they had
    host.destination.faults.clear()
    host.service.start()
    assert host.service.follow(job_id, seconds=RESCUED_SECONDS)["state"] == "succeeded"
    host.arrived(images)


def test_a_supervisor_that_is_killed_takes_all_processes_with_it(host: Host) -> None:
    images = host.load()
    released = hold_uploads(host)
    job_id = host.service.submit(host.request)["id"]
    host.service.follow_until(job_id, lambda job: job["progress"]["images"]["running"] > 0)
    pids = host.pids()
    os.kill(pids["worker-2"], signal.SIGSTOP)  # one that can't notice by itself

    host.service.kill()

    until(lambda: not [pid for pid in pids.values() if lives(pid)])
    released.set()
    host.service.start()
    assert host.service.follow(job_id, seconds=RESCUED_SECONDS)["state"] == "succeeded"
    host.arrived(images)
