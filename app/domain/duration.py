"""Durations as callers and settings write them: `30s`, `5m`, `1h`, `2d`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
MAX_DURATION = "365000d"
"""A thousand years: before now and after it there is a date that long, which there is not for every number of days."""
_MAX_SECONDS = 365_000 * _UNIT_SECONDS["d"]


def parse_duration(text: str) -> int:
    """Return the seconds that `30s`, `5m`, `1h` or `2d` stand for; raise `ValueError`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        message = f"{text[:40]!r} is not a duration such as 30s, 5m, 1h or 2d"
        raise ValueError(message)
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > _MAX_SECONDS:
        message = f"{text} is too long a duration: {MAX_DURATION} is the longest"
        raise ValueError(message)
    return seconds


def format_duration(seconds: int) -> str:
    """Return seconds in the largest unit that divides them: 7200 is `2h`."""
    unit = next(unit for unit in reversed(_UNIT_SECONDS) if seconds % _UNIT_SECONDS[unit] == 0)
    return f"{seconds // _UNIT_SECONDS[unit]}{unit}"
