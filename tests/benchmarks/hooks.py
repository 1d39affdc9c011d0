"""How long a registry waits for the answer to a push event, while the worker beside it is as busy as can be."""

import asyncio
import itertools
import tempfile
import time
from pathlib import Path

import httpx

from tests.benchmarks.contest import Bench
from tests.benchmarks.fakes import null_registries
from tests.benchmarks.jobs import Setup, drain, migrate, on_postgres
from tests.benchmarks.results import Section, Table, milliseconds
from tests.benchmarks.service import CONNECTIONS
from tests.support.postgres import PostgresServer
from tests.support.service import ServiceProcess

SENDERS = 8
SECONDS = 12.0
SECRET = "the secret of the hook"
HOOK = {"format": "generic", "auth": {"type": "header", "header": "X-Secret", "secret": SECRET}}
_NUMBERS = itertools.count(1)


def hooks(bench: Bench, section: Section) -> None:
    """Send push events from eight connections that never rest, the worker inside: idle, then as busy as can be."""
    table = section.table("database", "push event", "worker", "answers", "p50 ms", "p99 ms", "longest ms")
    with tempfile.TemporaryDirectory() as folder:
        _one_setup(table, Setup("SQLite", Path(folder), bench.settings))
    with tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as server:
        _one_setup(table, Setup("PostgreSQL", Path(folder), {**bench.settings, **on_postgres(server)}))


def _one_setup(table: Table, setup: Setup) -> None:
    """Measure one way to run the service."""
    migrate(setup)
    with null_registries() as sides, ServiceProcess(setup.folder, settings=setup.settings) as service:
        source, destination = (side.host for side in sides)
        for name, host in (("null", source), ("mirror", destination)):
            entry = {"host": host, "insecure": True, "hook": HOOK, **CONNECTIONS}
            service.client.put(f"/v1/registries/{name}", json=entry).raise_for_status()
        rules = [{"source": f"{source}/pushed/**", "destination": f"{destination}/mirror"}]
        service.client.put("/v1/policies/mirror", json={"rules": rules, "on_push": True}).raise_for_status()
        for taken, path in (("a policy takes it", "pushed"), ("no policy takes it", "other")):
            for busy in (False, True):
                whole = {"source": f"{source}/**", "destination": destination}
                jobs = [service.submit(whole) for _ in range(6 * busy)]
                if jobs:
                    service.follow_until(jobs[0]["id"], lambda job: job["progress"]["images"]["up_to_date"] > 0)
                seconds = asyncio.run(_send_all(service, path))
                for job in jobs:
                    service.client.post(f"/v1/jobs/{job['id']}/cancel")
                drain(service)
                cells = (setup.name, taken, "busy" if busy else "idle", f"{len(seconds):,}")
                table.add(*cells, *milliseconds(seconds))


async def _send_all(service: ServiceProcess, path: str) -> list[float]:
    """Send events from several connections at once for a while; return how long each answer took, in seconds."""
    taken: list[float] = []
    async with httpx.AsyncClient(base_url=service.client.base_url, trust_env=False, timeout=60) as client:
        end = time.perf_counter() + SECONDS

        async def one_sender() -> None:
            while time.perf_counter() < end:
                number = next(_NUMBERS)
                body = {"repository": f"{path}/app-{number % 50}", "tag": f"v1.{number}.0", "id": str(number)}
                begin = time.perf_counter()
                answer = await client.post("/v1/hooks/null", json=body, headers={"X-Secret": SECRET})
                answer.raise_for_status()
                taken.append(time.perf_counter() - begin)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(one_sender() for _ in range(SENDERS)))
    return taken
