"""Keep who sends an upload, so that only what is left is gone on with."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("upload_sessions", sa.Column("worker", sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("upload_sessions", "worker")
