"""Log the steps of images that failed, for their job's life."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json, Serial

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "image_logs",
        sa.Column("job_number", Serial, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("steps", Json, nullable=False),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_image_logs_job_number", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_number", "position", name="pk_image_logs"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("image_logs")
