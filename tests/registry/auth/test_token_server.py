"""What token servers answer."""

import pytest

from app.registry.auth.token_server import read_token
from app.registry.http.errors import ErrorContext


@pytest.mark.parametrize("said", ["9" * 400, "1e999", "-" + "9" * 400])
def test_a_life_beyond_all_numbers_is_clamped(said: str) -> None:
    answer = read_token(f'{{"token": "t", "expires_in": {said}}}'.encode(), ErrorContext("r.example.com", "log_in"))

    assert 0 < answer.seconds <= 86_400
