"""Alembic's environment: a connection that `app.store.db.migrate` hands over, or its own for the command line."""

import asyncio
import os
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from app.store.db.column_types import Json, Serial, UtcDateTime
from app.store.db.database import Database
from app.store.tables import access, destinations, notifications, policies, registries  # noqa: F401 — their tables belong to the metadata
from app.store.tables.declarative import Base
from app.store.tables.queue import QUEUE_PREFIX

DATABASE_URL = "REGISTRY_SYNC_DATABASE_URL"


def run(connection: Connection) -> None:
    """Run what was asked for, in the transaction the connection is in."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        include_name=_is_ours,
        render_item=_in_our_words,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()


async def run_on_own_connection() -> None:
    """Open the database that the environment names."""
    database = Database(os.environ.get(DATABASE_URL, "sqlite:///registry-sync.db"))
    try:
        async with database.transaction() as session:
            await (await session.connection()).run_sync(run)
    finally:
        await database.aclose()


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    return not (kind == "table" and str(name).startswith(QUEUE_PREFIX))


def _in_our_words(kind: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    names = {type(Json): "Json", type(Serial): "Serial", type(UtcDateTime): "UtcDateTime"}
    if kind != "type" or (name := names.get(type(item))) is None:
        return False
    autogen_context.imports.add(f"from app.store.db.column_types import {name}")
    return name


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_on_own_connection())
