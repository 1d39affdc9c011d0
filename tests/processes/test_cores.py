"""How many worker processes a host gets: its cores, less by a container's quota."""

import os
from pathlib import Path

import pytest

from app.processes.cores import default_workers, usable_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, CORES),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "999900000 100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "nonsense"}, CORES),
    ],
)
def test_a_cpu_quota_is_respected(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    assert usable_cores(cgroup=tmp_path) == cores


@pytest.mark.parametrize(
    ("cores", "beside_api", "alone", "beside_sqlite"),
    [(1, 1, 1, 1), (2, 1, 2, 1), (3, 2, 3, 2), (4, 3, 4, 2), (16, 4, 4, 2)],
)
def test_a_core_is_left_to_the_api(cores: int, beside_api: int, alone: int, beside_sqlite: int) -> None:
    assert default_workers(cores, has_api=True, is_sqlite=False) == beside_api
    assert default_workers(cores, has_api=False, is_sqlite=False) == alone
    assert default_workers(cores, has_api=True, is_sqlite=True) == beside_sqlite
