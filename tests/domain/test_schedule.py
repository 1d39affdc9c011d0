"""Schedules come due when they say, by their own clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.schedule import Schedule


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        ({"cron": "17 */6 * * *"}, "2026-03-02 07:15", "2026-03-02 12:17"),
        ({"cron": "17 */6 * * *"}, "2026-03-02 12:17", "2026-03-02 18:17"),
        ({"cron": "0 9 * * *", "timezone": "Europe/Berlin"}, "2026-03-02 08:30", "2026-03-03 08:00"),
        ({"cron": "0 9 * * *", "timezone": "Europe/Berlin"}, "2026-07-02 06:30", "2026-07-02 07:00"),
        ({"cron": "30 2 * * *", "timezone": "Europe/Berlin"}, "2026-03-29 00:00", "2026-03-29 01:00"),
        ({"cron": "0 0 29 2 *"}, "2026-03-02 00:00", "2028-02-29 00:00"),
    ],
    ids=["later", "never the same again", "winter", "summer", "an hour that was left out", "a leap day"],
)
def test_a_schedule_comes_due_by_its_own_clock(schedule: dict[str, str], after: str, due: str) -> None:
    assert Schedule.model_validate(schedule).next_after(at(after), name="p") == at(due)


@given(name=st.text(max_size=20), minutes=st.integers(0, 100_000))
def test_jitter_moves_every_run_of_a_policy_alike(name: str, minutes: int) -> None:
    moment = at("2026-01-01 00:00") + timedelta(minutes=minutes)
    schedule = Schedule(cron="*/10 * * * *", jitter="1h")
    first = schedule.next_after(moment, name=name)
    second = schedule.next_after(first, name=name)
    assert moment < first <= moment + timedelta(minutes=10)
    assert second - first == timedelta(minutes=10)


def test_jitter_spreads_policies_of_one_schedule() -> None:
    schedule = Schedule(cron="0 0 * * *", jitter="30m")
    runs = {schedule.next_after(at("2026-01-01 12:00"), name=f"p{n}") for n in range(50)}
    assert len(runs) > 25
    assert all(at("2026-01-02 00:00") <= run <= at("2026-01-02 00:30") for run in runs)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("cron", "* * * *", "invalid_cron"),
        ("cron", "* * * * * *", "invalid_cron"),
        ("cron", "61 * * * *", "invalid_cron"),
        ("cron", "0 0 31 2 *", "invalid_cron"),
        ("cron", "@daily", "invalid_cron"),
        ("timezone", "Mars/Olympus", "invalid_timezone"),
        ("timezone", "../../etc/passwd", "invalid_timezone"),
        ("timezone", "Europe", "invalid_timezone"),
        ("timezone", "", "invalid_timezone"),
        ("jitter", "soon", "value_error"),
        ("jitter", "2d", "value_error"),
        ("catch_up", "all", "literal_error"),
    ],
)
def test_a_schedule_that_never_fits_is_refused_at_its_field(field: str, value: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Schedule.model_validate({"cron": "0 0 * * *", field: value})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == ((field,), code)
