"""The time source, and ids that sort by time (UUIDv7)."""

from __future__ import annotations

from datetime import UTC, datetime

import uuid_utils


def now() -> datetime:
    """Return the time, aware and in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Make an id that sorts by time (UUIDv7)."""
    return str(uuid_utils.uuid7())


def parse_time(text: object) -> datetime | None:
    """Read an RFC 3339 time; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
