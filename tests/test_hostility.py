"""A service that someone means harm to: `/healthz` answers, and the small jobs of others are done.

`make test-hostile` plays all acts of `support/hostile_registry.py` and `support/hostile_caller.py`; without it, as part
of all tests, some are played. A second and ten are no measurements: they are what was promised, on a machine that has
time. How much time this one has is told by a server that only answers, asked at the same moments: what it is late with
the service may be late with too.
"""

import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import hostile_caller, hostile_registry
from tests.support.fake_registry import FakeRegistry, fake_registry_thread
from tests.support.images import oci_image
from tests.support.processes import Program
from tests.support.service import ROOT, ServiceProcess

HEALTH_SECONDS, SMALL_JOB_SECONDS = 1.0, 10.0
CONTROL_RATIO = 10
"""So many times as long as the server that only answers may the service take, where that is more."""
JOB_RATIO = 20
"""So many times as long as before the act may a small job take, where that is more."""
PATIENCE_SECONDS = 90
PLAYS_ALL = "REGISTRY_SYNC_TEST_HOSTILE" in os.environ
SAMPLE = {"dripping_manifest", "half_requests", "deep_bodies", "tiny_chunks_of_bodies", "wrong_keys", "many_jobs"}
JOBS = 20
"""More than there are slots for, and than one registry may have."""
LATE_IN_A_ROW = 2
FROZEN_SECONDS = 5.0
"""A single answer that is so late is not this machine's doing, where the other server's was not."""
PLAYED_SECONDS = 1.5
"""How long a caller is at it, at least."""
NEVER_SAID = {"internal"}
"""What no error of a job may be, whatever a registry sends."""


def played(acts: dict[str, Any]) -> list[str]:
    return [act for act in acts if PLAYS_ALL or act in SAMPLE]


class Scene:
    """A service with keys, two honest registries, and one hostile registry for each act."""

    def __init__(self, service: ServiceProcess, hostile_hosts: dict[str, str], *, key: str, control: str) -> None:
        self.service = service
        self.hostile_hosts = hostile_hosts
        self.hostile_key = key
        self.control = control
        self.quiet_seconds = 0.0
        """How long a small job takes while all is quiet."""

    def small_job(self, source: FakeRegistry, destination: FakeRegistry, name: str) -> None:
        """Have another caller's small job done."""
        limit = max(SMALL_JOB_SECONDS, JOB_RATIO * self.quiet_seconds)
        seconds = self.run_job(source, destination, name)
        assert seconds <= limit, f"a small job took {seconds:.1f} s, {self.quiet_seconds:.2f} s while all was quiet"

    def run_job(self, source: FakeRegistry, destination: FakeRegistry, name: str) -> float:
        request = {"source": source.reference("app", "1"), "destination": destination.reference(name)}
        begin = time.monotonic()
        job = self.service.run_job(request, seconds=PATIENCE_SECONDS)
        assert job["state"] == "succeeded", job
        return time.monotonic() - begin

    @contextmanager
    def healthy(self) -> Iterator[None]:
        """Ask `/healthz` again and again meanwhile; no two answers in a row may be late, and none very late."""
        url = str(self.service.client.base_url).rstrip("/")
        stop, late, slowest, frozen = threading.Event(), [0], (0.0, 0.0), 0

        def ask() -> None:
            nonlocal slowest, frozen
            while not stop.wait(0.1):
                control, took = _seconds_of(self.control), _seconds_of(f"{url}/healthz")
                control = max(control, _seconds_of(self.control))
                slowest = max(slowest, (took, control))
                frozen += took > max(FROZEN_SECONDS, JOB_RATIO * control)
                if took > max(HEALTH_SECONDS, CONTROL_RATIO * control):
                    late[-1] += 1
                else:
                    late.append(0)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        took, control = slowest
        slowness = f"/healthz took {took:.2f} s where an idle server took {control:.3f} s"
        assert max(late) < LATE_IN_A_ROW, slowness
        assert not frozen, slowness


def _seconds_of(url: str) -> float:
    """Return how long an answer takes; for ever where there is none."""
    begin = time.monotonic()
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_SECONDS / 3)
    with closing(connection):
        try:
            connection.request("GET", parts.path)
            status = connection.getresponse().status
        except (OSError, HTTPException):
            return math.inf
    return time.monotonic() - begin if status == HTTPStatus.OK else math.inf


@pytest.fixture(scope="module")
def source() -> Iterator[FakeRegistry]:
    with fake_registry_thread() as registry:
        registry.load("app", oci_image("small"), "1")
        yield registry


