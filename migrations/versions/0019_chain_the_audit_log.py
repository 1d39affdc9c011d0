"""Chain the audit log: who asked, a link for each entry, and triggers for the ways around those there were."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Serial

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

TABLES = ("audit_log", "audit_links")
ROWS_ON_POSTGRESQL = """
    CREATE TRIGGER audit_links_are_kept BEFORE UPDATE OR DELETE ON audit_links
    FOR EACH ROW EXECUTE FUNCTION registry_sync_keep_audit_log()
    """
ALWAYS_ON_POSTGRESQL = (
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_kept",
    "ALTER TABLE audit_links ENABLE ALWAYS TRIGGER audit_links_are_kept",
)
"""Also for a session that takes itself for a replica (`session_replication_role`)."""


def _truncate_on_postgresql(table: str) -> tuple[str, str]:
    name = f"{table}_is_not_truncated"
    return (
        f"""
        CREATE TRIGGER {name} BEFORE TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION registry_sync_keep_audit_log()
        """,
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
    )


_REFUSE_ON_SQLITE = "BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END"
_IS_ENTRY = "EXISTS (SELECT 1 FROM audit_log WHERE number = NEW.number)"
_IS_LINK = "EXISTS (SELECT 1 FROM audit_links WHERE position = NEW.position OR number = NEW.number)"
ON_SQLITE = tuple(
    f"CREATE TRIGGER {name} BEFORE {event} {_REFUSE_ON_SQLITE}"
    for name, event in (
        ("audit_links_are_kept_from_UPDATE", "UPDATE ON audit_links"),
        ("audit_links_are_kept_from_DELETE", "DELETE ON audit_links"),
        # INSERT OR REPLACE deletes without the triggers for that.
        ("audit_log_is_kept_from_REPLACE", f"INSERT ON audit_log WHEN {_IS_ENTRY}"),
        ("audit_links_are_kept_from_REPLACE", f"INSERT ON audit_links WHEN {_IS_LINK}"),
    )
)


def upgrade() -> None:
    """Apply."""
    op.add_column("audit_log", sa.Column("peer", sa.String(64), nullable=True))
    op.add_column("audit_log", sa.Column("key_id", sa.String(16), nullable=True))
    op.add_column("audit_log", sa.Column("request_id", sa.String(64), nullable=True))
    op.create_table(
        "audit_links",
        sa.Column("position", Serial, autoincrement=False, nullable=False),
        sa.Column("number", Serial, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("key", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_audit_links")),
        sa.UniqueConstraint("number", name=op.f("uq_audit_links_number")),
    )
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        triggers = (ROWS_ON_POSTGRESQL, *ALWAYS_ON_POSTGRESQL, *(s for t in TABLES for s in _truncate_on_postgresql(t)))
    else:
        triggers = ON_SQLITE
    for statement in triggers:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Take back."""
    connection = op.get_bind()
    op.drop_table("audit_links")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("DROP TRIGGER audit_log_is_not_truncated ON audit_log")
        connection.exec_driver_sql("ALTER TABLE audit_log ENABLE TRIGGER audit_log_is_kept")
    else:
        connection.exec_driver_sql("DROP TRIGGER audit_log_is_kept_from_REPLACE")
    for name in ("request_id", "key_id", "peer"):
        op.drop_column("audit_log", name)
