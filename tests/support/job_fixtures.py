"""Fixtures for tests of jobs and of workers, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.store.db.database import Database
from tests.support.preloaded import Preloaded
from tests.support.processes import Program
from tests.worker.house import House
from tests.worker.sync_sessions import Journal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
async def house(database_url: str, journal: Journal) -> AsyncIterator[House]:
    """Return the engine room on an empty database."""
    database = Database(database_url)
    yield House(database, journal)
    await database.aclose()


@pytest.fixture
async def another_house(database_url: str, journal: Journal) -> AsyncIterator[House]:
    """Return the engine room of another process on the same database."""
    database = Database(database_url)
    yield House(database, journal)
    await database.aclose()


@pytest.fixture
async def working(house: House) -> AsyncIterator[House]:
    """Return the engine room with a worker in it."""
    async with house.worker():
        yield house


class WorkerProcesses:
    """Starts worker processes on one database; those that still run at the end are ended."""

    def __init__(self, url: str, journal: Journal, *, folder: Path, preloaded: Preloaded) -> None:
        self._url = url
        self._journal = journal
        self._folder = folder
        self._preloaded = preloaded
        self._programs: list[Program] = []

    def start(self, name: str) -> Program:
        """Start one and wait until it works."""
        log = self._folder / f"{name}.log"
        arguments = [self._url, str(self._journal.file), name]
        program = self._preloaded.start(arguments, module="tests.worker.worker_process", log=log, folder=ROOT)
        self._programs.append(program)
        program.wait_until(lambda: "ready" in log.read_text(), seconds=90)
        return program

    def close(self) -> None:
        for program in self._programs:
            program.kill()


@pytest.fixture
def workers(database_url: str, journal: Journal, tmp_path: Path, preloaded: Preloaded) -> Iterator[WorkerProcesses]:
    """Return what starts worker processes on the test's database."""
    processes = WorkerProcesses(database_url, journal, folder=tmp_path, preloaded=preloaded)
    yield processes
    processes.close()
