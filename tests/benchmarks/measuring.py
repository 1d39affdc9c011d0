"""What a piece of work cost: wall time, CPU of every process of the copier, peak memory.

A peer is a child of ours and the kernel adds up what it used (`wait4`). The service goes on running, so its process
tree is read in `/proc` before and after; a process that ended meanwhile is counted by its parent, which waited for it.
"""

import os
import resource
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KIB = 1024
POLL_SECONDS = 0.005


class CommandFailedError(Exception):
    """A peer did not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one contender used for one piece of work."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    """The most memory its processes held, each one's own peak added up."""
    requests: int = 0
    """What the registries were asked, both sides together; filled in by whoever can count them."""

    def __add__(self, other: Self) -> "Usage":
        """Return the usage of two pieces of work done one after the other."""
        return Usage(
            self.wall_seconds + other.wall_seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
            self.requests + other.requests,
        )


def run_command(command: Sequence[str], *, environment: Mapping[str, str], folder: Path, limit_seconds: float) -> Usage:
    """Run a program to its end and return what it used, its children included.

    Raise `CommandFailedError` with the end of its output when it fails or takes longer than the limit.
    """
    log = folder / "output.log"
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=folder,
        )
    try:
        status, used, peak = _wait(process.pid, limit_seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)  # waited for already: Popen must not do it again
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2_000:]
        raise CommandFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Usage(wall, used.ru_utime + used.ru_stime, peak)


def _wait(pid: int, limit_seconds: float) -> tuple[int, resource.struct_rusage, int]:
    """Return a child's exit status, what it used, and its peak memory.

    The peak is not `ru_maxrss`: that begins with the memory of the process that started it, which is ours.
    """
    deadline, peak = time.monotonic() + limit_seconds, 0
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, used, peak
        peak = max(peak, peak_bytes(pid))
        if time.monotonic() > deadline:
            raise CommandFailedError(f"not done within {limit_seconds:.0f} s")
        time.sleep(POLL_SECONDS)


@dataclass(slots=True)
class TreeUsage:
    """What a running process tree uses while `measure_tree` is open; read `usage` and the peaks after it."""

    pid: int
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    peak_over_idle_bytes: int = 0
    """The most that one process held beyond what it held at the beginning."""


@contextmanager
def measure_tree(pid: int) -> Iterator[TreeUsage]:
    """Measure a process and all its descendants for the length of a block."""
    measured = TreeUsage(pid)
    before = tree(pid)
    for each in before:
        reset_peak(each)
    idle = {each: resident_bytes(each) for each in before}
    cpu, begin = cpu_seconds(before), time.perf_counter()
    yield measured
    wall, after = time.perf_counter() - begin, tree(pid)
    peaks = {each: peak_bytes(each) for each in after}
    measured.usage = Usage(wall, cpu_seconds(after) - cpu, sum(peaks.values()))
    measured.peak_over_idle_bytes = max(peak - idle.get(each, 0) for each, peak in peaks.items())


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for each in found:
        for task in _tasks(each):
            found += [int(child) for child in _read(task / "children").split()]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes used, with that of their children that ended."""
    ticks = 0
    for pid in pids:
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        ticks += sum(int(number) for number in fields[11:15])  # utime stime cutime cstime
    return ticks / TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Return the memory a process holds now."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the most memory a process held since `reset_peak`."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Let the kernel forget the peak of a process (proc(5), `clear_refs`)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []


def _status(pid: int, name: str) -> int:
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    return 0


def _read(path: Path) -> str:
    """Return a file of `/proc`, empty where the process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
