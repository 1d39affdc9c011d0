"""Find jobs by who submitted them, and by what made them."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(op.f("ix_jobs_created_by_created_at_number"), "jobs", ["created_by", "created_at", "number"])
    op.create_index(op.f("ix_jobs_trigger_type_created_at_number"), "jobs", ["trigger_type", "created_at", "number"])


def downgrade() -> None:
    """Take back."""
    op.drop_index(op.f("ix_jobs_trigger_type_created_at_number"), "jobs")
    op.drop_index(op.f("ix_jobs_created_by_created_at_number"), "jobs")
