"""Tell of jobs, and keep who changed what."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json, Serial, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEEP_AUDIT_LOG_ON_POSTGRESQL = (
    """
    CREATE FUNCTION registry_sync_keep_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the audit log is only added to';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_log_is_kept BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION registry_sync_keep_audit_log()
    """,
)
KEEP_AUDIT_LOG_ON_SQLITE = tuple(
    f"""
    CREATE TRIGGER audit_log_is_kept_from_{verb} BEFORE {verb} ON audit_log
    BEGIN
        SELECT RAISE(ABORT, 'the audit log is only added to');
    END
    """
    for verb in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("notify", Json, nullable=True))
    op.create_table(
        "subscriptions",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("secrets", Json, nullable=False),
        sa.Column("failing_since", UtcDateTime, nullable=True),
        sa.Column("disabled_at", UtcDateTime, nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_subscriptions")),
    )
    op.create_table(
        "deliveries",
        sa.Column("number", Serial, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("subscription", sa.String(length=63), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempted_at", UtcDateTime, nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(
            ["subscription"], ["subscriptions.name"], name=op.f("fk_deliveries_subscription"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("id", name=op.f("uq_deliveries_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["due_at"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(op.f("ix_deliveries_finished_at"), "deliveries", ["finished_at"])
    op.create_index(op.f("ix_deliveries_subscription_number"), "deliveries", ["subscription", "number"])
    op.create_table(
        "audit_log",
        sa.Column("number", Serial, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("details", Json, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_log")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_log_actor_number"), "audit_log", ["actor", "number"])
    op.create_index(op.f("ix_audit_log_target_number"), "audit_log", ["target", "number"])
    connection = op.get_bind()
    is_postgresql = connection.dialect.name == "postgresql"
    for statement in KEEP_AUDIT_LOG_ON_POSTGRESQL if is_postgresql else KEEP_AUDIT_LOG_ON_SQLITE:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Take back."""
    op.drop_table("audit_log")
    if op.get_bind().dialect.name == "postgresql":
        op.get_bind().exec_driver_sql("DROP FUNCTION registry_sync_keep_audit_log()")
    op.drop_table("deliveries")
    op.drop_table("subscriptions")
    op.drop_column("jobs", "notify")
