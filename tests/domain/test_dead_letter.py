"""When a delivery is tried again, and when it is given up."""

from datetime import timedelta
from itertools import pairwise

import pytest

from app.domain.dead_letter import NOTIFICATION_RETRIES, AttemptOutcome, delay_after

REFUSED = AttemptOutcome(status=500)
ATTEMPTS = NOTIFICATION_RETRIES.attempts or 0


def rests(chance: float) -> list[timedelta]:
    found = [delay_after(attempt, REFUSED, chance=chance) for attempt in range(1, ATTEMPTS)]
    return [rest for rest in found if rest is not None]


def test_rests_grow_to_half_a_day_and_last_almost_three_days_in_all() -> None:
    usual = rests(0.5)
    assert usual[0] == timedelta(seconds=5)
    assert usual[-1] == timedelta(hours=12)
    assert all(one <= other for one, other in pairwise(usual))
    assert timedelta(days=2.5) < sum(usual, timedelta()) < timedelta(days=3)
    assert delay_after(ATTEMPTS, REFUSED, chance=0.5) is None


def test_chance_spreads_rests_to_both_sides() -> None:
    for early, usual, late in zip(rests(0.0), rests(0.5), rests(1.0), strict=True):
        assert early < usual < late


def test_an_endpoint_that_is_gone_is_not_tried_again() -> None:
    assert delay_after(1, AttemptOutcome(status=410), chance=0.5) is None


@pytest.mark.parametrize(
    ("wish", "rest"),
    [(120.0, timedelta(seconds=120)), (1.0, timedelta(seconds=5)), (1e300, timedelta(days=1))],
)
def test_an_endpoint_may_ask_for_a_longer_rest_of_a_day_at_most(wish: float, rest: timedelta) -> None:
    assert delay_after(1, AttemptOutcome(status=503, retry_after_seconds=wish), chance=0.5) == rest


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, None), (204, None), (299, None), (302, "redirected"), (400, "refused"), (410, "gone"), (500, "refused")],
)
def test_only_a_2xx_counts_as_taken(status: int, reason: str | None) -> None:
    assert AttemptOutcome(status=status).reason == reason
    assert AttemptOutcome(status=status).is_taken is (reason is None)
