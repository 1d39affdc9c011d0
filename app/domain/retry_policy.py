"""The retry policy: how often something is tried, with exponential backoff and jitter in between.

Every level that retries has one; docs/architecture.md has them in one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

_MOST_GROWTHS = 64
"""More would be no number; every backoff is at its longest long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The retries of one level; all times are seconds.

    The backoff of the AWS Architecture Blog, "Exponential Backoff And Jitter", spread to both sides of its middle.
    """

    attempts: int | None = None
    """How often something is tried in a row without progress, the first time included; None for without end."""
    first_delay: float = 0.0
    """The backoff after the first failure."""
    growth: float = 2.0
    """How many times as long the backoff is after each failure more."""
    max_delay: float = inf
    """The longest backoff, before jitter."""
    jitter: float = 0.0
    """The share that a backoff may be longer or shorter, so that what failed together does not come again together."""
    max_pause: float = 0.0
    """The longest pause that is kept for who asks for one (`Retry-After`), all of one thing together."""

    def allows(self, failures: int) -> bool:
        """Return whether one attempt more is made after so many failures in a row."""
        return self.attempts is None or failures < self.attempts

    def delay(self, failures: int, *, chance: float = 0.5) -> float:
        """Return the backoff after so many failures in a row, at least one; `chance` is a random number from 0 to 1."""
        seconds = min(self.first_delay * self.growth ** min(failures - 1, _MOST_GROWTHS), self.max_delay)
        return seconds * (1 + self.jitter * (2 * chance - 1))
