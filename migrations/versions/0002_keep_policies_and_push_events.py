"""Keep policies and push events."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json, Serial, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "hook_events",
        sa.Column("number", Serial, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("registry_name", sa.Text(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=True),
        sa.Column("repository", sa.Text(), nullable=True),
        sa.Column("tag", sa.String(length=128), nullable=True),
        sa.Column("digest", sa.String(length=135), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("occurred_at", UtcDateTime, nullable=True),
        sa.Column("jobs", Json, nullable=False),
        sa.Column("dedupe_key", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_hook_events")),
        sa.UniqueConstraint("id", name=op.f("uq_hook_events_id")),
        sa.UniqueConstraint("registry_name", "dedupe_key", name=op.f("uq_hook_events_registry_name_dedupe_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_hook_events_received_at"), "hook_events", ["received_at"])
    op.create_index(
        op.f("ix_hook_events_registry_name_repository_number"), "hook_events", ["registry_name", "repository", "number"]
    )
    op.create_table(
        "policies",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("is_on_push", sa.Boolean(), nullable=False),
        sa.Column("next_run_at", UtcDateTime, nullable=True),
        sa.Column("last_job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_policies")),
    )
    op.create_index(
        op.f("ix_policies_next_run_at"),
        "policies",
        ["next_run_at"],
        postgresql_where=sa.text("next_run_at IS NOT NULL"),
        sqlite_where=sa.text("next_run_at IS NOT NULL"),
    )
    op.create_table(
        "push_trails",
        sa.Column("key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("chain", Json, nullable=False),
        sa.Column("written_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_push_trails")),
    )
    op.create_index(op.f("ix_push_trails_written_at"), "push_trails", ["written_at"])
    op.create_table(
        "job_lanes",
        sa.Column("job_number", Serial, nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name=op.f("fk_job_lanes_job_number"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_number", name=op.f("pk_job_lanes")),
    )
    op.create_index(op.f("ix_job_lanes_lane_job_number"), "job_lanes", ["lane", "job_number"])
    op.create_table(
        "policy_sources",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy"], ["policies.name"], name=op.f("fk_policy_sources_policy"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("policy", "host", "path", name=op.f("pk_policy_sources")),
    )
    op.create_index(op.f("ix_policy_sources_host_path"), "policy_sources", ["host", "path"])


def downgrade() -> None:
    """Take back."""
    op.drop_index(op.f("ix_policy_sources_host_path"), table_name="policy_sources")
    op.drop_table("policy_sources")
    op.drop_index(op.f("ix_job_lanes_lane_job_number"), table_name="job_lanes")
    op.drop_table("job_lanes")
    op.drop_index(op.f("ix_push_trails_written_at"), table_name="push_trails")
    op.drop_table("push_trails")
    op.drop_index(
        op.f("ix_policies_next_run_at"),
        table_name="policies",
        postgresql_where=sa.text("next_run_at IS NOT NULL"),
        sqlite_where=sa.text("next_run_at IS NOT NULL"),
    )
    op.drop_table("policies")
    op.drop_index(op.f("ix_hook_events_registry_name_repository_number"), table_name="hook_events")
    op.drop_index(op.f("ix_hook_events_received_at"), table_name="hook_events")
    op.drop_table("hook_events")
