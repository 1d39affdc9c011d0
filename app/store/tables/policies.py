"""The tables of recurring syncs: policies, their concurrency groups, push events and push origins."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.db.column_types import Serial
from app.store.tables.declarative import Base
from app.store.tables.jobs import JobRow


class PolicyRow(Base):
    """A policy; what has to be asked for stands beside its document."""

    __tablename__ = "policies"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    document: Mapped[dict[str, Any]]
    is_on_push: Mapped[bool]
    """Whether pushes set it off now: it says so and is enabled."""
    next_run_at: Mapped[datetime | None]
    """When it is due; the process that moves this on, from what it was, has the run."""
    last_job_id: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)

    __table_args__ = (
        Index(
            None,
            "next_run_at",
            postgresql_where=text("next_run_at IS NOT NULL"),
            sqlite_where=text("next_run_at IS NOT NULL"),
        ),
    )


class PolicySourceRow(Base):
    """What a policy copies from: a repository, or all below a path; there to be found when something is pushed."""

    __tablename__ = "policy_sources"

    policy: Mapped[str] = mapped_column(Text, ForeignKey(PolicyRow.name, ondelete="CASCADE"), primary_key=True)
    host: Mapped[str] = mapped_column(Text, primary_key=True)
    path: Mapped[str] = mapped_column(Text, primary_key=True)

    __table_args__ = (Index(None, "host", "path"),)


class ConcurrencyGroupRow(Base):
    """A job that goes after all earlier ones of its concurrency group."""

    __tablename__ = "job_lanes"

    job_number: Mapped[int] = mapped_column(Serial, ForeignKey(JobRow.number, ondelete="CASCADE"), primary_key=True)
    concurrency_group: Mapped[str] = mapped_column("lane", Text, key="concurrency_group")

    __table_args__ = (Index(None, "concurrency_group", "job_number"),)


class HookEventRow(Base):
    """A push event that arrived, and what became of it."""

    __tablename__ = "hook_events"

    number: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), unique=True)
    registry_name: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[datetime] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[str | None] = mapped_column(Text)
    action: Mapped[str | None] = mapped_column(Text)
    repository: Mapped[str | None] = mapped_column(Text)
    tag: Mapped[str | None] = mapped_column(String(128))
    digest: Mapped[str | None] = mapped_column(String(135))
    user_agent: Mapped[str | None] = mapped_column(Text)
    event_id: Mapped[str | None] = mapped_column(Text)
    occurred_at: Mapped[datetime | None]
    jobs: Mapped[list[Any]]
    dedupe_key: Mapped[str | None] = mapped_column(String(64))
    """The same for each delivery of one event."""

    __table_args__ = (
        UniqueConstraint("registry_name", "dedupe_key"),
        Index(None, "registry_name", "repository", "number"),
        Index(
            "ix_hook_events_received",
            "number",
            postgresql_where=text("state = 'received'"),
            sqlite_where=text("state = 'received'"),
        ),
        {"sqlite_autoincrement": True},
    )


class PushOriginRow(Base):
    """Which pushed events and policies led to what was written to a destination last."""

    __tablename__ = "push_trails"

    key: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    """A digest of the destination's text."""
    job_id: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    chain: Mapped[list[Any]]
    """The rules of policies gone through, in order."""
    written_at: Mapped[datetime] = mapped_column(index=True)
