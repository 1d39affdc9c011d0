"""Fixtures for tests of jobs, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.store.database import Database
from tests.jobs.house import House
from tests.jobs.workshops import Journal


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
