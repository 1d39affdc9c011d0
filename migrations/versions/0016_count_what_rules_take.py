"""Count what rules take and drop, by reason; and blobs that images of a plan share, once."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json, UtcDateTime

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("selection_counts", Json, nullable=True))
    op.create_table(
        "planned_blobs",
        sa.Column("key", sa.LargeBinary(16), nullable=False),
        sa.Column("owner", sa.LargeBinary(16), nullable=False),
        sa.Column("claimed_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_planned_blobs"),
    )
    op.create_index("ix_planned_blobs_claimed_at", "planned_blobs", ["claimed_at"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("planned_blobs")
    op.drop_column("jobs", "selection_counts")
