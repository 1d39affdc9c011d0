"""Trace jobs: keep the `traceparent` of what submitted a job, with it and with its notifications."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("traceparent", sa.String(64)))
    op.add_column("deliveries", sa.Column("traceparent", sa.String(64)))


def downgrade() -> None:
    """Take back."""
    op.drop_column("deliveries", "traceparent")
    op.drop_column("jobs", "traceparent")
