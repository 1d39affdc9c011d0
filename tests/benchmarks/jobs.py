"""How many jobs a second are taken in, and how many images that need nothing pass through the whole job path."""

import asyncio
import base64
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from tests.benchmarks.contest import Bench
from tests.benchmarks.fakes import null_registries
from tests.benchmarks.load import post, send_all
from tests.benchmarks.results import Section
from tests.benchmarks.service import CONNECTIONS
from tests.support.postgres import PostgresServer
from tests.support.service import AppProcess, ServiceProcess

REPOSITORIES = 50
TAGS = 200
SUBMISSIONS = 2_000
CLIENTS = 32
API_KEY = "a-key-that-opens-nothing-but-a-benchmark"
SECRET_KEY = base64.urlsafe_b64encode(bytes(32)).decode()


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run the service."""

    name: str
    folder: Path
    settings: Mapping[str, str]
    workers: int = 0
    """Processes beside the one with the API; with none, that one works, too."""


def jobs(bench: Bench, section: Section) -> None:
    """Take in jobs of one image, do them, and go over 10,000 unchanged images: on SQLite, and on PostgreSQL."""
    table = section.table(
        "setup",
        "submissions/s, nobody working",
        "beside busy workers",
        "jobs/s, submitted to done",
        "images/s in one job",
    )
    with null_registries(repositories=REPOSITORIES, tags=TAGS) as sides, tempfile.TemporaryDirectory() as folder:
        setup = Setup("SQLite, worker inside", Path(folder), {**bench.settings})
        table.add(*_one_setup(setup, sides[0].host, sides[1].host))
    for workers in (1, 2, 4):
        with (
            null_registries(repositories=REPOSITORIES, tags=TAGS) as sides,
            tempfile.TemporaryDirectory() as folder,
            PostgresServer(durable=True) as server,
        ):
            settings = {**bench.settings, **on_postgres(server)}
            setup = Setup(f"PostgreSQL, {workers} worker{'s' if workers > 1 else ''}", Path(folder), settings, workers)
            table.add(*_one_setup(setup, sides[0].host, sides[1].host))


def on_postgres(server: PostgresServer) -> dict[str, str]:
    """Return the settings for a new database of a server."""
    return {"DATABASE_URL": server.create_database().url, "SECRET_KEYS": SECRET_KEY}


def migrate(setup: Setup) -> None:
    """Bring the database up to date, where the service doesn't do so itself."""
    if "DATABASE_URL" in setup.settings:
        command = AppProcess(setup.folder, "migrate", settings=setup.settings)
        command.start()
        if code := command.running.wait(60):
            raise RuntimeError(f"migrate ended with {code}:\n{command.running.log_tail()}")


def _one_setup(setup: Setup, source: str, destination: str) -> Iterator[str]:
    """Yield the figures of one way to run the service."""
    settings = {**setup.settings, "BOOTSTRAP_KEY": API_KEY}
    yield setup.name
    migrate(setup)
    with ExitStack() as stack:
        arguments = ["--no-worker"] if setup.workers else []
        service = stack.enter_context(ServiceProcess(setup.folder, *arguments, settings=settings))
        service.client.headers["Authorization"] = f"Bearer {API_KEY}"
        for name, host in (("source", source), ("destination", destination)):
            body = {"host": host, "insecure": True, **CONNECTIONS}
            service.client.put(f"/v1/registries/{name}", json=body).raise_for_status()
        yield f"{_submissions_per_second(service, source, destination):,.0f}" if setup.workers else ""
        for number in range(setup.workers):
            place = setup.folder / f"worker-{number}"
            place.mkdir()
            stack.enter_context(AppProcess(place, "work", settings=settings))
        drain(service)
        begin = time.perf_counter()
        yield f"{_submissions_per_second(service, source, destination):,.0f}"
        drain(service)
        yield f"{SUBMISSIONS / (time.perf_counter() - begin):,.0f}"
        yield f"{_images_per_second(service, source, destination):,.0f}"


def _submissions_per_second(service: ServiceProcess, source: str, destination: str) -> float:
    """Submit many small jobs from several connections at once."""
    url = service.client.base_url
    bodies = [
        {"source": f"{source}/a:v1.{number % TAGS}.0", "destination": f"{destination}/b-{number}"}
        for number in range(SUBMISSIONS)
    ]
    requests = [post("/v1/jobs", body, host=f"{url.host}:{url.port}", key=API_KEY) for body in bodies]
    address = (url.host, url.port or 80)
    return asyncio.run(send_all(requests, address=address, clients=CLIENTS, expects=HTTPStatus.ACCEPTED))


def _images_per_second(service: ServiceProcess, source: str, destination: str) -> float:
    """Run one job over a whole registry in which every tag is up to date, from submit to done."""
    begin = time.perf_counter()
    job = service.run_job({"source": f"{source}/**", "destination": destination}, seconds=600)
    seconds = time.perf_counter() - begin
    images = job["progress"]["images"]
    if images["up_to_date"] != REPOSITORIES * TAGS:
        raise RuntimeError(f"expected {REPOSITORIES * TAGS} images up to date: {job}")
    return REPOSITORIES * TAGS / seconds


def drain(service: ServiceProcess) -> None:
    """Wait until no job is left, so that the next measurement has the workers to itself."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        left = [
            service.client.get("/v1/jobs", params={"state": state, "limit": 1}).raise_for_status().json()["items"]
            for state in ("queued", "running")
        ]
        if not any(left):
            return
        time.sleep(0.2)
    raise TimeoutError("jobs were left after 600 s")
