"""How often something is tried again, and how long is waited before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Tries of what failed for a temporary reason; what single requests fail for is repeated further down."""

    attempts: int = 3
    first_seconds: float = 1.0
    """The wait after the first failure, doubled with each one after it."""
    max_seconds: float = 30.0
    pause_seconds: float = 3_600.0
    """The longest a registry is waited for that says itself when to come back, all its pauses together."""
    jitter: Callable[[], float] = SystemRandom().random
    """The share of a wait that is waited, between 0 and 1; at least half of it is."""

    async def wait(self, failures: int, *, at_least: float = 0.0) -> None:
        """Wait after so many failures in a row."""
        seconds = min(self.first_seconds * 2 ** (failures - 1), self.max_seconds)
        await asyncio.sleep(max(at_least, seconds * (0.5 + self.jitter() / 2)))
