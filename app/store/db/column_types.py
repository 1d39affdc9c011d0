"""Column types that behave the same on SQLite and PostgreSQL."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB

from app.store.db.sqlite import TextDateTime

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""Any JSON document; `None` is SQL's NULL."""

Serial = BigInteger().with_variant(Integer, "sqlite")
"""A number the database gives out; SQLite numbers rows by plain INTEGER columns only."""


class AwareDateTime(TypeDecorator[datetime]):
    """A time with its offset, as PostgreSQL stores it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 — the base's signature
        """Refuse a time that does not say where it is: the driver would take it for one of this machine."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a naive time can't be stored: {value!r}")
        return value


UtcDateTime = AwareDateTime().with_variant(TextDateTime(), "sqlite")  # type: ignore[no-untyped-call]  # SQLAlchemy's has no types
"""An aware time; it comes back in UTC."""


def is_id(text: str) -> bool:
    """Return whether a text has the form of our ids; only then may a column of ids be asked for it."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
