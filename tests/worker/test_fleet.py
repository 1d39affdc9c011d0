"""The service as it is deployed, all processes at once: one beside SQLite; two APIs and two workers on PostgreSQL."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.security import Sealer
from app.store.db.database import Database
from app.store.db.migrate import migrate
from tests.benchmarks.fakes import null_registries
from tests.support.fake_registry import Call, FakeRegistry, fake_registry_thread, on
from tests.support.images import blob, oci_image
from tests.support.postgres import PostgresServer
from tests.support.service import AppProcess, ServiceProcess

pytestmark = [pytest.mark.kill, pytest.mark.timeout(300)]

IMAGES = 24
WATCHERS = 500
ENDED_SECONDS = 200
OUTAGE_SECONDS = 8
CONNECTIONS_OF_A_PROCESS = 22
ENDED = ("copied", "up_to_date", "failed", "cancelled")


@dataclass
class Fleet:
    """All processes of one service, and the registries it copies between."""

    source: FakeRegistry
    destination: FakeRegistry
    database_url: str
    apis: list[ServiceProcess]
    workers: list[AppProcess]
    """Those that only work."""
    seen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def processes(self) -> list[AppProcess]:
        return [*self.apis, *self.workers]

    @property
    def request(self) -> dict[str, str]:
        return {"source": f"{self.source.host}/team/**", "destination": self.destination.host}

    def enter(self, **limits: int) -> None:
        """Enter both registries, the destination with limits."""
        for name, registry, entry in (("source", self.source, {}), ("destination", self.destination, limits)):
            body = {"host": registry.host, "insecure": True, "limits": entry}
            self.apis[0].client.put(f"/v1/registries/{name}", json=body).raise_for_status()

    def load(self) -> dict[str, str]:
        """Fill the source; return its tags and what they point to."""
        images = {f"v{number}": oci_image(f"v{number}", layers=[blob(f"own-{number}")]) for number in range(IMAGES)}
        for tag, image in images.items():
            self.source.load("team/app", image, tag)
        return {tag: image.digest for tag, image in images.items()}

    def ask(self, job_id: str) -> dict[str, Any] | None:
        """Ask for a job as behind a load balancer: of whichever API answers, None while none does."""
        for api in self.apis:
            try:
                answer = api.client.get(f"/v1/jobs/{job_id}")
            except httpx.TransportError:
                continue
            if answer.is_success:
                job: dict[str, Any] = answer.json()
                return job
        return None

    def follow(self, job_id: str) -> dict[str, Any]:
        """Poll a job to its end and keep every answer."""
        deadline = time.monotonic() + ENDED_SECONDS
        while time.monotonic() < deadline:
            if (job := self.ask(job_id)) is not None:
                self.seen.append(job)
                if job["done"]:
                    return job
            time.sleep(0.05)
        raise TimeoutError(f"job {job_id} was not done within {ENDED_SECONDS} s: {self.seen[-1:]}")


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Run them all."""
    url = f"sqlite+aiosqlite:///{tmp_path}/registry-sync.db"
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database(template=request.getfixturevalue("migrated_postgres")).url
    with running(url, tmp_path) as fleet:
        yield fleet


@contextmanager
def running(url: str, folder: Path) -> Iterator[Fleet]:
    """Run all processes on a database."""
    number = 1 if url.startswith("sqlite") else 2
    settings = {"GRACE_PERIOD": "1s", "WORKER_PROCESSES": "2", "DATABASE_URL": url}
    settings["SECRET_KEYS"] = json.dumps([Sealer.make_key()])
    folders = [folder / f"machine-{index}" for index in range(number)]
    for each in folders:
        each.mkdir()
    with ExitStack() as stack:
        source, destination = (stack.enter_context(fake_registry_thread()) for _ in range(2))
        only = ["--no-worker"] if number > 1 else []
        apis = [stack.enter_context(ServiceProcess(each, *only, settings=settings)) for each in folders]
        workers = [stack.enter_context(AppProcess(each, "work", settings=settings)) for each in folders if only]
        yield Fleet(source, destination, url, apis, workers)


