"""A private PostgreSQL server: its own folder and loopback port, fast and forgetful unless told to be durable.

with PostgresServer() as server:
    database = server.create_database()
    engine = create_async_engine(database.url)
"""

import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import Program, free_port, memory_folder

USER = "registry_sync"
READY_SECONDS = 90.0
STOP_SECONDS = 60.0
START_ATTEMPTS = 5  # a port that was free a moment ago may be taken by now
# What a test database can do without: surviving a power cut.
FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """One database of a server; `url` is SQLAlchemy's, for asyncpg."""

    name: str
    host: str
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{USER}:{self.password}@{self.host}:{self.port}/{self.name}"


class PostgresServer:
    """One server, running from `start` to `close`; it may be stopped, killed and started again on the same port."""

    def __init__(self, *, durable: bool = False, max_connections: int = 100) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.durable = durable
        self.max_connections = max_connections
        self.folder = Path(tempfile.mkdtemp(prefix="registry-sync-postgres-", dir=memory_folder()))
        self.password = secrets.token_hex(8)
        self._programs = find_programs()
        self._owner = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._program: Program | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def start(self) -> None:
        """Start it, on the port it had before if it had one, and wait until it takes connections."""
        if self._program is not None and self._program.runs:
            raise RuntimeError(f"PostgreSQL on port {self.port} runs already")
        data = self.folder / "data"
        if not data.exists():
            self._make_cluster(data)
        wanted = self.port
        for attempt in range(1, START_ATTEMPTS + 1):
            self.port = wanted or free_port()
            self._program = Program(
                [str(self._programs / "postgres"), "-D", str(data), *self._settings()],
                log=self.log,
                user=self._owner,
                folder=self.folder,
            )
            try:
                self._program.wait_until(self._answers, seconds=READY_SECONDS)
            except RuntimeError:
                # Its port went to somebody else, or (after a kill) its children still hold the shared memory.
                if self._program.runs or attempt == START_ATTEMPTS:
                    raise
            else:
                return

    def stop(self) -> None:
        """End it in good order, at once for whoever is connected ("fast"); its data stays."""
        if self._program is not None:
            self._program.end(by=signal.SIGINT, seconds=STOP_SECONDS)

    def kill(self) -> None:
        """End it at once (SIGKILL); `start` recovers what was durable."""
        self._running().kill()

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, *, template: str | None = None, name: str | None = None) -> PostgresDatabase:
        """Make an empty database, or a copy of another one of this server that nobody is connected to."""
        name = name or f"test_{next(self._numbers)}"
        source = f' TEMPLATE "{template}"' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{source}')
        return PostgresDatabase(name, self.host, self.port, self.password)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement as the owner of everything, and return what psql prints (unaligned)."""
        connection = f"host={self.host} port={self.port} user={USER} dbname={database}"
        command = [str(self._programs / "psql"), connection, "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]
        environment = {**os.environ, "PGPASSWORD": self.password}
        done = subprocess.run(
            [*command, "--set", "ON_ERROR_STOP=1", "--command", statement],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{statement}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _running(self) -> Program:
        if self._program is None:
            raise RuntimeError("PostgreSQL was never started")
        return self._program

    def _make_cluster(self, data: Path) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        if self._owner:
            shutil.chown(self.folder, self._owner, self._owner)
            shutil.chown(password, self._owner, self._owner)
        log = self.folder / "initdb.log"
        options = [
            "--username",
            USER,
            "--pwfile",
            str(password),
            "--auth",
            "scram-sha-256",
            "--no-sync",
            "--no-instructions",
        ]
        initdb = Program(
            [str(self._programs / "initdb"), "-D", str(data), *options, "--encoding", "UTF8", "--locale", "C"],
            log=log,
            user=self._owner,
            folder=self.folder,
        )
        if initdb.wait(READY_SECONDS) != 0:
            raise RuntimeError(f"initdb failed:\n{initdb.log_tail()}")

    def _settings(self) -> list[str]:
        settings = [
            f"port={self.port}",
            f"listen_addresses={self.host}",
            "unix_socket_directories=",
            f"max_connections={self.max_connections}",
            *(() if self.durable else FORGETFUL),
        ]
        return [word for setting in settings for word in ("-c", setting)]

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "--quiet", "--host", self.host, "--port", str(self.port)]
        return subprocess.run(command, check=False, timeout=READY_SECONDS).returncode == 0


def find_programs() -> Path:
    """Return the folder with initdb and postgres, the newest version's; Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if debian:
        return debian[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise RuntimeError("PostgreSQL's server programs are not installed (`.ci/setup postgres`)")


def _version(initdb: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", initdb.parts[-3]))
