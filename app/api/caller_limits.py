"""Caller limits: how much one caller may have open at once in this process, so that it leaves room for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from app.domain.access import Caller
from app.domain.errors import TooManyError

Kind = Literal["wait", "events", "plan", "import"]
MOST: dict[Kind, int] = {"wait": 500, "events": 500, "plan": 2, "import": 1}
"""Waiting requests, open event streams, plans and imports of one caller; a plan asks two registries about every image,
and an import may take hundreds of MiB while it is read."""
_WORDS: dict[Kind, str] = {
    "wait": "requests that wait for a job",
    "events": "event streams",
    "plan": "plans",
    "import": "import",
}
RETRY_SECONDS = 5


class CallerLimits:
    """Counts what each caller has open."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, Kind]] = Counter()

    def take(self, caller: Caller, kind: Kind) -> None:
        """Count one more; raise `TooManyError` where the caller has as many as it may. `give_back` is owed."""
        key = (caller.name, kind)
        if self._open[key] >= MOST[kind]:
            message = f"{caller.name!r} has {MOST[kind]} {_WORDS[kind]} open here, which is all it may"
            raise TooManyError(message, retry_seconds=RETRY_SECONDS)
        self._open[key] += 1

    def give_back(self, caller: Caller, kind: Kind) -> None:
        """Count one less."""
        key = (caller.name, kind)
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]

    @contextmanager
    def hold(self, caller: Caller, kind: Kind) -> Iterator[None]:
        """Count one while inside; raise as `take`."""
        self.take(caller, kind)
        try:
            yield
        finally:
            self.give_back(caller, kind)
