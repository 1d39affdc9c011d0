"""The service as one of the contenders: it runs already, as where it is used, and is measured with all it started."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.fakes import null_registries
from tests.benchmarks.measuring import TreeUsage, measure_tree
from tests.benchmarks.peers import Registry
from tests.support.service import ServiceProcess

WAIT = "60s"
CONNECTIONS = {"limits": {"connections": 64}}
"""What an entry is given where its registry is not to be the limit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A job that is done, and what the service used for it."""

    job: dict[str, Any]
    used: TreeUsage


@contextmanager
def running(settings: Mapping[str, str]) -> Iterator[ServiceProcess]:
    """Run the service with an empty SQLite database, one job of a single image behind it: nobody measures its start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        service = stack.enter_context(ServiceProcess(folder, settings=settings))
        with null_registries(repositories=1, tags=1) as sides:
            enter(service, *sides)
            run_job(service, whole_registry(sides[0], sides[1:]))
        yield service


def enter(service: ServiceProcess, *registries: Registry, **more: Any) -> None:
    """Enter registries that may be new to the service, each under a name made of its port."""
    for registry in registries:
        body = {"host": registry.host, "insecure": registry.ca_file is None, **more}
        if registry.ca_file:
            body["tls"] = {"ca": registry.ca_file.read_text()}
        name = f"at-{registry.host.rpartition(':')[2]}"
        service.client.put(f"/v1/registries/{name}", json=body).raise_for_status()


def run_job(service: ServiceProcess, request: Mapping[str, Any]) -> Measured:
    """Submit a job, wait for its end as a caller does (`?wait`), and return it with what it took.

    Raise `RuntimeError` when it did not succeed.
    """
    with measure_tree(service.running.pid) as used:
        job = service.client.post("/v1/jobs", params={"wait": WAIT}, json=dict(request)).raise_for_status().json()
        while not job["done"]:
            job = service.client.get(f"/v1/jobs/{job['id']}", params={"wait": WAIT}).raise_for_status().json()
    if job["state"] != "succeeded":
        raise RuntimeError(f"the job did not succeed: {job}")
    return Measured(job, used)


def whole_registry(source: Registry, destinations: Sequence[Registry]) -> dict[str, Any]:
    """Return the request that copies everything a registry holds, read once and written to every destination."""
    return {"source": f"{source.host}/**", "destination": [registry.host for registry in destinations]}
