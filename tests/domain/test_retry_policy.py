"""Backoff grows to its longest, is spread by chance, and attempts end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.retry_policy import RetryPolicy


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(first_delay=0.5, max_delay=3.0), [0.5, 1.0, 2.0, 3.0, 3.0]),
        (RetryPolicy(first_delay=10.0, growth=3.0), [10.0, 30.0, 90.0, 270.0, 810.0]),
        (RetryPolicy(), [0.0] * 5),
    ],
    ids=["up to the longest", "threefold", "at once"],
)
def test_each_failure_more_is_followed_by_a_longer_delay(policy: RetryPolicy, delays: list[float]) -> None:
    assert [policy.delay(failures) for failures in range(1, 6)] == delays


@given(failures=st.integers(1, 10**9), chance=st.floats(0, 1), jitter=st.floats(0, 1))
def test_chance_spreads_a_delay_by_the_jitter_and_no_number_of_failures_is_too_many(
    failures: int, chance: float, jitter: float
) -> None:
    policy = RetryPolicy(first_delay=1.0, max_delay=60.0, jitter=jitter)
    middle = policy.delay(failures)
    assert middle <= 60.0
    assert middle * (1 - jitter) * 0.999 <= policy.delay(failures, chance=chance) <= middle * (1 + jitter) * 1.001


def test_attempts_end_after_as_many_failures_and_without_a_number_never() -> None:
    assert [RetryPolicy(attempts=3).allows(failures) for failures in range(5)] == [True, True, True, False, False]
    assert RetryPolicy().allows(10**6)
