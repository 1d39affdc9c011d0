"""Waits in headers that others wrote."""

from datetime import UTC, datetime

import pytest

from app.net.http_headers import retry_after_seconds

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["²", f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT", "soon"])
def test_a_wait_that_is_none_is_none(text: str) -> None:
    assert retry_after_seconds(text, now=NOW) is None
