"""INSERT … ON CONFLICT: the same clause on both databases, but each has its own statement for it."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession


def insert_into(session: AsyncSession, table: Table) -> postgresql.Insert:
    """Begin an INSERT that may say what happens on conflict; only what both databases understand goes into it."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    statement: object = sqlite.insert(table)
    return statement  # type: ignore[return-value]  # SQLite's has the same methods for what is used here
