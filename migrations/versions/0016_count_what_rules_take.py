"""Count what rules take and drop, by reason."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("selection_counts", Json, nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("jobs", "selection_counts")
