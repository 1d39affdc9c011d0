"""`make bench`: `python -m tests.benchmarks [hooks] [jobs] [peers]`, all of them without arguments."""

import sys

from tests.benchmarks import hooks, jobs, peers
from tests.benchmarks.tables import show

_ALL = {"hooks": hooks.measure, "jobs": jobs.measure, "peers": peers.measure}


def main(names: list[str]) -> int:
    """Run the measurements named, or all."""
    if unknown := [name for name in names if name not in _ALL]:
        print(f"no such measurement: {', '.join(unknown)}; there are: {', '.join(_ALL)}")
        return 2
    for name in names or _ALL:
        show(name, _ALL[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
