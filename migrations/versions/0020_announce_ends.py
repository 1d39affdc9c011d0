"""Announce with a changed job whether it has ended: who waits for that alone has to look no sooner."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

FUNCTION = """
CREATE OR REPLACE FUNCTION registry_sync_announce_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('registry_sync_jobs', {payload});
    RETURN NULL;
END
$$
"""
WITH_END = "OLD.id || CASE WHEN TG_OP = 'DELETE' OR NEW.finished_at IS NOT NULL THEN ' ended' ELSE '' END"
WITHOUT_END = "OLD.id::text"


def upgrade() -> None:
    """Apply."""
    if op.get_bind().dialect.name == "postgresql":
        op.get_bind().exec_driver_sql(FUNCTION.format(payload=WITH_END))


def downgrade() -> None:
    """Take back."""
    if op.get_bind().dialect.name == "postgresql":
        op.get_bind().exec_driver_sql(FUNCTION.format(payload=WITHOUT_END))
