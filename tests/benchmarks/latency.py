"""How long callers wait: the API while the service is idle and while it copies, and one job that has nothing to do."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

from tests.benchmarks.content import MIB, one_image
from tests.benchmarks.contest import Bench
from tests.benchmarks.fakes import endless_registries, null_registries
from tests.benchmarks.measuring import measure_tree
from tests.benchmarks.registries import Registries
from tests.benchmarks.results import Section, milliseconds
from tests.benchmarks.service import enter, running
from tests.support.images import OCI_MANIFEST
from tests.support.service import ServiceProcess

ASKED = 300
PAUSE_SECONDS = 0.02
NOOPS = 200
WARM_UP = 20
READ = ("/healthz", "/v1/jobs?limit=50", "/v1/jobs/{job}")


def api(bench: Bench, section: Section) -> None:
    """Ask the API again and again while it is idle, while it copies layers, and while it copies small images."""
    table = section.table("meanwhile", "request", "p50 ms", "p99 ms", "longest ms")
    loads = (("idle", 0, 0), ("copying layers of 64 MiB", 2, 64 * MIB), ("copying small images", 3, 16 * 1024))
    for meanwhile, layers, layer_bytes in loads:
        with (
            null_registries() as null,
            endless_registries(repositories=50, tags=200, layers=layers, layer_bytes=layer_bytes) as sides,
            running(bench.settings) as service,
        ):
            enter(service, *sides, *null)
            one = {"source": f"{null[0].host}/a:v1.0.0", "destination": null[1].host}
            job = service.run_job(one)
            with _copying(service, sides[0].host, sides[1].host) if layers else _nothing():
                for path in READ:
                    asked = _ask_often(service, "GET", path.format(job=job["id"]))
                    table.add(meanwhile, f"GET {path}", *milliseconds(asked))
                asked = _ask_often(service, "POST", "/v1/jobs", body=one)
                table.add(meanwhile, "POST /v1/jobs", *milliseconds(asked))


def noop(bench: Bench, section: Section) -> None:
    """Submit one image that needs nothing with `?wait`, against a bare HEAD of its manifest at either side."""
    table = section.table("what", "p50 ms", "p99 ms", "longest ms", "CPU ms of the service")
    registries = Registries(bench.program)
    with (
        registries.filled(one_image("image", layers=1, layer_bytes=MIB)) as source,
        registries.twin(source) as destination,
        running(bench.settings) as service,
    ):
        enter(service, source, destination)
        request = {"source": f"{source.host}/image:v1", "destination": f"{destination.host}/image:v1"}
        heads = [_connection(side.host) for side in (source, destination)]
        ours = _connection(f"127.0.0.1:{service.port}")

        def pair() -> None:
            for connection in heads:
                connection("HEAD", "/v2/image/manifests/v1", None)

        def job() -> None:
            ours("POST", "/v1/jobs?wait=30s", request)

        for _ in range(WARM_UP):
            job()
        with measure_tree(service.running.pid) as used:
            taken = [(_timed(pair), _timed(job)) for _ in range(NOOPS)]
        table.add("bare pair of HEADs", *milliseconds([bare for bare, _ in taken]), "")
        cpu = f"{used.usage.cpu_seconds / NOOPS * 1_000:.1f}"
        table.add("POST /v1/jobs?wait=30s", *milliseconds([whole for _, whole in taken]), cpu)
        table.add("over the bare pair", *milliseconds([whole - bare for bare, whole in taken]), "")


@contextmanager
def _copying(service: ServiceProcess, source: str, sink: str) -> Iterator[None]:
    """Keep the service copying for the length of a block: there is always more, and nothing is ever there."""
    bodies = [{"source": f"{source}/**", "destination": f"{sink}/{number}"} for number in range(4)]
    jobs = [service.submit(body) for body in bodies]
    service.follow_until(jobs[0]["id"], lambda job: job["progress"]["bytes"]["transferred"] > 0)
    yield
    for job in jobs:
        service.client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _ask_often(service: ServiceProcess, method: str, path: str, *, body: Any = None) -> list[float]:
    """Send a request many times over one connection, with a pause between, and return the seconds of each answer."""
    ask = _connection(f"127.0.0.1:{service.port}")
    taken = []
    for _ in range(ASKED):
        taken.append(_timed(lambda: ask(method, path, body)))
        time.sleep(PAUSE_SECONDS)
    return taken


def _connection(host: str) -> Callable[[str, str, Any], None]:
    """Return what sends a request over one connection and reads the answer, with little around it."""
    connection = HTTPConnection(host, timeout=60)
    headers = {"Accept": f"{OCI_MANIFEST}, application/json", "Content-Type": "application/json"}

    def ask(method: str, path: str, body: Any) -> None:
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text.decode(errors='replace')}")

    return ask


def _timed(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
