"""kill -9 at each moment of a copy: the service's own processes, registries that say when the moment has come.

The registries are fakes because only they can stop the world between two requests; that the same holds between real
ones is `tests/test_walk.py`'s.
"""

import json
import re
import sqlite3
import threading
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from app.security import Sealer
from tests.support.fake_registry import Call, FakeRegistry, fake_registry_thread, on
from tests.support.fake_registry.faults import Matching
from tests.support.images import Manifest, blob, oci_image
from tests.support.plain_client import PlainClient
from tests.support.registries import RegistryProcess
from tests.support.service import AppProcess, ServiceProcess

pytestmark = pytest.mark.kill

RESCUED_SECONDS = 120.0
STARTED_SECONDS = 60.0
SLOW_BYTES = 24 * 1024 * 1024
SLOW_RATE = 6 * 1024 * 1024
MIB = 1024 * 1024
CHUNK_BYTES = 8 * MIB
"""Of an upload that can be gone on with after each."""


@dataclass(frozen=True)
class Moment:
    """A request of one registry that the process does not live to see answered."""

    name: str
    side: Literal["source", "destination"]
    matching: Matching
    after_work: bool


MOMENTS = [
    Moment("while tags are listed", "source", on("tags"), after_work=False),
    Moment("before the first blob", "destination", on("upload_start"), after_work=True),
    Moment("between blobs and manifest", "destination", on("manifest", method="PUT"), after_work=False),
    Moment("between manifest and row", "destination", on("manifest", method="PUT"), after_work=True),
]


@dataclass
class Setup:
    """The service over two fake registries; its worker can be killed and replaced."""

    source: FakeRegistry
    destination: FakeRegistry
    service: ServiceProcess
    worker: AppProcess
    """The process that works: the service itself, or a worker beside it."""
    killed: threading.Event

    def kill_at(self, moment: Moment) -> None:
        """Have the worker killed when the moment comes."""

        def kill(_entry: object) -> None:
            self.worker.kill()
            self.killed.set()

        side = self.source if moment.side == "source" else self.destination
        side.faults.add(Call(kill), matching=moment.matching, after_work=moment.after_work)

    def submit(self) -> str:
        """Submit a sync of everything; the answer may be cut off by what was killed."""
        request = {"source": f"{self.source.host}/team/**", "destination": self.destination.host}
        job_id: str = self.service.submit(request)["id"]
        return job_id

    def replace(self) -> None:
        """Start the next worker, and wait until it works."""
        before = self._working()
        self.worker.start()
        if self.worker is not self.service:
            self.worker.running.wait_until(lambda: self._working() > before, seconds=STARTED_SECONDS)

    def _working(self) -> int:
        return self.worker.log.read_text().count('"workers_started"')