@pytest.fixture(scope="module")
def destination() -> Iterator[FakeRegistry]:
    with fake_registry_thread() as registry:
        yield registry


def make_key(folder: Path, name: str, scope: str) -> str:
    command = [sys.executable, "-m", "app", "create-key", "--name", name, "--scope", scope]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    made = subprocess.run(  # noqa: S603 — our own command
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, source: FakeRegistry, destination: FakeRegistry) -> Iterator[Scene]:
    folder, log = tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("hostile") / "log"
    admin, key = make_key(folder, "admin", "admin"), make_key(folder, "hostile", "submit")
    acts = played(hostile_registry.ACTS)
    command = [sys.executable, "-m", "tests.support.hostile_registry", *acts]
    program = Program(command, log=log, environment={"PYTHONPATH": str(ROOT)})
    with ExitStack() as stack:
        stack.callback(program.end)
        control = Program(
            [sys.executable, "-m", "tests.support.control_server"],
            log=(control_log := log.with_name("control")),
            environment={"PYTHONPATH": str(ROOT)},
        )
        stack.callback(control.end)
        control.wait_until(lambda: control_log.read_text().endswith("\n"), seconds=20)
        service = stack.enter_context(ServiceProcess(folder, settings={"WORKER_PROCESSES": "1"}))
        program.wait_until(lambda: len(log.read_text().splitlines()) == len(acts), seconds=20)
        service.client.headers["Authorization"] = f"Bearer {admin}"
        hosts = dict(line.split() for line in log.read_text().splitlines())
        entries = {"source": source, "destination": destination}
        for name, host in {**{name: entry.host for name, entry in entries.items()}, **hosts}.items():
            body: dict[str, Any] = {"host": host, "insecure": True}
            if name in entries:
                body["auth"] = {"type": "basic", "username": "ann", "password": "secret"}
            entered = service.client.put(f"/v1/registries/{name.replace('_', '-')}", json=body)
            assert entered.is_success, entered.text
        scene = Scene(service, hosts, key=key, control=f"http://127.0.0.1:{control_log.read_text().strip()}/")
        scene.quiet_seconds = max(scene.run_job(source, destination, f"quiet-{number}") for number in range(3))
        yield scene


@pytest.mark.parametrize("act", played(hostile_registry.ACTS))
def test_a_hostile_registry_keeps_the_service_from_nobody(
    scene: Scene, source: FakeRegistry, destination: FakeRegistry, act: str
) -> None:
    host, service = scene.hostile_hosts[act], scene.service
    requests = [
        {"source": source.reference("app", "1"), "destination": f"{host}/x{number}"}
        if act == "sipping_uploads"
        else {"source": f"{host}/team/app", "destination": destination.reference(f"x{number}")}
        for number in range(JOBS)
    ]
    with scene.healthy():
        ids = [service.submit(request)["id"] for request in requests]
        try:
            scene.small_job(source, destination, f"victim-{act.replace('_', '-')}")
        finally:
            for job_id in ids:
                service.client.post(f"/v1/jobs/{job_id}/cancel")
            jobs = [service.follow(job_id, seconds=30) for job_id in ids]
    assert not {code for job in jobs for code in codes_of(service, job)} & NEVER_SAID


def codes_of(service: ServiceProcess, job: dict[str, Any]) -> set[str]:
    errors = [job["error"], *(image["error"] for image in service.images(job["id"]))]
    return {error["code"] for error in errors if error}


@pytest.mark.parametrize("act", played(hostile_caller.ACTS))
def test_a_hostile_caller_keeps_the_service_from_nobody(
    scene: Scene, source: FakeRegistry, destination: FakeRegistry, tmp_path: Path, act: str
) -> None:
    url = str(scene.service.client.base_url)
    command = [sys.executable, "-m", "tests.support.hostile_caller", act, url]
    environment = {"PYTHONPATH": str(ROOT), "REGISTRY_SYNC_KEY": scene.hostile_key}
    program = Program(command, log=tmp_path / "log", environment=environment)
    try:
        with scene.healthy():
            ends_at = time.monotonic() + PLAYED_SECONDS
            for number in itertools.count():
                scene.small_job(source, destination, f"victim-{act.replace('_', '-')}-{number}")
                if time.monotonic() > ends_at:
                    break
            assert program.runs, program.log_tail()
    finally:
        program.end()
    failed = [
        line for line in scene.service.log.read_text().splitlines() if '"status": 500' in line or "Traceback" in line
    ]
    assert failed == []
