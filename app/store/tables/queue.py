"""The queue's own tables on PostgreSQL: what PgQueuer calls them here, and the statements that make them.

They hold nothing that can't be derived from ours, so its log and statistics are not written to the write-ahead log.
"""

from __future__ import annotations

from functools import cache

from pgqueuer.adapters.persistence import schema_ddl
from pgqueuer.domain.schema.declaration import target
from pgqueuer.domain.settings import DBSettings, Durability

QUEUE_PREFIX = "engine_"


@cache
def queue_settings() -> DBSettings:
    """Return the queue's names of tables and channel, whatever the environment says."""
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
    prefixed = {field: f"{QUEUE_PREFIX}{name}" for field, name in names.items()}
    return DBSettings.model_validate(
        {"prefix": QUEUE_PREFIX, "db_schema": None, "durability": Durability.balanced, "widen_id": False, **prefixed}
    )


def install_statements() -> list[str]:
    """List what creates the queue's tables, one statement each."""
    settings = queue_settings()
    schema = target(settings)
    return [
        *(schema_ddl.render_enum(entry, settings) for entry in schema.enums),
        *(schema_ddl.render_table(entry, settings) for entry in schema.tables),
        *(schema_ddl.render_index(entry, settings) for entry in schema.indexes),
        *(schema_ddl.render_function(entry, settings) for entry in schema.functions),
        *(schema_ddl.render_trigger(entry, settings) for entry in schema.triggers),
    ]


def uninstall_statements() -> list[str]:
    """List what drops the queue's tables again, one statement each."""
    return schema_ddl.render_uninstall(queue_settings()).splitlines()
