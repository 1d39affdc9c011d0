"""How many jobs a second are taken in, and how many images that need nothing pass through the whole job path."""

import asyncio
import base64
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

from tests.benchmarks.load import post, send_all
from tests.benchmarks.tables import Row
from tests.support.postgres import PostgresServer
from tests.support.processes import Program
from tests.support.service import ROOT, AppProcess, ServiceProcess

REPOSITORIES = 50
TAGS = 200
SUBMISSIONS = 2_000
CLIENTS = 32
API_KEY = "a-key-that-opens-nothing-but-a-benchmark"
SECRET_KEY = base64.urlsafe_b64encode(bytes(32)).decode()


def measure() -> Iterator[Row]:
    """Yield a row for SQLite, then one each for 1, 2 and 4 workers on PostgreSQL."""
    with null_registry() as host, tempfile.TemporaryDirectory() as folder:
        yield from one_setup(Path(folder), host, name="SQLite, worker inside", database_url=None, workers=0)
    for workers in (1, 2, 4):
        with null_registry() as host, tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as server:
            url = server.create_database().url
            name = f"PostgreSQL, {workers} worker{'s' if workers > 1 else ''}"
            yield from one_setup(Path(folder), host, name=name, database_url=url, workers=workers)


def one_setup(folder: Path, host: str, *, name: str, database_url: str | None, workers: int) -> Iterator[Row]:
    """Measure one way to run the service."""
    settings = {"BOOTSTRAP_KEY": API_KEY} | (
        {"DATABASE_URL": database_url, "SECRET_KEYS": SECRET_KEY} if database_url else {}
    )
    with ExitStack() as stack:
        if database_url:
            migrate = AppProcess(folder, "migrate", settings=settings)
            migrate.start()
            migrate.running.wait(60)
        arguments = ["--no-worker"] if workers else []
        service = stack.enter_context(ServiceProcess(folder, *arguments, settings=settings))
        service.client.headers["Authorization"] = f"Bearer {API_KEY}"
        entry = {"host": host, "insecure": True, "limits": {"connections": 64}}
        service.client.put("/v1/registries/null", json=entry).raise_for_status()
        if workers:
            yield Row(f"submissions/s, nobody working yet ({name})", submissions_per_second(service, host))
        for number in range(workers):
            place = folder / f"worker-{number}"
            place.mkdir()
            stack.enter_context(AppProcess(place, "work", settings=settings))
        drain(service)
        begin = time.perf_counter()
        yield Row(f"submissions/s beside busy workers ({name})", submissions_per_second(service, host))
        drain(service)
        yield Row(f"jobs of one image/s, from submit to done ({name})", SUBMISSIONS / (time.perf_counter() - begin))
        yield Row(f"no-op images/s in one job ({name})", images_per_second(service, host))


def submissions_per_second(service: ServiceProcess, host: str) -> float:
    """Submit many small jobs from several connections at once."""
    url = service.client.base_url
    bodies = [
        {"source": f"{host}/a:v1.{number % TAGS}.0", "destination": f"{host}/b-{number}"}
        for number in range(SUBMISSIONS)
    ]
    requests = [post("/v1/jobs", body, host=f"{url.host}:{url.port}", key=API_KEY) for body in bodies]
    address = (url.host, url.port or 80)
    return asyncio.run(send_all(requests, address=address, clients=CLIENTS, expects=HTTPStatus.ACCEPTED))


def images_per_second(service: ServiceProcess, host: str) -> float:
    """Run one job over a whole registry in which every tag is up to date, from submit to done."""
    begin = time.perf_counter()
    job = service.run_job({"source": f"{host}/**", "destination": host}, seconds=600)
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


@contextmanager
def null_registry() -> Iterator[str]:
    """Run the null registry in a process of its own and hand out its host."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "null.log"
        size = ["--repositories", str(REPOSITORIES), "--tags", str(TAGS)]
        command = [".venv/bin/python", "-m", "tests.benchmarks.null_registry", *size]
        program = Program(command, log=log, folder=ROOT)
        try:
            program.wait_until(lambda: log.read_text().strip().isdigit(), seconds=20)
            yield f"127.0.0.1:{log.read_text().strip()}"
        finally:
            program.end()
