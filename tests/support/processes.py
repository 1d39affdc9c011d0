"""Programs that tests start and end: output to a file, readiness with a limit, ended by their own pid."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

POLL_SECONDS = 0.02
_MEMORY_BYTES = 4 * 1024**3


class Process(Protocol):
    """What a program is to those who end it: a child, or another one's."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | Any: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


class Program:
    """One running program; everything it prints goes to a log file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self._process: Process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=folder,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests; they end their programs themselves
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait for a condition; a program that ends first, or a limit that passes, is an error with the log's end."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.runs:
                raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready within {seconds} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def wait(self, seconds: float) -> int:
        """Wait for its own end and return its exit code; past the limit it is killed."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def end(self, *, by: signal.Signals = signal.SIGTERM, seconds: float = 30) -> None:
        """Ask it to end, wait, and kill it where it doesn't."""
        if self.runs:
            self._process.send_signal(by)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.runs:
            self._process.kill()
        self._process.wait()

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def memory_folder() -> str | None:
    """Return a folder in memory for what programs write and nobody keeps; None where there is none with room.

    A registry makes five files for each blob: on a slow disk, tests would mostly wait for those.
    """
    folder = Path("/dev/shm")
    is_usable = folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _MEMORY_BYTES
    return str(folder) if is_usable else None


def free_port() -> int:
    """Return a loopback port nobody listens on now; prefer port 0 where a program can say which one it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
