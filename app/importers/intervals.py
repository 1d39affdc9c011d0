"""Turns other tools' intervals into schedules: the nearest line of cron that the clock can keep."""

from __future__ import annotations


def nearest_cron(minutes: float) -> tuple[str, int]:
    """Return a line of cron that comes nearest to an interval, and the minutes between its runs."""
    every = {step: f"*/{step} * * * *" for step in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)}
    every |= {hours * 60: f"0 */{hours} * * *" for hours in (1, 2, 3, 4, 6, 8, 12)}
    every[24 * 60] = "0 0 * * *"
    nearest = min(every, key=lambda step: abs(step - minutes))
    return every[nearest], nearest
