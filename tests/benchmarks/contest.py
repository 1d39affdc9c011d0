"""The same work by the service and by each peer, in turn and round by round, on registries of the same kind.

A machine is never as idle as one thinks: only what was measured within one round is compared, and what is reported is
the median of those ratios, with the least and the greatest.
"""

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import CommandFailedError, Usage, run_command
from tests.benchmarks.peers import Copy, Peer
from tests.benchmarks.registries import Registries
from tests.benchmarks.results import Section, Table, mib
from tests.benchmarks.service import enter, run_job, running
from tests.support.registries import RegistryProcess
from tests.support.service import ServiceProcess

OURS = "registry-sync"
COMMAND_SECONDS = 600.0
LOG_SECONDS = 0.05
"""A line of the access log may come a moment after the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """How everything is run: what the command line said."""

    rounds: int
    peers: tuple[Peer, ...]
    missing: tuple[str, ...]
    program: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One kind of work; `copies` says it for the peers and `request` for the service."""

    registries: Registries
    source: RegistryProcess
    destinations: Callable[[], AbstractContextManager[Sequence[RegistryProcess]]]
    """Runs the destinations for one contender in one round, in the state that the case is about."""
    copies: Callable[[Sequence[RegistryProcess]], list[Copy]]
    request: Callable[[Sequence[RegistryProcess]], dict[str, Any]]
    extras: Mapping[str, Callable[[Sequence[RegistryProcess]], Usage]] = field(default_factory=dict)
    """Contenders that are no copiers, such as a bare PUT."""


def contend(bench: Bench, section: Section, work: Work) -> None:
    """Run all rounds and put the figures into the section."""
    found: dict[str, list[Usage]] = defaultdict(list)
    failed: dict[str, str] = {}
    with running(bench.settings) as service:
        contenders = _contenders(bench, work, service)
        for number in range(bench.rounds):
            for name in rotated([name for name in contenders if name not in failed], by=number):
                try:
                    found[name].append(_one_run(work, contenders[name]))
                    print(f"  round {number + 1}: {name}: {_figures(found[name][-1])}", flush=True)
                except CommandFailedError as error:
                    failed[name] = str(error)
                    print(f"  round {number + 1}: {name} failed: {error}", flush=True)
    table = section.table("copier", "wall s", "CPU s", "peak", "requests", "ours / theirs: wall", "CPU")
    for name in contenders:
        if name in failed:
            table.add(name, "failed", *[""] * 5)
        else:
            _report(table, name, found[name], ours=found[OURS])


def _one_run(work: Work, run: Callable[[Sequence[RegistryProcess]], Usage]) -> Usage:
    """Let one contender do the work on destinations of its own, and count what the registries were asked."""
    with work.destinations() as destinations:
        before = _answered(work.source, destinations)
        used = run(destinations)
        time.sleep(LOG_SECONDS)
        return replace(used, requests=_answered(work.source, destinations) - before)


def _contenders(
    bench: Bench, work: Work, service: ServiceProcess
) -> dict[str, Callable[[Sequence[RegistryProcess]], Usage]]:
    def theirs(peer: Peer) -> Callable[[Sequence[RegistryProcess]], Usage]:
        return lambda destinations: run_peer(peer, work.copies(destinations))

    able = [peer for peer in bench.peers if peer.can(work.copies([work.source]))]
    return {OURS: partial(run_service, service, work), **{peer.label: theirs(peer) for peer in able}, **work.extras}


def run_service(service: ServiceProcess, work: Work, destinations: Sequence[RegistryProcess]) -> Usage:
    """Have a running service do the work and return what it used."""
    enter(service, work.source, *destinations)
    return run_job(service, work.request(destinations)).used.usage


def run_peer(peer: Peer, copies: Sequence[Copy]) -> Usage:
    """Run a peer's commands one after the other and return what they used together."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = {
            "HOME": place,
            "XDG_RUNTIME_DIR": place,
            "OTEL_TRACES_EXPORTER": "none",
            **_trust(copies, folder),
        }
        return reduce(
            add,
            [
                run_command(command, environment=environment, folder=folder, limit_seconds=COMMAND_SECONDS)
                for command in peer.commands(peer.program, copies, folder)
            ],
        )


def _trust(copies: Sequence[Copy], folder: Path) -> dict[str, str]:
    """Return the variable by which a Go program trusts the registries' authorities, where they have one."""
    files = {side.ca_file for copy in copies for side in (copy.source, copy.destination) if side.ca_file}
    if not files:
        return {}
    bundle = folder / "ca.pem"
    bundle.write_text("".join(file.read_text() for file in sorted(files)))
    return {"SSL_CERT_FILE": str(bundle), "SSL_CERT_DIR": os.devnull}


def _answered(source: RegistryProcess, destinations: Sequence[RegistryProcess]) -> int:
    return sum(len(registry.access_log()) for registry in (source, *destinations))


def rotated(names: list[str], *, by: int) -> Iterator[str]:
    """Yield names in another order in each round: who comes first has no advantage over all of them."""
    start = by % len(names)
    yield from names[start:] + names[:start]


def _report(table: Table, name: str, used: Sequence[Usage], *, ours: Sequence[Usage]) -> None:
    wall = spread([one.wall_seconds / other.wall_seconds for one, other in zip(ours, used, strict=True)])
    cpu = spread([one.cpu_seconds / other.cpu_seconds for one, other in zip(ours, used, strict=True)])
    table.add(
        name,
        f"{statistics.median(one.wall_seconds for one in used):.2f}",
        f"{statistics.median(one.cpu_seconds for one in used):.2f}",
        mib(max(one.peak_bytes for one in used)),
        f"{statistics.median(one.requests for one in used):.0f}",
        "" if name == OURS else wall,
        "" if name == OURS else cpu,
    )


def spread(values: Sequence[float]) -> str:
    """Return a median with its range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _figures(used: Usage) -> str:
    return f"{used.wall_seconds:.2f} s, CPU {used.cpu_seconds:.2f} s, {mib(used.peak_bytes)}, {used.requests} requests"
