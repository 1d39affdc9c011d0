"""What both ways out share of HTTP: the user agent that is sent, and `Retry-After` as it is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

PRODUCT = "registry-sync"
"""This service, where it names itself to others: registries, endpoints, databases."""
USER_AGENT = PRODUCT
"""How our requests begin their `User-Agent`: push events that show it tell of copies of our own."""
EPOCH_FROM = 1_000_000_000
"""A number beyond this is a moment (GitLab, GHCR), below it a number of seconds."""
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]+)?")


def retry_after_seconds(text: str, *, now: datetime) -> float | None:
    """Return how long `Retry-After` asks to wait: seconds, or a date (RFC 9110 10.2.3); None for anything else."""
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return seconds_until(float(text), now.timestamp())
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def seconds_until(reset: float, wall_now: float) -> float:
    """Return how long it is to a moment since 1970, or the number of seconds that a smaller number is."""
    return max(0.0, reset - wall_now) if reset > EPOCH_FROM else reset
