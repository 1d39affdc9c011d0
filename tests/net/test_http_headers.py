"""Numbers and waits in headers that others wrote."""

from datetime import UTC, datetime

import pytest

from app.net.http_headers import retry_after_seconds, whole_number

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("0012", 12), ("9" * 18, int("9" * 18)), ("²", None), ("٣", None)]
)
def test_a_number_is_ascii_digits(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", " 1", "9" * 19, "9" * 5_000])
def test_what_fits_no_database_is_no_number(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize("text", ["²", f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT", "soon"])
def test_a_wait_that_is_none_is_none(text: str) -> None:
    assert retry_after_seconds(text, now=NOW) is None