@pytest.fixture(params=["sqlite", "postgresql"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    """Run two registries and the service: one process on SQLite, an API and a worker on PostgreSQL."""
    with ExitStack() as stack:
        source = stack.enter_context(fake_registry_thread())
        destination = stack.enter_context(fake_registry_thread())
        settings = {"GRACE_PERIOD": "1s", "WORKER_PROCESSES": "2"}
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = server.create_database(template=request.getfixturevalue("migrated_postgres")).url
            settings |= {"DATABASE_URL": url, "SECRET_KEYS": json.dumps([Sealer.make_key()])}
        arguments = ["--no-worker"] if "DATABASE_URL" in settings else []
        service = stack.enter_context(ServiceProcess(tmp_path, *arguments, settings=settings))
        worker: AppProcess = service
        if arguments:
            worker = stack.enter_context(AppProcess(tmp_path, "work", settings=settings))
        for name, registry in (("source", source), ("destination", destination)):
            entry = {"host": registry.host, "insecure": True, "limits": {"bytes_per_second": SLOW_RATE}}
            service.client.put(f"/v1/registries/{name}", json=entry).raise_for_status()
        yield Setup(source, destination, service, worker, threading.Event())


def load(registry: FakeRegistry) -> dict[str, Manifest]:
    """Fill the source: a few small images that share a layer, one that is too large to be sent twice at once."""
    shared = blob("shared", size=100_000)
    images = {f"v{number}": oci_image(f"v{number}", layers=[shared, blob(f"own-{number}")]) for number in range(4)}
    for tag, image in images.items():
        registry.load("team/app", image, tag)
    return images


def arrived(setup: Setup, images: dict[str, Manifest]) -> None:
    """See that the destination holds exactly what the source does."""
    setup.destination.check(open_sessions=True)
    assert setup.destination.content.tags("team/app") == {tag: image.digest for tag, image in images.items()}


def counts_are_right(setup: Setup, job: dict[str, Any]) -> None:
    states = Counter(image["state"] for image in setup.service.images(job["id"]))
    counted = {state: number for state, number in job["progress"]["images"].items() if number and state != "total"}
    assert counted == dict(states)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_a_job_ends_right_whenever_its_worker_is_killed(setup: Setup, moment: Moment) -> None:
    images = load(setup.source)
    setup.kill_at(moment)
    job_id = setup.submit()
    assert setup.killed.wait(60)
    setup.replace()

    job = setup.service.follow(job_id, seconds=RESCUED_SECONDS)

    assert job["state"] == "succeeded"
    assert job["progress"]["images"]["total"] == len(images)
    counts_are_right(setup, job)
    arrived(setup, images)
    sent = setup.destination.journal.count("upload_close", status=201)
    assert sent == len({digest for image in images.values() for digest in image.all_blobs()})  # each blob once


def test_a_job_ends_right_when_its_worker_is_killed_in_the_middle_of_a_blob(setup: Setup) -> None:
    images = {"big": oci_image("big", layers=[blob("big", size=SLOW_BYTES)])}
    setup.source.load("team/app", images["big"], "big")
    job_id = setup.submit()
    before = setup.service.follow_until(job_id, lambda job: job["progress"]["bytes"]["done"] > SLOW_RATE, seconds=60)
    setup.worker.kill()
    setup.replace()

    job = setup.service.follow(job_id, seconds=RESCUED_SECONDS + SLOW_BYTES / SLOW_RATE)

    assert job["state"] == "succeeded"
    assert job["progress"]["bytes"]["done"] >= before["progress"]["bytes"]["done"]
    counts_are_right(setup, job)
    arrived(setup, images)
    received = setup.destination.journal.received_bytes("upload_close")
    assert received < SLOW_BYTES + SLOW_RATE  # the next worker went on where the upload had got to


def test_a_blob_that_a_stopped_worker_has_half_sent_is_gone_on_with(setup: Setup) -> None:
    images = {"big": oci_image("big", layers=[blob("big", size=SLOW_BYTES)])}
    setup.source.load("team/app", images["big"], "big")
    job_id = setup.submit()
    setup.service.follow_until(job_id, lambda job: job["progress"]["bytes"]["done"] > SLOW_BYTES // 4, seconds=60)
    setup.worker.stop()
    assert len(setup.destination.content.sessions) == 1
    setup.replace()

    job = setup.service.follow(job_id, seconds=RESCUED_SECONDS)

    assert job["state"] == "succeeded"
    counts_are_right(setup, job)
    arrived(setup, images)
    assert setup.destination.journal.count("upload_cancel") == 0
    received = setup.destination.journal.received_bytes("upload_close")
    assert received < SLOW_BYTES * 1.1  # what had arrived was not sent again


def test_a_large_blob_goes_on_after_the_last_chunk_at_a_real_distribution_2(tmp_path: Path) -> None:
    """Its source is slow, as it is wherever a copy takes long; Distribution 2 itself forgets what breaks off."""
    layer = blob("large", size=CHUNK_BYTES * 9)
    image = oci_image("large", layers=[layer])
    key = Sealer.make_key()
    with (
        fake_registry_thread() as source,
        RegistryProcess() as destination,
        ServiceProcess(tmp_path, settings={"SECRET_KEYS": json.dumps([key])}) as service,
    ):
        for name, registry in (("source", source), ("destination", destination)):
            entry = {"host": registry.host, "insecure": True}
            service.client.put(f"/v1/registries/{name}", json=entry).raise_for_status()
        source.load("team/app", image, "large")
        source.change(only_blobs=frozenset({layer.digest}), blob_stall_after_bytes=CHUNK_BYTES * 7 + MIB)
        job_id = service.submit({"source": f"{source.host}/team/**", "destination": destination.host})["id"]

        def noted() -> int:
            """Read the offset that Distribution signed into the location that is noted."""
            with closing(sqlite3.connect(tmp_path / "registry-sync.db")) as database:
                sealed = [row[0] for row in database.execute("SELECT location FROM upload_sessions")]
            context = f"upload/{destination.host}/team/app/{layer.digest}"
            location = Sealer([key]).unseal(sealed[0], context=context) if sealed else ""
            state = urlsafe_b64decode(parse_qs(urlsplit(location).query).get("_state", [""])[0])
            return int((re.search(rb'"Offset":(\d+)', state) or [0, 0])[1])

        service.running.wait_until(lambda: noted() == CHUNK_BYTES * 7, seconds=60)
        service.kill()
        source.change(blob_stall_after_bytes=None)
        service.start()
        job = service.follow(job_id, seconds=RESCUED_SECONDS)

        assert job["state"] == "succeeded"
        chunks = sum(line.method == "PATCH" for line in destination.access_log())
        assert chunks == 7  # what was left fitted into one request
        with PlainClient.of(destination) as client:
            assert client.blob_digest("team/app", layer.digest) == (layer.digest, layer.size)


def test_a_cancelled_job_leaves_no_half_sent_blob_behind(setup: Setup) -> None:
    layer = blob("big", size=SLOW_BYTES)
    setup.source.load("team/app", oci_image("big", layers=[layer]), "big")
    setup.source.change(only_blobs=frozenset({layer.digest}), blob_stall_after_bytes=SLOW_BYTES * 3 // 4)
    job_id = setup.submit()
    setup.service.follow_until(job_id, lambda job: job["progress"]["bytes"]["done"] > SLOW_BYTES // 2, seconds=60)

    for _ in range(2):
        assert setup.service.client.post(f"/v1/jobs/{job_id}/cancel").is_success
    job = setup.service.follow(job_id, seconds=RESCUED_SECONDS)

    assert job["state"] == "cancelled"
    counts_are_right(setup, job)
    setup.destination.check()
    assert setup.destination.content.sessions == {}
    received = setup.destination.journal.received_bytes("upload_close")
    assert received < SLOW_BYTES
    assert setup.service.client.post(f"/v1/jobs/{job_id}/cancel").is_success


def test_a_job_that_was_accepted_survives_the_end_of_the_api(setup: Setup) -> None:
    images = load(setup.source)
    holding = threading.Event()
    setup.source.faults.add(Call(lambda _entry: holding.set()), matching=on("tags"))
    job_id = setup.submit()
    setup.service.kill()
    setup.service.start()
    job = setup.service.follow(job_id, seconds=RESCUED_SECONDS)
    assert job["state"] == "succeeded"
    arrived(setup, images)
