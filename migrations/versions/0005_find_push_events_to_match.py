"""Find the push events that are stored and not yet matched, among all that ever came."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_hook_events_received",
        "hook_events",
        ["number"],
        postgresql_where=sa.text("state = 'received'"),
        sqlite_where=sa.text("state = 'received'"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_hook_events_received", table_name="hook_events")
