"""How values are shown on pages: bytes, times, durations, shares; and the little chart of the last hour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from math import floor
from typing import Any

from app.clock import now
from app.domain.job import Job

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
SIGNS = {
    "queued": "○",
    "running": "◐",
    "succeeded": "●",
    "copied": "●",
    "planned": "●",
    "up_to_date": "●",
    "ok": "●",
    "failed": "✕",
    "cancelled": "⊘",
    "paused": "◷",
}
"""A sign beside each color: none of both is all there is to tell a state by."""


def shown_bytes(number: int) -> str:
    """Write bytes in the unit that fits."""
    value = float(number)
    for unit in _UNITS:
        if value < _STEP or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _STEP
    raise AssertionError


def shown_time(moment: datetime | None) -> str:
    """Write a time in UTC."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def shown_seconds(seconds: float | None) -> str:
    """Write a duration by its two largest units."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{max(seconds, 0):.1f} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def shown_age(moment: datetime | None) -> str:
    """Write how long ago a time is, or in how long it will be."""
    if moment is None:
        return "never"
    seconds = (now() - moment).total_seconds()
    return f"{shown_seconds(seconds)} ago" if seconds >= 0 else f"in {shown_seconds(-seconds)}"


def days_left(moment: datetime) -> int:
    """Return how many whole days are left; less than 0 once it has passed."""
    return floor((moment - now()).total_seconds() / _DAY)


def share(job: Job) -> int:
    """Return how far a job is, in per cent: by bytes, or by images where there are none; 100 when it is done."""
    if job.done:
        return 100
    images, amounts = job.progress.images, job.progress.bytes
    ended, known = amounts.done, amounts.total
    if not known:
        ended, known = images.total - images.queued - images.running, images.total
    return min(99, 100 * ended // known) if known else 0


def sign(state: str) -> str:
    """Return the sign of a state."""
    return SIGNS.get(str(state), "·")


def chart(values: Sequence[float], *, width: int = 600, height: int = 60) -> str:
    """Return the points of an SVG polyline over values, the oldest at the left."""
    top = max([*values, 1])
    step = width / max(1, len(values) - 1)
    return " ".join(
        f"{number * step:.1f},{height - value / top * (height - 2):.1f}" for number, value in enumerate(values)
    )


FILTERS: dict[str, Callable[..., Any]] = {
    "bytes": shown_bytes,
    "time": shown_time,
    "seconds": shown_seconds,
    "age": shown_age,
    "days_left": days_left,
    "sign": sign,
    "chart": chart,
}
