"""Note what destinations lack on purpose, what hangs on their images, and what they refuse."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "destination_notes",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=135), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("noted_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("host", "repository", "digest", "kind", name="pk_destination_notes"),
    )
    op.create_index("ix_destination_notes_noted_at", "destination_notes", ["noted_at"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_destination_notes_noted_at", table_name="destination_notes")
    op.drop_table("destination_notes")
