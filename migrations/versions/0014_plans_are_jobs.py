"""Plans are jobs: what kind a job is, and what each image would come to."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("kind", sa.String(8), nullable=False, server_default="copy"))
    op.add_column("jobs", sa.Column("plan", sa.Uuid(as_uuid=False), nullable=True))
    op.add_column("jobs", sa.Column("images_planned", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("totals", Json, nullable=True))
    op.add_column("images", sa.Column("seen_digest", sa.String(135), nullable=True))
    op.add_column("images", sa.Column("seen_destination_digest", sa.String(135), nullable=True))
    op.add_column("images", sa.Column("action", sa.String(12), nullable=True))
    op.add_column("images", sa.Column("companions", Json, nullable=True))


def downgrade() -> None:
    """Take back."""
    for name in ("companions", "action", "seen_destination_digest", "seen_digest"):
        op.drop_column("images", name)
    for name in ("totals", "images_planned", "plan", "kind"):
        op.drop_column("jobs", name)
