"""The tables of registries: their entries, how hard each may be asked, where blobs were seen, open uploads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.declarative import Base


class RegistryRow(Base):
    """A named registry: its entry without secrets, and the secrets, sealed."""

    __tablename__ = "registries"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text, unique=True)
    entry: Mapped[dict[str, Any]]
    secrets: Mapped[dict[str, Any] | None]
    """Sealed texts by their place in the entry, such as `auth.password`."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)


class RegistryLimitRow(Base):
    """How hard a registry may be asked, as the workers have found out: shared so that each need not find it out."""

    __tablename__ = "registry_pressures"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    """The registry entry's."""
    window: Mapped[float]
    """How many requests at once went well, after the last refusal."""
    changed_at: Mapped[datetime]
    """When it was last made smaller."""
    paused_until: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class RegistryStateRow(Base):
    """How one worker process stands with a registry now: `state` of the registry's resource adds them up."""

    __tablename__ = "registry_states"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    """The registry entry's."""
    worker: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class BlobLocationRow(Base):
    """Where a blob was seen: a repository it may be mounted from."""

    __tablename__ = "blob_locations"

    host: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(String(135), primary_key=True)
    repository: Mapped[str] = mapped_column(Text, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(index=True)


class UploadSessionRow(Base):
    """An upload that a registry still holds open, so that another process can go on with it."""

    __tablename__ = "upload_sessions"

    host: Mapped[str] = mapped_column(Text, primary_key=True)
    repository: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(String(135), primary_key=True)
    location: Mapped[str] = mapped_column(Text)
    """The session's URL, sealed: it may be all that is needed to write there."""
    updated_at: Mapped[datetime] = mapped_column(index=True)
    worker: Mapped[str | None] = mapped_column(String(64))
    """Who writes to it, until that one leaves it or dies: two that write to one session spoil it."""
