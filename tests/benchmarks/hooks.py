"""How long a registry waits for the answer to a push event, while the worker beside it is as busy as can be."""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.benchmarks.jobs import SECRET_KEY, drain, null_registry
from tests.benchmarks.tables import Row
from tests.support.postgres import PostgresServer
from tests.support.service import AppProcess, ServiceProcess

SENDERS = 8
SECONDS = 12.0
SECRET = "the secret of the hook"
HOOK = {"format": "generic", "auth": {"type": "header", "header": "X-Secret", "secret": SECRET}}
_NUMBERS = itertools.count(1)


def measure() -> Iterator[Row]:
    """Yield the times on SQLite and on PostgreSQL, each with the worker inside: idle, then busy."""
    with null_registry() as host, tempfile.TemporaryDirectory() as folder:
        yield from one_setup(Path(folder), host, name="SQLite", database_url=None)
    with null_registry() as host, tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as server:
        yield from one_setup(Path(folder), host, name="PostgreSQL", database_url=server.create_database().url)


def one_setup(folder: Path, host: str, *, name: str, database_url: str | None) -> Iterator[Row]:
    """Measure one way to run the service."""
    settings = {"DATABASE_URL": database_url, "SECRET_KEYS": SECRET_KEY} if database_url else {}
    with ExitStack() as stack:
        if database_url:
            migrate = AppProcess(folder, "migrate", settings=settings)
            migrate.start()
            migrate.running.wait(60)
        service = stack.enter_context(ServiceProcess(folder, settings=settings))
        entry = {"host": host, "insecure": True, "limits": {"connections": 64}, "hook": HOOK}
        service.client.put("/v1/registries/null", json=entry).raise_for_status()
        rules = [{"source": f"{host}/pushed/**", "destination": f"{host}/mirror"}]
        service.client.put("/v1/policies/mirror", json={"rules": rules, "on_push": True}).raise_for_status()
        for taken, path in (("a policy takes", "pushed"), ("nobody wants", "other")):
            for busy in (False, True):
                jobs = [service.submit({"source": f"{host}/**", "destination": host}) for _ in range(6 * busy)]
                if jobs:
                    service.follow_until(jobs[0]["id"], lambda job: job["progress"]["images"]["up_to_date"] > 0)
                seconds = sorted(asyncio.run(_send_all(service, path)))
                for job in jobs:
                    service.client.post(f"/v1/jobs/{job['id']}/cancel")
                drain(service)
                what = f"push {taken}, worker {'busy' if busy else 'idle'} ({name})"
                yield Row(f"{what}, answers", len(seconds))
                cuts = statistics.quantiles(seconds, n=100)
                for label, value in (("p50", cuts[49]), ("p99", cuts[98]), ("longest", seconds[-1])):
                    yield Row(f"{what}, {label}", value * 1_000, "ms")


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
