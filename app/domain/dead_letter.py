"""When a delivery that was not taken is tried again, and when it is given up: it is a dead letter then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from app.domain.retry_policy import RetryPolicy

NOTIFICATION_RETRIES = RetryPolicy(
    attempts=13, first_delay=5.0, growth=4.0, max_delay=12 * 3_600.0, jitter=0.2, max_pause=86_400.0
)
"""Of a delivery: almost three days in all."""
FAILING_FOR = timedelta(days=2)
"""An endpoint that took nothing for this long is switched off as soon as a delivery is given up."""


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """How one attempt ended: with an HTTP status, or with the code of what kept it from one."""

    status: int | None = None
    error: str | None = None
    retry_after_seconds: float | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the receiver took it (any 2xx; Standard Webhooks, "Delivery")."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 — HTTP's own classes

    @property
    def reason(self) -> str | None:
        """Why it was not taken, as a code; None where it was."""
        if self.is_taken or self.error is not None:
            return self.error
        if self.is_gone:
            return "gone"
        return "redirected" if self.status is not None and 300 <= self.status < 400 else "refused"  # noqa: PLR2004 — 3xx

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants nothing any more (410; Standard Webhooks, "Delivery")."""
        return self.status == 410 and self.error is None  # noqa: PLR2004 — as above; mail servers have codes of their own


def delay_after(attempts: int, outcome: AttemptOutcome, *, chance: float) -> timedelta | None:
    """Return the delay before the next attempt, after the n-th has failed; None when the delivery is given up.

    `chance` is a random number from 0 to 1.
    """
    policy = NOTIFICATION_RETRIES
    if outcome.is_gone or not policy.allows(attempts):
        return None
    asked = min(outcome.retry_after_seconds or 0.0, policy.max_pause)
    return timedelta(seconds=max(policy.delay(attempts, chance=chance), asked))
