"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class SettableClock:
    """Tell the time a test has set; call it, or its `now`, wherever code asks for a `Callable[[], datetime]`."""

    def __init__(self, at: datetime = START) -> None:
        self._at = at

    def __call__(self) -> datetime:
        return self._at

    def now(self) -> datetime:
        """Return the time as last set, aware and in UTC."""
        return self._at

    def set(self, at: datetime) -> None:
        """Jump to a moment, which has to be aware."""
        if at.tzinfo is None:
            raise ValueError(f"a clock needs an aware time, got {at!r}")
        self._at = at.astimezone(UTC)

    def advance(self, seconds: float) -> datetime:
        """Move on (a negative number moves back) and return the new time."""
        self._at += timedelta(seconds=seconds)
        return self._at
