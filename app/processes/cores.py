"""How many cores this process may use, and how many workers that makes.

The cores are those of the machine, less by CPU affinity and a container's CPU quota.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MOST_WORKERS = 4
"""Worker processes without a setting: more are for those who know that the registries and the database bear them."""
MOST_WORKERS_BESIDE_SQLITE = 2
"""SQLite has one writer at a time: four processes commit hardly more than two, and the API waits twice as long."""


def default_workers(cores: int, *, has_api: bool, is_sqlite: bool) -> int:
    """Return how many workers a host has without a setting: one for each core that the API does not need.

    Where the API is, one core is left to it, and to the kernel's part of what is sent: one worker more took a quarter
    more CPU for the same work there, and no less time.
    """
    most = MOST_WORKERS_BESIDE_SQLITE if is_sqlite else MOST_WORKERS
    return max(1, min(cores - has_api, most))


def usable_cores(*, cgroup: Path = CGROUP) -> int:
    """Return how many cores may be kept busy, at least 1; a part of a core is none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Read the CPU quota of cgroup v2 (`cpu.max`), else of v1, as a number of cores (Linux: admin-guide/cgroup-v2)."""
    for limit_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (cgroup / limit_file).read_text().split()
            if period_file is not None:
                words += (cgroup / period_file).read_text().split()
            limit, period = (float(word) for word in words)
        except (OSError, ValueError):
            continue  # there is no such file, or no limit: "max", -1
        return limit / period if limit > 0 and period > 0 else None
    return None
