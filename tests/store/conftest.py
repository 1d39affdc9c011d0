"""Fixtures for tests of stores: one database of each kind, with the current schema and nothing in it."""

from collections.abc import AsyncIterator

import pytest

from app.store.db.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Return an open database."""
    opened = Database(database_url)
    yield opened
    await opened.aclose()