def shows_progress_only(seen: list[dict[str, Any]]) -> None:
    """See that what a caller was shown of a job only ever grew, and never failed."""
    assert {job["state"] for job in seen} <= {"queued", "running", "succeeded"}
    assert [image["progress"]["images"]["failed"] for image in seen if image["progress"]["images"]["failed"]] == []
    for before, after in pairwise(job["progress"] for job in seen):
        assert before["images"]["total"] <= after["images"]["total"]
        assert sum(before["images"][state] for state in ENDED) <= sum(after["images"][state] for state in ENDED)
        assert before["bytes"]["done"] <= after["bytes"]["done"]
        assert before["bytes"]["transferred"] <= after["bytes"]["transferred"]


def test_while_every_process_is_started_anew_callers_see_progress_only(fleet: Fleet) -> None:
    tags = fleet.load()
    fleet.enter(requests_per_second=20)
    job_id = fleet.apis[0].submit(fleet.request)["id"]
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(fleet.follow, job_id)
        for process in fleet.processes:
            process.stop()
            process.start()
        job = following.result(timeout=90)
    images = job["progress"]["images"]  # one whose tag was written, but not its row, is up to date when it is rescued
    assert (job["state"], images["copied"] + images["up_to_date"]) == ("succeeded", IMAGES)
    assert fleet.seen[0]["progress"]["images"]["copied"] < IMAGES
    shows_progress_only(fleet.seen)
    assert fleet.destination.content.tags("team/app") == tags
    fleet.destination.check()


async def test_while_the_database_is_gone_apis_say_so_and_afterwards_all_goes_on(tmp_path: Path) -> None:
    def outage() -> None:
        tags = fleet.load()
        fleet.enter(requests_per_second=20)
        job_id = fleet.apis[0].submit(fleet.request)["id"]
        fleet.apis[0].follow_until(job_id, lambda job: job["progress"]["images"]["copied"] > 0)
        server.stop()
        for api in fleet.apis:
            refused = [api.client.get(f"/v1/jobs/{job_id}"), api.client.post("/v1/jobs", json=fleet.request)]
            assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {
                (503, "database_unreachable")
            }
            assert {answer.headers["Content-Type"] for answer in refused} == {"application/problem+json"}
            assert api.client.get("/readyz").status_code == 503
            assert api.client.get("/healthz").status_code == 200
        time.sleep(OUTAGE_SECONDS)
        server.start()
        job = fleet.follow(job_id)
        assert (job["state"], job["progress"]["images"]["copied"]) == ("succeeded", IMAGES)
        shows_progress_only(fleet.seen)
        assert len(fleet.apis[0].client.get("/v1/jobs").json()["items"]) == 1
        assert fleet.destination.content.tags("team/app") == tags
        fleet.destination.check()

    with PostgresServer(durable=True) as server:
        url = server.create_database().url
        await migrate(url)
        with running(url, tmp_path) as fleet:
            await asyncio.to_thread(outage)


def test_a_job_of_ten_thousand_images_does_not_keep_a_job_of_one_waiting(fleet: Fleet) -> None:
    (api, *_) = fleet.apis
    with null_registries(ports=1) as [registry]:
        host = registry.host
        api.client.put("/v1/registries/null", json={"host": host, "insecure": True}).raise_for_status()
        large = api.submit({"source": f"{host}/**", "destination": f"{host}/copies"})["id"]
        api.follow_until(large, lambda job: job["progress"]["images"]["up_to_date"] > 0)
        small = api.run_job({"source": f"{host}/team-1/service-1:v1.1.0", "destination": f"{host}/elsewhere/one"})
        meanwhile = api.job(large)
        assert (small["state"], meanwhile["done"]) == ("succeeded", False)
        assert meanwhile["progress"]["images"]["queued"] > 0
        api.client.post(f"/v1/jobs/{large}/cancel").raise_for_status()
        assert api.follow(large)["state"] == "cancelled"


