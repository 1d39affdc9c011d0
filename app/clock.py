"""The time source, and times as others write them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

now = partial(datetime.now, UTC)
"""Return the time, aware and in UTC."""


def parse_time(text: object) -> datetime | None:
    """Read an RFC 3339 time; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
