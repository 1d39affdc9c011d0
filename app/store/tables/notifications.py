"""The tables of notifications: subscriptions, and deliveries (the outbox)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.db.column_types import Serial
from app.store.tables.declarative import Base


class SubscriptionRow(Base):
    """A subscription: the document without secrets, and the secrets, sealed."""

    __tablename__ = "subscriptions"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    document: Mapped[dict[str, Any]]
    secrets: Mapped[list[Any]]
    """Newest first: a sealed `token`, and when it `ends_at`."""
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)


class DeliveryRow(Base):
    """One message to one address. A pending one is sent when it is due; who claims it makes it due later."""

    __tablename__ = "deliveries"

    number: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    subscription: Mapped[str] = mapped_column(String(63), ForeignKey(SubscriptionRow.name, ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(32))
    job_id: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    url: Mapped[str | None] = mapped_column(Text)
    traceparent: Mapped[str | None] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    due_at: Mapped[datetime]
    fence: Mapped[int] = mapped_column(default=0)
    """Raised by each claim, and when it is sent again by hand: what an older claim has to say does not count then."""
    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    attempted_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "subscription", "number"),
        Index(
            "ix_deliveries_due",
            "due_at",
            postgresql_where=text("state = 'pending'"),
            sqlite_where=text("state = 'pending'"),
        ),
        Index(None, "finished_at"),
        {"sqlite_autoincrement": True},
    )
