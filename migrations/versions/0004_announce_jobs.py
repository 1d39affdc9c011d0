"""Announce jobs from the database itself: one statement less in every transaction, and none that could be forgotten."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FUNCTION = """
CREATE FUNCTION registry_sync_announce_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('registry_sync_jobs', OLD.id::text);
    RETURN NULL;
END
$$
"""
TRIGGER = """
CREATE TRIGGER job_is_announced AFTER UPDATE OR DELETE ON jobs
FOR EACH ROW EXECUTE FUNCTION registry_sync_announce_job()
"""


def upgrade() -> None:
    """Apply."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in (FUNCTION, TRIGGER):
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Take back."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in ("DROP TRIGGER job_is_announced ON jobs", "DROP FUNCTION registry_sync_announce_job"):
            op.get_bind().exec_driver_sql(statement)
