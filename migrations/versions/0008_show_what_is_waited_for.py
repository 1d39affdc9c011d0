"""Show what a job waits for, and how workers stand with registries."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json, UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("waiting_for", Json, nullable=True))
    op.create_table(
        "registry_states",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("state", Json, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", "worker", name=op.f("pk_registry_states")),
    )
    op.create_index(op.f("ix_registry_states_updated_at"), "registry_states", ["updated_at"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("registry_states")
    op.drop_column("jobs", "waiting_for")
