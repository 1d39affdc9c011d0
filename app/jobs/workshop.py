"""The tools a unit works with, opened for the registries as they are entered when it begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from app.domain.job import Job
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.registry import RegistryEntry
from app.domain.report import CopyResult, JobWarning, Tally
from app.domain.request import Options, SyncRequest

Observe = Callable[[Reference, Tally], None]
PlanRequest = Callable[[SyncRequest], AsyncIterator[PlannedCopy | JobWarning]]


class MakeCopy(Protocol):
    """Copies one source to all its destinations; one result for each, in order."""

    async def __call__(self, copy: PlannedCopy, options: Options, /, *, observe: Observe) -> tuple[CopyResult, ...]:
        """Copy; a failure of a registry is a failed result, never an exception."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """A planner and a copier of `app.sync`."""

    plan: PlanRequest
    copy: MakeCopy


HandsOn = Callable[[], bool]
"""Says, when a unit is cut off, whether another worker goes on with it."""
OpenWorkshop = Callable[[Job, tuple[RegistryEntry, ...], HandsOn], Workshop]
