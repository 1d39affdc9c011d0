"""The job engine's own tables on PostgreSQL: what PgQueuer calls them here, and the statements that make them.

They hold nothing that can't be told again from ours, so its log and statistics are not written to the write-ahead log.
"""

from __future__ import annotations

from functools import cache

from pgqueuer.adapters.persistence import schema_ddl
from pgqueuer.domain.schema.declaration import target
from pgqueuer.domain.settings import DBSettings, Durability

ENGINE_PREFIX = "engine_"


@cache
def engine_settings() -> DBSettings:
    """Name the engine's tables and its channel, whatever the environment says."""
    names = {
        "channel": "ch_pgqueuer",
        "function": "fn_pgqueuer_changed",
        "statistics_table": "pgqueuer_statistics",
        "queue_status_type": "pgqueuer_status",
        "queue_table": "pgqueuer",
        "queue_table_log": "pgqueuer_log",
        "trigger": "tg_pgqueuer_changed",
        "schedules_table": "pgqueuer_schedules",
    }
    prefixed = {field: f"{ENGINE_PREFIX}{name}" for field, name in names.items()}
    return DBSettings.model_validate(
        {"prefix": ENGINE_PREFIX, "db_schema": None, "durability": Durability.balanced, "widen_id": False, **prefixed}
    )


def install_statements() -> list[str]:
    """List what makes the engine's tables, one statement each."""
    settings = engine_settings()
    schema = target(settings)
    return [
        *(schema_ddl.render_enum(entry, settings) for entry in schema.enums),
        *(schema_ddl.render_table(entry, settings) for entry in schema.tables),
        *(schema_ddl.render_index(entry, settings) for entry in schema.indexes),
        *(schema_ddl.render_function(entry, settings) for entry in schema.functions),
        *(schema_ddl.render_trigger(entry, settings) for entry in schema.triggers),
    ]


def uninstall_statements() -> list[str]:
    """List what removes the engine's tables again, one statement each."""
    return schema_ddl.render_uninstall(engine_settings()).splitlines()
