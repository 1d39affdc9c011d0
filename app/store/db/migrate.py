"""Bring a database to the current schema."""

from __future__ import annotations

from alembic import command
from sqlalchemy import Connection, text

from app.store.db.database import Database
from app.store.db.schema import is_newer, migration_config

_LOCK = 7_202_153_040_917
"""An advisory lock's number: two processes that migrate at once take turns."""


async def migrate(url: str, *, revision: str = "head") -> None:
    """Make or bring up the schema, and leave a later release's; raise `UnavailableError` without a database."""
    database = Database(url)
    try:
        async with database.transaction() as session:
            connection = await session.connection()
            if not database.is_sqlite:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
            await connection.run_sync(_upgrade, revision)
    finally:
        await database.aclose()


def _upgrade(connection: Connection, revision: str) -> None:
    if is_newer(connection):
        return
    config = migration_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
