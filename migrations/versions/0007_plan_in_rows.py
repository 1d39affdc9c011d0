"""Give what can't be planned rows among the images, and jobs a count of what their images failed for."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("images", sa.Column("kind", sa.String(length=8), nullable=False, server_default="image"))
    op.add_column("images", sa.Column("rule", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("failures", Json, nullable=True))
    op.add_column("jobs", sa.Column("listings", Json, nullable=True))
    op.add_column("units", sa.Column("listings", Json, nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("units", "listings")
    op.drop_column("jobs", "listings")
    op.drop_column("jobs", "failures")
    op.drop_column("images", "rule")
    op.drop_column("images", "kind")
