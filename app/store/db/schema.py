"""The schema's version: which revisions there are, and whether a database has the one this code needs."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.domain.errors import UnavailableError

MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"
"""Beside the package `app`, in the source tree as where it is installed."""


def migration_config() -> Config:
    """Point Alembic at our revisions, from wherever this process was started."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def is_newer(connection: Connection) -> bool:
    """Return whether a later release than this one has brought up the schema."""
    found = MigrationContext.configure(connection).get_current_heads()
    known = {revision.revision for revision in ScriptDirectory.from_config(migration_config()).walk_revisions()}
    return bool(found) and not known.intersection(found)


def check_revision(connection: Connection) -> None:
    """Raise `UnavailableError` (`schema_outdated`) for an empty or older schema.

    A newer one passes: migrations run beside processes that are one release older.
    """
    found = MigrationContext.configure(connection).get_current_heads()
    script = ScriptDirectory.from_config(migration_config())
    known = {revision.revision for revision in script.walk_revisions()}
    if not found or (set(found) & known and set(found) != set(script.get_heads())):
        state = f"the database is at revision {', '.join(found)}" if found else "the database has no tables yet"
        raise UnavailableError(f"{state}; run `registry-sync migrate`", code="schema_outdated")
