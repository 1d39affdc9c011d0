"""The copies that are compared with peers: large, many, again, to many places."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from app.domain.registry import RegistryType
from tests.benchmarks.content import GIB, MIB, many_images, names, one_image
from tests.benchmarks.contest import Bench, Work, contend, run_service, spread
from tests.benchmarks.measuring import TreeUsage, Usage, measure_tree
from tests.benchmarks.peers import Copy
from tests.benchmarks.registries import Fill, Registries, storage, wipe
from tests.benchmarks.results import Section, mib
from tests.benchmarks.service import enter, run_job, running, whole_registry
from tests.support.registries import RegistryProcess

SMALL_REPOSITORIES, SMALL_TAGS = 10, 20
UNCHANGED_REPOSITORIES, UNCHANGED_TAGS = 50, 20
FAN_OUT = 10
ONE = "image"
"""The repository of a case that has one image."""

Sides = Callable[[], AbstractContextManager[Sequence[RegistryProcess]]]


def large(bench: Bench, section: Section, *, tls: bool = False) -> None:
    """Copy one layer of 1 GiB."""
    with _case(bench, one_image(ONE, layers=1, layer_bytes=GIB), tls=tls) as work:
        extras = {} if tls else {"bare PUT of the layer": lambda sides: _bare_put(work.source, sides[0])}
        contend(bench, section, replace(work, extras=extras))


def layers(bench: Bench, section: Section) -> None:
    """Copy one image of 8 layers of 64 MiB."""
    with _case(bench, one_image(ONE, layers=8, layer_bytes=64 * MIB)) as work:
        contend(bench, section, work)


def many_layers(bench: Bench, section: Section) -> None:
    """Copy one image of 30 layers of 2 MiB."""
    with _case(bench, one_image(ONE, layers=30, layer_bytes=2 * MIB)) as work:
        contend(bench, section, work)


def small(bench: Bench, section: Section, *, tls: bool = False) -> None:
    """Copy 200 small images in 10 repositories to a registry nobody has seen before."""
    fill = many_images(SMALL_REPOSITORIES, SMALL_TAGS)
    with (
        _case(bench, fill, repositories=names(SMALL_REPOSITORIES), tls=tls) as work,
        _with_two_workers(bench, work) as both,
    ):
        contend(bench, section, both)


def wiped(bench: Bench, section: Section) -> None:
    """Copy the same 200 images again and again to one registry that loses everything in between."""
    fill = many_images(SMALL_REPOSITORIES, SMALL_TAGS)
    with _case(bench, fill, repositories=names(SMALL_REPOSITORIES)) as work, work.registries.empty() as registry:

        @contextmanager
        def emptied() -> Iterator[Sequence[RegistryProcess]]:
            wipe(registry)
            yield [registry]

        contend(bench, section, replace(work, destinations=emptied))


def unchanged(bench: Bench, section: Section, *, tls: bool = False) -> None:
    """Go over 1,000 tags in 50 repositories of which nothing is new."""
    fill = many_images(UNCHANGED_REPOSITORIES, UNCHANGED_TAGS)
    with (
        _case(bench, fill, repositories=names(UNCHANGED_REPOSITORIES), tls=tls) as work,
        work.registries.twin(work.source) as twin,
    ):

        @contextmanager
        def same() -> Iterator[Sequence[RegistryProcess]]:
            yield [twin]

        with _with_two_workers(bench, replace(work, destinations=same)) as both:
            contend(bench, section, both)


def fan_out(bench: Bench, section: Section) -> None:
    """Copy one image of 4 layers of 16 MiB to 10 registries at once."""
    with _case(bench, one_image(ONE, layers=4, layer_bytes=16 * MIB), destinations=FAN_OUT) as work:
        contend(bench, section, work)


def chunked(bench: Bench, section: Section) -> None:
    """Copy one layer of 1 GiB to Distribution, in chunks of 8 MiB that are points to go on from, and in one PUT."""
    table = section.table(
        "upload", "wall s", "CPU s", "peak over idle", "registry's CPU s", "chunks / one: wall", "CPU"
    )
    found: dict[RegistryType, list[tuple[TreeUsage, TreeUsage]]] = {"generic": [], "zot": []}
    with _case(bench, one_image(ONE, layers=1, layer_bytes=GIB)) as work, running(bench.settings) as service:
        enter(service, work.source)
        for number in range(bench.rounds):
            for kind in sorted(found, reverse=bool(number % 2)):
                with work.destinations() as [destination]:
                    enter(service, destination, type=kind)  # Distribution gets one PUT where it is said to be zot
                    with measure_tree(destination.pid) as registry:
                        used = run_job(service, work.request([destination])).used
                    found[kind].append((used, registry))
                    print(f"  round {number + 1}: {kind}: {used.usage}, registry {registry.usage}", flush=True)
    for kind, name in (("generic", "chunks of 8 MiB"), ("zot", "one PUT")):
        pairs = list(zip(found["generic"], found[kind], strict=True))
        table.add(
            name,
            f"{median(ours.usage.wall_seconds for ours, _ in found[kind]):.2f}",
            f"{median(ours.usage.cpu_seconds for ours, _ in found[kind]):.2f}",
            mib(max(ours.peak_over_idle_bytes for ours, _ in found[kind])),
            f"{median(theirs.usage.cpu_seconds for _, theirs in found[kind]):.2f}",
            ""
            if kind == "generic"
            else spread([a.usage.wall_seconds / b.usage.wall_seconds for (a, _), (b, _) in pairs]),
            ""
            if kind == "generic"
            else spread([a.usage.cpu_seconds / b.usage.cpu_seconds for (a, _), (b, _) in pairs]),
        )


@contextmanager
def _with_two_workers(bench: Bench, work: Work) -> Iterator[Work]:
    """Have the service with two workers do the work too: by default it has one where there are two cores."""
    with running({**bench.settings, "WORKER_PROCESSES": "2"}) as service:
        yield replace(work, extras={"registry-sync, 2 workers": partial(run_service, service, work)})


@contextmanager
def _case(
    bench: Bench, fill: Fill, *, repositories: Sequence[str] = (), destinations: int = 1, tls: bool = False
) -> Iterator[Work]:
    """Prepare a source, and fresh destinations for every run; without repositories it is the one image."""
    registries = Registries(bench.program, tls=tls)
    pairs: list[tuple[str, str | None]] = [(name, None) for name in repositories] or [(ONE, "v1")]

    @contextmanager
    def fresh() -> Iterator[Sequence[RegistryProcess]]:
        with ExitStack() as stack:
            yield [stack.enter_context(registries.empty()) for _ in range(destinations)]

    with registries.filled(fill) as source:
        yield Work(
            registries=registries,
            source=source,
            destinations=fresh,
            copies=lambda sides: [Copy(source, side, name, tag) for side in sides for name, tag in pairs],
            request=lambda sides: whole_registry(source, sides),
        )


def _bare_put(source: RegistryProcess, destination: RegistryProcess) -> Usage:
    """Send the largest blob straight from the source's file with one PUT: less than any copier can do."""
    path = max(storage(source).glob("**/blobs/sha256/*/*/data"), key=lambda file: file.stat().st_size)
    connection = HTTPConnection(destination.host)
    begin = time.perf_counter()
    cpu = time.process_time()
    connection.request("POST", f"/v2/{ONE}/blobs/uploads/")
    begun = connection.getresponse()
    begun.read()
    place = urlsplit(begun.headers["Location"])
    connection.putrequest("PUT", f"{place.path}?{place.query}&digest=sha256:{path.parent.name}")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(path.stat().st_size))
    connection.endheaders()
    _send_file(connection, path)
    answer = connection.getresponse()
    answer.read()
    used = Usage(time.perf_counter() - begin, time.process_time() - cpu, 0)
    connection.close()
    if answer.status != 201:
        raise RuntimeError(f"the registry answered {answer.status} to a bare PUT")
    return used


def _send_file(connection: HTTPConnection, path: Path) -> None:
    with path.open("rb") as file:
        connection.sock.sendfile(file)
