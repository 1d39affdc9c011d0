"""The tables of access: API keys, and the audit log of who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.db.column_types import Serial
from app.store.tables.declarative import Base


class ApiKeyRow(Base):
    """An API key, as much of it as is kept: the public id and the digest of the whole."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(16))
    """The preset of a key that is not bound, else empty: a release that knows no others lets such a key do nothing."""
    scopes: Mapped[list[Any] | None]
    """None for the scopes of the preset."""
    grants: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditRow(Base):
    """Who changed what. Rows are added and read; the database itself refuses anything else."""

    __tablename__ = "audit_log"

    number: Mapped[int] = mapped_column(Serial, primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(32))
    target: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    peer: Mapped[str | None] = mapped_column(String(64))
    key_id: Mapped[str | None] = mapped_column(String(16))
    request_id: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (
        Index(None, "actor", "number"),
        Index(None, "target", "number"),
        {"sqlite_autoincrement": True},
    )


class AuditLinkRow(Base):
    """One link of the audit log's chain, for one entry. Rows are added and read, as those of the log."""

    __tablename__ = "audit_links"

    position: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(Serial, unique=True)
    hash: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(16))
