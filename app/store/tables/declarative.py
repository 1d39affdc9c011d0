"""What all tables share: the declarative base, and a class's plain table.

What a row means is said here once, beside its columns; what may be done with it is said by the stores.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import DeclarativeBase

from app.store.db.column_types import Json, UtcDateTime


class Base(DeclarativeBase):
    """What all tables share: names of constraints are derived, so that a migration can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012 — SQLAlchemy's


def table_of(row: type[Base]) -> Table:
    """Return the plain table of a class: stores read and write columns, never objects that a session tracks."""
    table = row.__table__
    if not isinstance(table, Table):
        raise TypeError(f"{row.__name__} is not mapped to a table")
    return table
