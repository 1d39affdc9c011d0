"""The service's processes, forked from one in which its modules are loaded already: each costs two seconds less.

with Preloaded() as preloaded:
    program = preloaded.start(["serve", "--port", "8080"], log=log, environment={...}, folder=folder)

A process is what `python -m app …` makes: a session, a folder, an environment and an output of its own, and nothing of
another one's. Only its modules were imported before.
"""

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.support.processes import Program

MODULES = (
    "aiosqlite",
    "asyncpg",
    "app.bootstrap.service",
    "app.cli.main",
    "app.cli.serving",
    "app.main",
    "app.settings",
    "httpx",
    "tests.worker.house",
    "tests.worker.sync_sessions",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.loops.uvloop",
)
ROOT = Path(__file__).parent.parent.parent
_MESSAGE_BYTES = 1 << 20
_COMMAND = [sys.executable, "-m", "tests.support.preloaded"]


class Preloaded:
    """Starts programs; the process that they are forked from is started with the first one."""

    def __init__(self) -> None:
        self._loaded: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._requests is not None and self._loaded is not None:
            self._requests.close()
            self._loaded.wait()

    def start(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        folder: Path,
        module: str = "app",
        environment: Mapping[str, str] | None = None,
    ) -> "PreloadedProgram":
        """Start `python -m MODULE` with arguments, and with our own environment where none is given."""
        request = {
            "arguments": [module, *arguments],
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(folder),
        }
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as output:
            socket.send_fds(self._running(), [json.dumps(request).encode()], [output.fileno(), theirs.fileno()])
        return PreloadedProgram(ours, log=log)

    def _running(self) -> socket.socket:
        if self._requests is None:
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._loaded = subprocess.Popen(
                    [*_COMMAND, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd=ROOT,
                    start_new_session=True,
                )
        return self._requests


class PreloadedProgram(Program):
    """One forked program. Not our child: who waits for it tells its end."""

    def __init__(self, answers: socket.socket, *, log: Path) -> None:
        self.name = "registry-sync"
        self.log = log
        self._process = _Forked(answers)


class _Forked:
    """What `subprocess.Popen` is for a child."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers.makefile("r", encoding="ascii")
        self._socket = answers
        self.returncode: int | None = None
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            readable, _, _ = select.select([self._socket], [], [], timeout)
            if not readable:
                raise subprocess.TimeoutExpired("registry-sync", timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._socket.close()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve_requests(requests: socket.socket) -> None:
    """Fork a program for each request; return in the program itself, and when no more requests can come."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for programs, whom nobody waits for
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 2)
        if not request:
            raise SystemExit
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            _become(json.loads(request), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: dict[str, Any], output: int, answers: int) -> None:
    """Fork once more: the child becomes the program and returns, the parent waits for it and tells."""
    pid = os.fork()
    if pid:
        _tell_the_end(pid, answers)
    os.close(answers)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    sys.argv = request["arguments"]


def _tell_the_end(pid: int, answers: int) -> NoReturn:
    os.write(answers, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    serve_requests(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(sys.argv[0], run_name="__main__")
