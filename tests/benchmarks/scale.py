"""What becomes of much: tags by the hundred thousand, layers of many GiB, registries by the hundred.

The registries here are fake ones that cost little, so that memory and time are the copier's.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median
from typing import Any

from tests.benchmarks.content import GIB
from tests.benchmarks.contest import OURS, Bench, rotated, run_peer, spread
from tests.benchmarks.fakes import FakeRegistry, endless_registries, null_registries
from tests.benchmarks.measuring import Usage, resident_bytes, tree
from tests.benchmarks.peers import Copy, Peer
from tests.benchmarks.results import Section, Table, mib
from tests.benchmarks.service import CONNECTIONS, enter, run_job, running, whole_registry
from tests.support.service import ServiceProcess

MANY_REPOSITORIES, MANY_TAGS = 500, 200
LISTED_REPOSITORIES, LISTED_TAGS = (1, 50), 1_000
LATENCIES = (0.0, 0.02)
BY_LIST, BY_HEAD = f"{OURS}, by list", f"{OURS}, by HEAD"
CURVE = (100, 300, 1_000, 3_000, 10_000)
PLANS = (10_000, 30_000, 100_000)
TAGS_PER_REPOSITORY = 100
LAYER_BYTES = 1024
SIZES = (1 * GIB, 10 * GIB)
ENTRIES = 120
SETTLE_SECONDS = 2.0


def tags(bench: Bench, section: Section) -> None:
    """Go in one job over 100,000 tags in 500 repositories of which nothing is new; the registry costs nothing."""
    table = section.table("copier", "wall s", "CPU s", "tags/s", "peak", "over idle", "requests")
    count = MANY_REPOSITORIES * MANY_TAGS
    with (
        null_registries(repositories=MANY_REPOSITORIES, tags=MANY_TAGS) as sides,
        running(bench.settings) as service,
    ):
        enter(service, *sides, **CONNECTIONS)
        before = sides[0].answered()
        measured = run_job(service, whole_registry(sides[0], sides[1:]))
        _check_unchanged(measured.job, count)
        used, over = measured.used.usage, mib(measured.used.peak_over_idle_bytes)
        _add_many(table, OURS, used, count=count, over=over, requests=sides[0].answered() - before)
        for peer in (peer for peer in bench.peers if peer.name == "regsync"):  # the one that compares by HEAD
            before = sides[0].answered()
            used = run_peer(peer, _all_of(sides, MANY_REPOSITORIES))
            _add_many(table, peer.label, used, count=count, over="", requests=sides[0].answered() - before)


def listed(bench: Bench, section: Section) -> None:
    """Go over 1,000 unchanged tags by digest lists, as ACR has them, at both sides, and by HEAD, as regsync does.

    With answers that come at once, and 20 ms later: what a registry in another place takes.
    """
    table = section.table(
        "repositories", "answers after", "copier", "wall s", "CPU s", "requests", "by list / this one: wall", "CPU"
    )
    peers = [peer for peer in bench.peers if peer.name == "regsync"]
    for repositories, latency in product(LISTED_REPOSITORIES, LATENCIES):
        found: dict[str, list[Usage]] = defaultdict(list)
        tags_of_each = LISTED_TAGS // repositories
        with (
            null_registries(repositories=repositories, tags=tags_of_each, ports=4, latency=latency) as sides,
            running(bench.settings) as service,
        ):
            with_lists, without = sides[:2], sides[2:]
            enter(service, *with_lists, type="acr", **CONNECTIONS)
            enter(service, *without, **CONNECTIONS)
            contenders = {BY_LIST: partial(_run_listed, service, with_lists)}
            contenders[BY_HEAD] = partial(_run_listed, service, without)
            contenders |= {peer.label: partial(run_peer, peer, _all_of(without, repositories)) for peer in peers}
            for number in range(bench.rounds):
                for name in rotated([*contenders], by=number):
                    before = sides[0].answered()
                    used = contenders[name]()
                    found[name].append(replace(used, requests=sides[0].answered() - before))
                    print(f"  round {number + 1}: {repositories}, {latency}: {name}: {found[name][-1]}", flush=True)
        for name in contenders:
            _add_listed(table, [f"{repositories}", f"{latency * 1000:.0f} ms", name], found[name], ours=found[BY_LIST])


def curves(bench: Bench, section: Section) -> None:
    """Go over 100 to 10,000 unchanged tags of one repository: what one tag costs must not grow with their number."""
    table = section.table("tags", "wall s", "CPU s", "CPU ms/tag", "requests/tag", "over idle")
    with running(bench.settings) as service:
        for count in CURVE:
            with null_registries(repositories=1, tags=count) as sides:
                enter(service, *sides, **CONNECTIONS)
                before = sides[0].answered()
                measured = run_job(service, whole_registry(sides[0], sides[1:]))
                asked = sides[0].answered() - before
                _check_unchanged(measured.job, count)
                used = measured.used.usage
                table.add(
                    f"{count:,}",
                    f"{used.wall_seconds:.2f}",
                    f"{used.cpu_seconds:.2f}",
                    f"{used.cpu_seconds / count * 1_000:.2f}",
                    f"{asked / count:.2f}",
                    mib(measured.used.peak_over_idle_bytes),
                )


def plans(bench: Bench, section: Section) -> None:
    """Plan 10,000 to 100,000 images, all still to be copied, as a job: memory must not grow with their number."""
    table = section.table("tags", "wall s", "CPU s", "CPU ms/tag", "over idle, one process")
    for count in PLANS:
        repositories = count // TAGS_PER_REPOSITORY
        with (
            endless_registries(
                repositories=repositories, tags=TAGS_PER_REPOSITORY, layers=1, layer_bytes=LAYER_BYTES
            ) as sides,
            running(bench.settings) as service,
        ):
            enter(service, *sides, **CONNECTIONS)
            measured = run_job(service, whole_registry(sides[0], sides[1:]) | {"dry_run": True})
            found = measured.job["totals"]["copy"]
            if found != count:
                raise RuntimeError(f"{found} of {count} images are to be copied")
            used = measured.used.usage
            table.add(
                f"{count:,}",
                f"{used.wall_seconds:.1f}",
                f"{used.cpu_seconds:.1f}",
                f"{used.cpu_seconds / count * 1_000:.2f}",
                mib(measured.used.peak_over_idle_bytes),
            )


def memory(bench: Bench, section: Section) -> None:
    """Copy one layer of 1 GiB and one of 10 GiB between registries that hold nothing: peak memory."""
    table = section.table("copier", "layer", "wall s", "CPU s", "peak", "over idle, per process")
    for size in SIZES:
        with endless_registries(layers=1, layer_bytes=size) as sides, running(bench.settings) as service:
            enter(service, *sides)
            measured = run_job(service, {"source": f"{sides[0].host}/app-0:v0", "destination": sides[1].host})
            _add_memory(table, OURS, size, measured.used.usage, over=mib(measured.used.peak_over_idle_bytes))
            for peer in bench.peers:
                _peer_memory(table, peer, sides, size=size)


def entries(bench: Bench, section: Section) -> None:
    """Use 120 registry entries over TLS, one image each: what each of them keeps in memory."""
    table = section.table("entries used", "memory of all processes", "MB an entry")
    with (
        null_registries(repositories=1, tags=1, ports=ENTRIES + 2, tls=True) as sides,
        running(bench.settings) as service,
    ):
        *used, first, second = sides
        enter(service, *sides)
        run_job(service, {"source": f"{first.host}/a:v1.0.0", "destination": second.host})
        time.sleep(SETTLE_SECONDS)
        before = _memory(service.running.pid)
        table.add("none", mib(before), "")
        for number in range(0, ENTRIES, 2):
            run_job(service, {"source": f"{used[number].host}/a:v1.0.0", "destination": used[number + 1].host})
        time.sleep(SETTLE_SECONDS)
        after = _memory(service.running.pid)
        table.add(f"{ENTRIES}", mib(after), f"{(after - before) / ENTRIES / 1_000_000:.2f}")


def _run_listed(service: ServiceProcess, sides: Sequence[FakeRegistry]) -> Usage:
    request = whole_registry(sides[0], sides[1:]) | {"options": {"companions": "on_change"}}
    measured = run_job(service, request)
    _check_unchanged(measured.job, LISTED_TAGS)
    return measured.used.usage


def _all_of(sides: Sequence[FakeRegistry], repositories: int) -> list[Copy]:
    names = [f"team-{number % 10}/service-{number}" for number in range(repositories)]
    return [Copy(sides[0], sides[1], name) for name in names]


def _add_listed(table: Table, what: Sequence[str], used: Sequence[Usage], *, ours: Sequence[Usage]) -> None:
    pairs = list(zip(ours, used, strict=True))
    is_ours = used is ours
    table.add(
        *what,
        f"{median(one.wall_seconds for one in used):.2f}",
        f"{median(one.cpu_seconds for one in used):.2f}",
        f"{median(one.requests for one in used):.0f}",
        "" if is_ours else spread([one.wall_seconds / other.wall_seconds for one, other in pairs]),
        "" if is_ours else spread([one.cpu_seconds / other.cpu_seconds for one, other in pairs]),
    )


def _add_many(table: Table, name: str, used: Usage, *, count: int, over: str, requests: int) -> None:
    table.add(
        name,
        f"{used.wall_seconds:.1f}",
        f"{used.cpu_seconds:.1f}",
        f"{count / used.wall_seconds:,.0f}",
        mib(used.peak_bytes),
        over,
        f"{requests:,}",
    )


def _peer_memory(table: Table, peer: Peer, sides: tuple[FakeRegistry, FakeRegistry], *, size: int) -> None:
    _add_memory(table, peer.label, size, run_peer(peer, [Copy(*sides, "app-0", "v0")]), over="")


def _add_memory(table: Table, name: str, size: int, used: Usage, *, over: str) -> None:
    layer = f"{size // GIB} GiB"
    table.add(name, layer, f"{used.wall_seconds:.1f}", f"{used.cpu_seconds:.2f}", mib(used.peak_bytes), over)


def _check_unchanged(job: dict[str, Any], count: int) -> None:
    found = job["progress"]["images"]["up_to_date"]
    if found != count:
        raise RuntimeError(f"{found} of {count} images were up to date: {job['progress']}")


def _memory(pid: int) -> int:
    return sum(resident_bytes(each) for each in tree(pid))
