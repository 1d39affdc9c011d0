"""Make the first tables."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json, Serial, UtcDateTime
from app.store.tables.queue import install_statements, uninstall_statements

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=True),
        sa.Column("last_used_at", UtcDateTime, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("name", name="uq_api_keys_name"),
    )
    op.create_table(
        "blob_locations",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=135), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("host", "digest", "repository", name="pk_blob_locations"),
    )
    op.create_index("ix_blob_locations_seen_at", "blob_locations", ["seen_at"])
    op.create_table(
        "destination_holds",
        sa.Column("key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("unit_id", Serial, nullable=True),
        sa.Column("written_by", Serial, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_destination_holds"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])
    op.create_table(
        "jobs",
        sa.Column("number", Serial, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.String(length=8), nullable=False),
        sa.Column("request", Json, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("trigger_type", sa.String(length=16), nullable=False),
        sa.Column("trigger_event_id", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("retry_of", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("is_failing_fast", sa.Boolean(), nullable=False),
        sa.Column("planned", sa.Boolean(), nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.Column("warnings", Json, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=True),
        sa.Column("finished_at", UtcDateTime, nullable=True),
        sa.Column("version", Serial, nullable=False),
        sa.Column("state_version", Serial, nullable=False),
        sa.Column("units_left", sa.Integer(), nullable=False),
        sa.Column("images_queued", sa.Integer(), nullable=False),
        sa.Column("images_running", sa.Integer(), nullable=False),
        sa.Column("images_copied", sa.Integer(), nullable=False),
        sa.Column("images_up_to_date", sa.Integer(), nullable=False),
        sa.Column("images_failed", sa.Integer(), nullable=False),
        sa.Column("images_cancelled", sa.Integer(), nullable=False),
        sa.Column("bytes_per_second", Serial, nullable=False),
        sa.Column("rate_bytes", Serial, nullable=False),
        sa.Column("rate_at", UtcDateTime, nullable=True),
        sa.Column("blobs_present", sa.Integer(), server_default="0", nullable=False),
        sa.Column("blobs_mounted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("blobs_transferred", sa.Integer(), server_default="0", nullable=False),
        sa.Column("bytes_total", Serial, server_default="0", nullable=False),
        sa.Column("bytes_done", Serial, server_default="0", nullable=False),
        sa.Column("bytes_transferred", Serial, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_created_at_number", "jobs", ["created_at", "number"])
    op.create_index(
        "ix_jobs_policy_created_at_number",
        "jobs",
        ["policy", "created_at", "number"],
        postgresql_where=sa.text("policy IS NOT NULL"),
        sqlite_where=sa.text("policy IS NOT NULL"),
    )
    op.create_index("ix_jobs_state_created_at_number", "jobs", ["state", "created_at", "number"])
    op.create_index(
        "ix_jobs_unfinished",
        "jobs",
        ["number"],
        postgresql_where=sa.text("state IN ('queued', 'running')"),
        sqlite_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "registries",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("entry", Json, nullable=False),
        sa.Column("secrets", Json, nullable=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_registries"),
        sa.UniqueConstraint("host", name="uq_registries_host"),
    )
    op.create_table(
        "registry_pressures",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("window", sa.Double(), nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("paused_until", UtcDateTime, nullable=True),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_registry_pressures"),
    )
    op.create_table(
        "upload_sessions",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=135), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("host", "repository", "digest", name="pk_upload_sessions"),
    )
    op.create_index("ix_upload_sessions_updated_at", "upload_sessions", ["updated_at"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("beat", Serial, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "images",
        sa.Column("job_number", Serial, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("copy_number", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("selection", Json, nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=135), nullable=True),
        sa.Column("destination_digest", sa.String(length=135), nullable=True),
        sa.Column("previous_digest", sa.String(length=135), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("platforms", Json, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.Column("started_at", UtcDateTime, nullable=True),
        sa.Column("finished_at", UtcDateTime, nullable=True),
        sa.Column("revision", Serial, nullable=False),
        sa.Column("blobs_present", sa.Integer(), server_default="0", nullable=False),
        sa.Column("blobs_mounted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("blobs_transferred", sa.Integer(), server_default="0", nullable=False),
        sa.Column("bytes_total", Serial, server_default="0", nullable=False),
        sa.Column("bytes_done", Serial, server_default="0", nullable=False),
        sa.Column("bytes_transferred", Serial, server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_images_job_number", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_number", "position", name="pk_images"),
    )
    op.create_index("ix_images_job_number_revision", "images", ["job_number", "revision"])
    op.create_index("ix_images_job_number_state_position", "images", ["job_number", "state", "position"])
    op.create_table(
        "job_labels",
        sa.Column("job_number", Serial, nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_job_labels_job_number", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_number", "key", name="pk_job_labels"),
    )
    op.create_index(
        "ix_job_labels_key_value_created_at_job_number",
        "job_labels",
        ["key", "value", "created_at", "job_number"],
    )
    op.create_table(
        "units",
        sa.Column("id", Serial, nullable=False),
        sa.Column("job_number", Serial, nullable=False),
        sa.Column("unit_index", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("first_image", sa.Integer(), nullable=False),
        sa.Column("last_image", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcDateTime, nullable=True),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_units_job_number", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_units"),
        sa.UniqueConstraint("job_number", "unit_index", name="uq_units_job_number_unit_index"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_units_unfinished",
        "units",
        ["id"],
        postgresql_where=sa.text("state <> 'done'"),
        sqlite_where=sa.text("state <> 'done'"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for statement in install_statements():
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Take back."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in uninstall_statements():
            op.get_bind().exec_driver_sql(statement)
    op.drop_index(
        "ix_units_unfinished",
        table_name="units",
        postgresql_where=sa.text("state <> 'done'"),
        sqlite_where=sa.text("state <> 'done'"),
    )
    op.drop_table("units")
    op.drop_index("ix_job_labels_key_value_created_at_job_number", table_name="job_labels")
    op.drop_table("job_labels")
    op.drop_index("ix_images_job_number_state_position", table_name="images")
    op.drop_index("ix_images_job_number_revision", table_name="images")
    op.drop_table("images")
    op.drop_table("workers")
    op.drop_index("ix_upload_sessions_updated_at", table_name="upload_sessions")
    op.drop_table("upload_sessions")
    op.drop_table("registry_pressures")
    op.drop_table("registries")
    op.drop_index(
        "ix_jobs_unfinished",
        table_name="jobs",
        postgresql_where=sa.text("state IN ('queued', 'running')"),
        sqlite_where=sa.text("state IN ('queued', 'running')"),
    )
    op.drop_index("ix_jobs_state_created_at_number", table_name="jobs")
    op.drop_index(
        "ix_jobs_policy_created_at_number",
        table_name="jobs",
        postgresql_where=sa.text("policy IS NOT NULL"),
        sqlite_where=sa.text("policy IS NOT NULL"),
    )
    op.drop_index("ix_jobs_created_at_number", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_idempotency_keys_job_id", table_name="idempotency_keys")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("destination_holds")
    op.drop_index("ix_blob_locations_seen_at", table_name="blob_locations")
    op.drop_table("blob_locations")
    op.drop_table("api_keys")
