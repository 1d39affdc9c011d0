"""How many cores this process may use: those of the machine, less by CPU affinity and a container's CPU quota."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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
