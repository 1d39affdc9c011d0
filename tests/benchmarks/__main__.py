"""`make bench`: `python -m tests.benchmarks [case …] [--rounds N] [--peers DIR]`, all cases without a name."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks import copies, hooks, jobs, latency, scale
from tests.benchmarks.contest import Bench
from tests.benchmarks.peers import find_peers
from tests.benchmarks.registries import find_program, program_version
from tests.benchmarks.results import RESULTS, Section, keep, machine

Case = Callable[[Bench, Section], None]

CASES: dict[str, Case] = {
    "large": copies.large,
    "large-tls": partial(copies.large, tls=True),
    "chunked": copies.chunked,
    "layers": copies.layers,
    "many-layers": copies.many_layers,
    "small": copies.small,
    "small-tls": partial(copies.small, tls=True),
    "wiped": copies.wiped,
    "unchanged": copies.unchanged,
    "unchanged-tls": partial(copies.unchanged, tls=True),
    "listed": scale.listed,
    "fan-out": copies.fan_out,
    "tags": scale.tags,
    "curves": scale.curves,
    "plans": scale.plans,
    "memory": scale.memory,
    "entries": scale.entries,
    "noop": latency.noop,
    "api": latency.api,
    "jobs": jobs.jobs,
    "hooks": hooks.hooks,
}


def main(arguments: Sequence[str]) -> int:
    """Run the cases named, or all, and keep what they say."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    path = os.environ.get("PATH", os.defpath)
    folders = os.pathsep.join([str(options.peers.resolve()), path]) if options.peers else path
    found, missing = find_peers(folders)
    chosen = [peer for peer in found if not options.against or peer.name in options.against]
    bench = Bench(
        rounds=options.rounds,
        peers=tuple(chosen),
        missing=tuple(missing),
        program=options.registry or find_program(folders),
        settings=dict(setting.split("=", 1) for setting in options.setting),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # all that was started is ended, too
    for name in options.cases or CASES:
        section = Section(name, _what(CASES[name]), _circumstances(bench))
        CASES[name](bench, section)
        keep(section, options.results)
    print(f"\nkept in {options.results}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure beside peers.")
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (%(default)s)")
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="folder to look for peers and registries in before the PATH"
    )
    parser.add_argument("--against", nargs="+", metavar="PEER", help="only these peers")
    parser.add_argument("--registry", help="the registry's program: Distribution 3 or 2.8, a name or a path")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the service")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the page to keep figures in (%(default)s)")
    return parser


def _what(case: Case) -> str:
    function = case.func if isinstance(case, partial) else case
    over = ", over TLS" if isinstance(case, partial) else ""
    return (function.__doc__ or "").partition("\n")[0].rstrip(".") + f"{over}."


def _circumstances(bench: Bench) -> str:
    parts = [machine(), program_version(bench.program), f"{bench.rounds} rounds"]
    if bench.settings:
        parts.append("with " + " ".join(f"{name}={value}" for name, value in bench.settings.items()))
    absent = f" Not on this machine: {', '.join(bench.missing)}." if bench.missing else ""
    return "; ".join(parts) + f".{absent}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
