"""What one unit of work waits for: the registries that it has requests at, and how much has moved for it lately.

The worker makes an `Activity` for each unit that it runs, and all that the unit does finds it in its context. By it the
worker sees which units only wait, for a registry that trickles or asks for pauses, and gives their slots to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

ANSWER_BYTES = 4 * 1024
"""What an answer counts as beside its body: a unit whose images are all there already moves next to nothing."""

_current: ContextVar[Activity | None] = ContextVar("activity", default=None)
_asked: ContextVar[str] = ContextVar("asked_registry", default="")


class Activity:
    """Of one unit.

    - `bytes_per_second`: a unit for which less than this moves only waits
    """

    def __init__(self, *, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self.waits: Counter[str] = Counter()
        self._awaited: Counter[Activity] = Counter()
        self._moved = 0
        self._looked_at = monotonic()

    def is_waiting(self) -> bool:
        """Return whether the unit has only waited since this was asked the last time."""
        now = monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        moved, self._moved = self._moved, 0
        return moved < seconds * self._bytes_per_second

    @property
    def registries(self) -> frozenset[str]:
        """The registries that it waits for, itself or for another unit that waits for them."""
        return frozenset(+self.waits).union(*(+awaited.waits for awaited in +self._awaited))

    def move(self, size: int) -> None:
        """Count bytes that moved, either way."""
        self._moved += size

    def wait(self, registry: str, change: int) -> None:
        """Count a request to a registry that has begun (1) or ended (-1), its retries included."""
        self.waits[registry] += change

    def wait_for_unit(self, activity: Activity, change: int) -> None:
        """Count a wait for what another unit does that has begun (1) or ended (-1)."""
        self._awaited[activity] += change


@contextmanager
def acting(activity: Activity) -> Iterator[None]:
    """Have all that is done inside, and in tasks made inside, count as this activity."""
    token = _current.set(activity)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def waiting_for(*registries: str) -> Iterator[None]:
    """Note a request to a registry, or a wait for its permits, for as long as the block lasts."""
    activity = _current.get()
    if activity is None:
        yield
        return
    token = _asked.set(registries[0] if len(registries) == 1 else "")
    for registry in registries:
        activity.wait(registry, 1)
    try:
        yield
    finally:
        for registry in registries:
            activity.wait(registry, -1)
        _asked.reset(token)


@contextmanager
def waiting_for_unit(other: Activity | None) -> Iterator[None]:
    """Note, for as long as the block lasts, a wait for what another unit does."""
    activity = _current.get()
    if activity is None or other is None:
        yield
        return
    activity.wait_for_unit(other, 1)
    try:
        yield
    finally:
        activity.wait_for_unit(other, -1)


@contextmanager
def waiting_elsewhere() -> Iterator[None]:
    """Note that a request's own body is waited for: its registry has nothing to do with that."""
    activity, registry = _current.get(), _asked.get()
    if activity is None or not registry:
        yield
        return
    activity.wait(registry, -1)
    try:
        yield
    finally:
        activity.wait(registry, 1)


def current_activity() -> Activity | None:
    """Return the activity of the unit that this is done for; None outside of units."""
    return _current.get()


def note_moved(size: int) -> None:
    """Count bytes that moved for the current unit, if there is one."""
    activity = _current.get()
    if activity is not None:
        activity.move(size)
