"""Bind API keys to scopes of their own, and to what they may touch."""

import sqlalchemy as sa
from alembic import op

from app.store.db.column_types import Json

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("api_keys", sa.Column("scopes", Json, nullable=True))
    op.add_column("api_keys", sa.Column("grants", Json, nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("api_keys", "grants")
    op.drop_column("api_keys", "scopes")
