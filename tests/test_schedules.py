"""Schedules with many processes: whoever is first has the run, and nobody else."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.security import Sealer
from tests.conftest import Namespace
from tests.support.images import oci_image
from tests.support.postgres import PostgresServer
from tests.support.service import AppProcess, ServiceProcess

pytestmark = pytest.mark.kill

POLICIES = 12
ROUNDS = 3
SECONDS = 60.0


def test_every_schedule_fires_once_whichever_of_many_processes_sees_it_first_and_whichever_dies(
    tmp_path: Path, postgres_server: PostgresServer, source: Namespace, destination: Namespace
) -> None:
    image = oci_image("on time")
    source.push("app", image, "1")
    database = postgres_server.create_database()
    settings = {"DATABASE_URL": database.url, "SECRET_KEYS": Sealer.make_key()}
    with ExitStack() as stack:
        stack.callback(postgres_server.drop_database, database.name)
        for name in ("migrate", "first", "second", "third", "api"):
            (tmp_path / name).mkdir()
        migrating = stack.enter_context(AppProcess(tmp_path / "migrate", "migrate", settings=settings))
        assert migrating.running.wait(60) == 0
        service = stack.enter_context(ServiceProcess(tmp_path / "api", settings=settings))
        workers = [
            stack.enter_context(AppProcess(tmp_path / name, "work", settings=settings))
            for name in ("first", "second", "third")
        ]
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        for number in range(POLICIES):
            rule = {"source": source.reference("app"), "destination": destination.reference(f"app-{number}")}
            body = {"rules": [rule], "schedule": {"cron": "0 0 1 1 *"}}
            service.client.put(f"/v1/policies/p{number}", json=body).raise_for_status()

        for due in range(1, ROUNDS + 1):
            postgres_server.execute("UPDATE policies SET next_run_at = now()", database=database.name)
            if due == ROUNDS:
                workers[0].kill()  # whatever it was about to do
            jobs = wait_for_jobs(service, due)
            assert all(len(of_policy) == due for of_policy in jobs.values()), jobs

    assert all(destination.tags(f"app-{number}") == {"1": image.digest} for number in range(POLICIES))


def wait_for_jobs(service: ServiceProcess, number: int) -> dict[str, list[dict[str, Any]]]:
    """Wait until every policy has so many jobs and all are done; then a while longer, for one too many."""
    deadline, settled_at = time.monotonic() + SECONDS, 0.0
    while True:
        items = service.client.get("/v1/jobs", params={"limit": 200}).raise_for_status().json()["items"]
        jobs = {f"p{n}": [job for job in items if job["policy"] == f"p{n}"] for n in range(POLICIES)}
        is_settled = all(len(found) >= number and all(job["done"] for job in found) for found in jobs.values())
        if not is_settled:
            settled_at = 0.0
        elif settled_at == 0.0:
            settled_at = time.monotonic()
        elif time.monotonic() - settled_at > 3:
            return jobs
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all policies came to {number} jobs: {jobs}")
        time.sleep(0.1)
