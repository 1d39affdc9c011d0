"""Share workers among callers: whose jobs wait, and which ranks workers are at."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None

OLD_STEP, NEW_STEP = 1_000_000, 500_000_000
UNFINISHED = "state IN ('queued', 'running')"


def upgrade() -> None:
    """Apply."""
    where = sa.text(UNFINISHED)
    columns = ["created_by", "priority"]
    op.create_index("ix_jobs_unfinished_by_caller", "jobs", columns, postgresql_where=where, sqlite_where=where)
    where = sa.text("state = 'running'")
    op.create_index("ix_units_running", "units", ["priority"], postgresql_where=where, sqlite_where=where)
    _stretch(OLD_STEP, NEW_STEP)


def downgrade() -> None:
    """Take back."""
    _stretch(NEW_STEP, OLD_STEP)
    op.drop_index("ix_units_running", "units")
    op.drop_index("ix_jobs_unfinished_by_caller", "jobs")


def _stretch(old: int, new: int) -> None:
    """Lay units that are not done out anew: as far behind the beginning of their priority as they were."""
    tables = {"units": "state <> 'done'"}
    if op.get_bind().dialect.name == "postgresql":
        tables["engine_pgqueuer"] = "true"
    for table, condition in tables.items():
        urgent = f"((priority + {old - 1}) / {old})"
        behind = f"({urgent} * {old} - priority)"
        least = f"CASE WHEN {behind} < {new} THEN {behind} ELSE {new - 1} END"
        op.execute(f"UPDATE {table} SET priority = {urgent} * {new} - {least} WHERE {condition} AND priority > 0")  # noqa: S608 — our names