def test_fifty_callers_with_one_key_at_all_apis_get_one_job(fleet: Fleet) -> None:
    fleet.load()
    fleet.enter()

    def submit(number: int) -> httpx.Response:
        client = fleet.apis[number % len(fleet.apis)].client
        return client.post("/v1/jobs", json=fleet.request, headers={"Idempotency-Key": "the-same"})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(submit, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers["Idempotency-Replayed"] for answer in answers].count("false") == 1
    assert len(fleet.apis[-1].client.get("/v1/jobs").json()["items"]) == 1


async def test_five_hundred_callers_watch_one_job_at_all_apis_without_a_connection_each(fleet: Fleet) -> None:
    fleet.load()
    fleet.enter()
    all_watch = asyncio.Event()

    async def lock(_entry: object) -> None:
        while not all_watch.is_set():  # noqa: ASYNC110 — the registry is in another thread's loop
            await asyncio.sleep(0.05)

    fleet.destination.faults.add(Call(lock), matching=on("manifest", method="PUT"))
    job_id = (await asyncio.to_thread(fleet.apis[0].submit, fleet.request))["id"]
    watching = asyncio.Semaphore(0)

    async def stream(client: httpx.AsyncClient) -> list[str]:
        events: list[str] = []
        async with client.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    if not events:
                        watching.release()
                    events.append(line.removeprefix("event: "))
        return events

    async def wait(client: httpx.AsyncClient) -> str:
        answer = await client.get(f"/v1/jobs/{job_id}", params={"wait": "50s"})
        state: str = answer.json()["state"]
        return state

    async with clients_of(fleet) as clients, asyncio.TaskGroup() as group:
        streams, waits = [], []
        for number in range(WATCHERS // 2):
            client = clients[number % len(clients)]
            streams.append(group.create_task(stream(client)))
            waits.append(group.create_task(wait(client)))
        for _ in streams:
            await watching.acquire()
        if fleet.workers:
            assert await connections(fleet.database_url) <= len(fleet.processes) * CONNECTIONS_OF_A_PROCESS
        all_watch.set()
    assert {task.result()[-1] for task in streams} == {"end"}
    assert {task.result() for task in waits} == {"succeeded"}
    assert all("image" in task.result() for task in streams)


async def test_the_next_releases_migration_may_run_beside_live_processes(fleet: Fleet) -> None:
    tags = await asyncio.to_thread(fleet.load)
    await asyncio.to_thread(fleet.enter, requests_per_second=40)
    job_id = (await asyncio.to_thread(fleet.apis[0].submit, fleet.request))["id"]
    following = asyncio.create_task(asyncio.to_thread(fleet.follow, job_id))
    while not any(job["progress"]["images"]["copied"] for job in fleet.seen):  # noqa: ASYNC110 — a thread polls
        await asyncio.sleep(0.02)
    database = Database(fleet.database_url)
    for table in ("images", "units", "jobs", "workers"):
        async with database.transaction() as session:
            await session.execute(text(f"ALTER TABLE {table} ADD COLUMN of_next_release VARCHAR(9) DEFAULT 'new'"))
    async with database.transaction() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.aclose()
    for process in (*fleet.apis[:1], *fleet.workers[:1]):  # this release's code starts on the newer schema too
        await asyncio.to_thread(process.stop)
        await asyncio.to_thread(process.start)
    job = await asyncio.wait_for(following, 200)
    assert job["state"] == "succeeded"
    shows_progress_only(fleet.seen)
    assert fleet.destination.content.tags("team/app") == tags
    logs = [process.log.read_text() for process in fleet.processes]
    assert [log for log in logs if '"level": "error"' in log] == []


@asynccontextmanager
async def clients_of(fleet: Fleet) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Open an asynchronous client of each API, with as many connections as it takes."""
    limits = httpx.Limits(max_connections=None)
    async with AsyncExitStack() as stack:
        urls = [f"http://127.0.0.1:{api.port}" for api in fleet.apis]
        clients = [httpx.AsyncClient(base_url=url, trust_env=False, timeout=70, limits=limits) for url in urls]
        yield [await stack.enter_async_context(client) for client in clients]


async def connections(url: str) -> int:
    """Count who is connected to the database, ourselves aside."""
    database = Database(url)
    question = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    try:
        async with database.reading() as session:
            return int((await session.execute(text(question))).scalar_one())
    finally:
        await database.aclose()
