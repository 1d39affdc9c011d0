"""What workers share about registries: how hard each may be asked, and that all of them together keep to its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from app.domain.job import Job
from app.domain.registry import RegistryEntry, RegistryLimits
from app.registry.pool import ClientPool
from app.registry.pressure import PressureState
from app.store.database import Database
from app.store.pressures import PressureStore, SharedPressure

MEMORY = timedelta(minutes=10)
"""What was found out longer ago is found out anew."""
SAME_PAUSE = timedelta(seconds=0.5)
"""A pause that ends so little later is the one that was told already."""


def with_shared_limits(entries: tuple[RegistryEntry, ...], *, workers: int) -> tuple[RegistryEntry, ...]:
    """Give one of several workers its part of each registry's limits."""
    if workers == 1:
        return entries
    return tuple(entry.model_copy(update={"limits": _part(entry.limits, workers)}) for entry in entries)


def with_shared_rate(job: Job, *, workers: int) -> Job:
    """Give one of several workers its part of the bytes a second that a job may move."""
    options = job.request.options
    if options.max_bytes_per_second is None or workers == 1:
        return job
    part = options.model_copy(update={"max_bytes_per_second": max(1, options.max_bytes_per_second // workers)})
    return replace(job, request=job.request.model_copy(update={"options": part}))


class PressureExchange:
    """Tells other workers what this one found out of registries, and takes in what they did."""

    def __init__(self, database: Database, pool: ClientPool, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._pool = pool
        self._clock = clock
        self._told: dict[str, SharedPressure] = {}

    async def exchange(self) -> None:
        """Tell and take in; raise `UnavailableError`."""
        now = self._clock()
        news = {name: state for name, state in self._states().items() if self._is_news(name, state)}
        if news:
            async with self._database.transaction() as session:
                await PressureStore(session).share(news, now=now)
            self._told |= news
        async with self._database.reading() as session:
            known = await PressureStore(session).list_changed_since(now - MEMORY)
        self._pool.adopt_pressure(
            {name: PressureState(state.window, state.changed_at, state.paused_until) for name, state in known.items()}
        )

    def _states(self) -> dict[str, SharedPressure]:
        return {
            name: SharedPressure(state.window, state.changed_at, state.paused_until)
            for name, state in self._pool.pressure_states().items()
        }

    def _is_news(self, name: str, state: SharedPressure) -> bool:
        told = self._told.get(name)
        was_halved = state.changed_at > (told.changed_at if told else self._clock() - MEMORY)
        if state.paused_until is None:
            return was_halved
        is_longer = told is None or told.paused_until is None or state.paused_until > told.paused_until + SAME_PAUSE
        return was_halved or is_longer


def _part(limits: RegistryLimits, workers: int) -> RegistryLimits:
    return RegistryLimits(
        connections=max(1, limits.connections // workers),
        requests_per_second=limits.requests_per_second and limits.requests_per_second / workers,
        bytes_per_second=limits.bytes_per_second and max(1, limits.bytes_per_second // workers),
    )
