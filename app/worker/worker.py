"""The worker: runs the queue and its units, signals units to stop, and shows a heartbeat.

Units run in tasks of the worker's own, not of the queue's: when the database goes away the queue's loop ends and is
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

from app.concurrency import DATABASE_RETRIES, log_unavailable, retry_while_unavailable, wait_for_event
from app.domain.errors import UnavailableError
from app.jobs.queue import JobQueue
from app.process_channel import ProcessChannel, Topic
from app.store.db.database import Database
from app.store.db.process_lock import process_lock
from app.store.units import UnitStore
from app.worker.claims import COME_BACK_SECONDS, LOOK_SECONDS, StopReason, StopSignal, UnitSlots
from app.worker.heartbeat import HEARTBEAT_SECONDS, Heartbeat
from app.worker.runner import JobRunner

log = structlog.get_logger()

SIGN_SECONDS = 1.0
"""How often running units look for a requested cancellation, where no change feed reports it."""
LEAST_SECONDS = 0.5
"""What is done early, because something changed, is not done more often than this."""
REQUEUE_SECONDS = 10.0
GRACE_SECONDS = 20.0
"""How long a unit may go on when the process is asked to end; what is not done then goes back to the queue."""
GIVE_BACK_SECONDS = 10.0
"""How long giving back may take: a database that is gone now must not keep the process."""
ERROR_SECONDS = 5.0
"""When to try a unit again that failed unexpectedly."""


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """Something a worker does again and again beside its units; it may raise `UnavailableError`."""

    action: Callable[[], Awaitable[None]]
    seconds: float


class Worker:
    """Runs units until `stop` is set.

    - `queue`: hands out unit ids; `runner`: runs one
    - `heartbeat`: this worker's sign of life
    - `slots`: how many units run at once
    - `clock`: the time, in UTC
    - `grace_seconds`: how long units may go on after `stop`; 20 s
    - `periodic_tasks`: what is done again and again beside them
    - `channel`: the way to the supervisor; without one a worker beside SQLite sees for itself that it is the only one
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        runner: JobRunner,
        *,
        heartbeat: Heartbeat,
        slots: UnitSlots,
        clock: Callable[[], datetime],
        grace_seconds: float = GRACE_SECONDS,
        periodic_tasks: Sequence[PeriodicTask] = (),
        channel: ProcessChannel | None = None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._runner = runner
        self._heartbeat = heartbeat
        self._slots = slots
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._periodic_tasks = periodic_tasks
        self._channel = channel
        self._hurry = asyncio.Event()
        self._workers_gone = asyncio.Event()
        self._released: frozenset[str] = frozenset()
        if channel is not None:
            channel.on(Topic.HURRY, lambda _: self._hurry.set())
            channel.on(Topic.PROCESSES, lambda _: self._workers_gone.set())
        self._stop_signals: dict[int, StopSignal] = {}
        self._tasks: dict[int, asyncio.Task[float | None]] = {}
        self._changed = asyncio.Event()

    @property
    def running(self) -> int:
        """How many units are at work."""
        return len(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Run units until `stop` is set; then let them end, or put them back, and delete the heartbeat."""
        lock_file = self._database.file if self._channel is None else None  # the supervisor has it
        async with process_lock(lock_file, stop=stop) as is_ours:
            if is_ours:
                await retry_while_unavailable(
                    self._heartbeat.record
                )  # before any claim: who is not on the roster may be taken for dead
                await self._work(stop)
                await self._heartbeat.leave()

    async def _work(self, stop: asyncio.Event) -> None:
        draining = asyncio.create_task(self._drain(stop))
        periodic_tasks = [
            self._repeat(self._heartbeat.record, lambda: HEARTBEAT_SECONDS),
            self._repeat(self._pass_signs, lambda: SIGN_SECONDS, early=self._changed),
            self._repeat(self._requeue_lost, self._requeue_seconds, early=self._queue.connected),
            self._repeat(self._release_gone, lambda: REQUEUE_SECONDS, early=self._workers_gone),
            *(
                self._repeat(periodic_task.action, partial(float, periodic_task.seconds))
                for periodic_task in self._periodic_tasks
            ),
        ]
        tasks: list[asyncio.Task[Any]] = [
            draining,
            *(asyncio.create_task(periodic_task) for periodic_task in periodic_tasks),
        ]
        try:
            async with self._database.change_feed.heard_by(self._on_change):
                await self._keep_queue_running(stop)
                await draining
        finally:
            tasks += self._tasks.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_queue_running(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            started = asyncio.get_running_loop().time()
            try:
                await self._queue.run(self._handle, stop=stop, concurrency=self._slots.concurrency)
            except Exception as error:  # the queue failing doesn't stop the worker
                if isinstance(error, UnavailableError):
                    log_unavailable("queue", error)
                else:
                    log.exception("queue_stopped")
                has_run = asyncio.get_running_loop().time() - started > DATABASE_RETRIES.max_delay
                failures = 1 if has_run else failures + 1
                await wait_for_event(stop, DATABASE_RETRIES.delay(failures))

    async def _handle(self, unit_id: int) -> float | None:
        """Run a unit, or wait for it where it runs already; being cancelled leaves it running.

        One that only waits goes on too, without a place in the queue: it is come back to.
        """
        task = self._tasks.get(unit_id)
        if task is None:
            task = self._tasks[unit_id] = asyncio.create_task(self._run(unit_id))
            task.add_done_callback(lambda _: self._tasks.pop(unit_id, None))
        while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
            if self._slots.give_back(unit_id):
                return COME_BACK_SECONDS
        return None if task.cancelled() else task.result()

    async def _run(self, unit_id: int) -> float | None:
        async with self._slots.slot(unit_id):
            stop_signal = self._stop_signals[unit_id] = StopSignal()
            try:
                return await self._runner.run_unit(unit_id, stop_signal)
            except Exception:  # one unit failing doesn't stop the worker
                log.exception("unit_failed_unexpectedly", unit=unit_id)
                return ERROR_SECONDS
            finally:
                del self._stop_signals[unit_id]

    async def _drain(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await _all_done(self._tasks, self._grace_seconds, hurry=self._hurry)
        for stop_signal in self._stop_signals.values():
            stop_signal.call(StopReason.SHUTDOWN)
        await _all_done(self._tasks, GIVE_BACK_SECONDS)
        for task in self._tasks.values():
            task.cancel()

    async def _pass_signs(self) -> None:
        """Set the stop signal of units whose job is cancelled, or whose claim is lost."""
        fences = {
            unit_id: stop_signal.fence
            for unit_id, stop_signal in self._stop_signals.items()
            if stop_signal.fence is not None
        }
        if not fences:
            return
        async with self._database.reading(is_short=True) as session:
            signs = {sign.unit_id: sign for sign in await UnitStore(session).list_signs(fences)}
        for unit_id, fence in fences.items():
            stop_signal, sign = self._stop_signals.get(unit_id), signs.get(unit_id)
            if stop_signal is None or stop_signal.fence != fence:
                continue
            if sign is None or sign.fence != fence:
                stop_signal.call(StopReason.LOST)
            elif sign.is_stopping:
                stop_signal.call(StopReason.STOPPING)

    async def _requeue_lost(self) -> None:
        """Enqueue what the queue has lost, or never got."""
        await self._queue.requeue_lost(self._database, now=self._clock())
        await self._queue.delete_log()

    async def _release_gone(self) -> None:
        """Have the units delivered again that workers of this host had which have ended."""
        gone = frozenset(self._channel.processes.gone) if self._channel is not None else frozenset[str]()
        if new := gone - self._released:
            async with self._database.transaction() as session:
                await self._queue.release(session, sorted(new))
            self._released = gone

    def _requeue_seconds(self) -> float:
        return REQUEUE_SECONDS * self._heartbeat.alive  # each in turn: together they sweep as often as one

    def _on_change(self, _job_id: str, _has_ended: bool) -> None:  # noqa: FBT001 — as the change feed calls it
        self._changed.set()

    async def _repeat(
        self,
        periodic_task: Callable[[], Awaitable[None]],
        seconds: Callable[[], float],
        *,
        early: asyncio.Event | None = None,
    ) -> None:
        while True:
            try:
                await periodic_task()
            except UnavailableError as error:
                log_unavailable(periodic_task.__name__, error)
                await asyncio.sleep(SIGN_SECONDS)
            if early is None:
                await asyncio.sleep(seconds())
                continue
            await asyncio.sleep(LEAST_SECONDS)
            await wait_for_event(early, seconds())
            early.clear()


async def _all_done(
    tasks: dict[int, asyncio.Task[float | None]], seconds: float, *, hurry: asyncio.Event | None = None
) -> None:
    """Wait until all are done, or so long, or until there is no time left."""
    if not tasks:
        return
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(asyncio.wait(set(tasks.values())))]
    if hurry is not None:
        waits.append(asyncio.create_task(hurry.wait()))
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
