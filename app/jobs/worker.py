"""A worker process's heart: keeps the engine running, its units told what they have to know, and itself on the roster.

Units run in tasks of the worker's own, not of the engine's: when the database goes away the engine's loop ends and is
started again, while what is being copied goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from app.domain.errors import UnavailableError
from app.jobs.engine import Engine
from app.jobs.halting import Halt, Reason
from app.jobs.patience import FIRST_SECONDS, MOST_SECONDS, patiently, wait_for
from app.jobs.roster import BEAT_SECONDS, Roster
from app.jobs.runner import JobRunner
from app.store.database import Database
from app.store.units import UnitStore
from app.store.worker_lock import worker_lock

log = structlog.get_logger()

SIGN_SECONDS = 1.0
"""How often running units learn of a wish to cancel, where nobody announces it."""
LEAST_SECONDS = 0.2
"""What is done early, because something changed, is not done more often than this."""
SWEEP_SECONDS = 10.0
GRACE_SECONDS = 20.0
"""How long a unit may go on when the process is told to end; what is not done then goes back to the queue."""
GIVE_BACK_SECONDS = 10.0
"""How long giving back may take: a database that is gone now must not keep the process."""
ERROR_SECONDS = 5.0
"""When to try a unit again that failed for a reason nobody thought of."""


@dataclass(frozen=True, slots=True)
class Chore:
    """Something a worker does again and again beside its units; it may raise `UnavailableError`."""

    action: Callable[[], Awaitable[None]]
    seconds: float


class Worker:
    """Runs units until told to stop."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        runner: JobRunner,
        *,
        roster: Roster,
        concurrency: int,
        clock: Callable[[], datetime],
        grace_seconds: float = GRACE_SECONDS,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._database = database
        self._engine = engine
        self._runner = runner
        self._roster = roster
        self._concurrency = concurrency
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._chores = chores
        self._halts: dict[int, Halt] = {}
        self._tasks: dict[int, asyncio.Task[float | None]] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self._changed = asyncio.Event()

    @property
    def running(self) -> int:
        """How many units are at work."""
        return len(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then let units end, or give them back, and leave the roster."""
        async with worker_lock(self._database.file, stop=stop) as is_ours:
            if is_ours:
                await patiently(self._roster.beat)  # before any claim: who is not on the roster may be taken for dead
                await self._work(stop)
                await self._roster.leave()

    async def _work(self, stop: asyncio.Event) -> None:
        draining = asyncio.create_task(self._drain(stop))
        chores = [
            self._repeat(self._roster.beat, lambda: BEAT_SECONDS),
            self._repeat(self._pass_signs, lambda: SIGN_SECONDS, early=self._changed),
            self._repeat(self._sweep, self._sweep_seconds, early=self._engine.connected),
            *(self._repeat(chore.action, partial(float, chore.seconds)) for chore in self._chores),
        ]
        tasks: list[asyncio.Task[Any]] = [draining, *(asyncio.create_task(chore) for chore in chores)]
        try:
            async with self._database.announcements.heard_by(self._on_change):
                await self._keep_engine_running(stop)
                await draining
        finally:
            tasks += self._tasks.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_engine_running(self, stop: asyncio.Event) -> None:
        pause = FIRST_SECONDS
        while not stop.is_set():
            started = asyncio.get_running_loop().time()
            try:
                await self._engine.run(self._handle, stop=stop, concurrency=self._concurrency)
            except Exception as error:  # the engine failing doesn't stop the worker
                log.warning("engine_stopped", error=str(error), exc_info=not isinstance(error, UnavailableError))
                if asyncio.get_running_loop().time() - started > MOST_SECONDS:
                    pause = FIRST_SECONDS
                await wait_for(stop, pause)
                pause = min(2 * pause, MOST_SECONDS)

    async def _handle(self, unit_id: int) -> float | None:
        """Run a unit, or wait for it where it runs already; being cancelled leaves it running."""
        task = self._tasks.get(unit_id)
        if task is None:
            task = self._tasks[unit_id] = asyncio.create_task(self._run(unit_id))
            task.add_done_callback(lambda _: self._tasks.pop(unit_id, None))
        await asyncio.wait({task})
        return None if task.cancelled() else task.result()

    async def _run(self, unit_id: int) -> float | None:
        async with self._slots:
            halt = self._halts[unit_id] = Halt()
            try:
                return await self._runner.run_unit(unit_id, halt)
            except Exception:  # one unit failing doesn't stop the worker
                log.exception("unit_failed_unexpectedly", unit=unit_id)
                return ERROR_SECONDS
            finally:
                del self._halts[unit_id]

    async def _drain(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await _all_done(self._tasks, self._grace_seconds)
        for halt in self._halts.values():
            halt.call(Reason.SHUTDOWN)
        await _all_done(self._tasks, GIVE_BACK_SECONDS)
        for task in self._tasks.values():
            task.cancel()

    async def _pass_signs(self) -> None:
        """Tell units whose job stops, or whose claim is lost."""
        fences = {unit_id: halt.fence for unit_id, halt in self._halts.items() if halt.fence is not None}
        if not fences:
            return
        async with self._database.reading() as session:
            signs = {sign.unit_id: sign for sign in await UnitStore(session).list_signs(fences)}
        for unit_id, fence in fences.items():
            halt, sign = self._halts.get(unit_id), signs.get(unit_id)
            if halt is None or halt.fence != fence:
                continue
            if sign is None or sign.fence != fence:
                halt.call(Reason.LOST)
            elif sign.is_stopping:
                halt.call(Reason.STOPPING)

    async def _sweep(self) -> None:
        """Nudge what the engine has forgotten, or was never told."""
        async with self._database.transaction() as session:
            await self._engine.sweep(session, now=self._clock())
        await self._engine.tidy()

    def _sweep_seconds(self) -> float:
        return SWEEP_SECONDS * self._roster.alive  # each in turn: together they sweep as often as one

    def _on_change(self, _job_id: str) -> None:
        self._changed.set()

    async def _repeat(
        self,
        chore: Callable[[], Awaitable[None]],
        seconds: Callable[[], float],
        *,
        early: asyncio.Event | None = None,
    ) -> None:
        while True:
            try:
                await chore()
            except UnavailableError as error:
                log.warning("database_unreachable", chore=chore.__name__, error=error.message)
                await asyncio.sleep(SIGN_SECONDS)
            if early is None:
                await asyncio.sleep(seconds())
                continue
            await asyncio.sleep(LEAST_SECONDS)
            await wait_for(early, seconds())
            early.clear()


async def _all_done(tasks: dict[int, asyncio.Task[float | None]], seconds: float) -> None:
    if tasks:
        await asyncio.wait(set(tasks.values()), timeout=seconds)
