"""Where time and ids come from."""

from __future__ import annotations

from datetime import UTC, datetime

import uuid_utils


def now() -> datetime:
    """Tell the time, aware and in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Make an id that sorts by time (UUIDv7)."""
    return str(uuid_utils.uuid7())
