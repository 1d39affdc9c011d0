"""A job's own limit of bytes a second, beside those of the registries."""

from __future__ import annotations

from app.registry.bucket import Bucket


class Throttle(Bucket):
    """Shared by all copies of one job in this process; a byte counts once, however many destinations it goes to."""
