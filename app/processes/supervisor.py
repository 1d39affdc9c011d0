"""The supervisor: keeps the processes of this host alive, carries their messages, and ends with the last of them.

A process that dies is forked again, at once at first and then with backoff; the others hear which worker has gone and
take its units over. One whose event loop has stood still for long is killed, which comes to the same. SIGTERM or
SIGINT drains all of them, a second one ends the grace period.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap
from typing import Any

from app.concurrency import wait_for_event
from app.domain.retry_policy import RetryPolicy
from app.observability import get_logger
from app.process_channel import FOR_WORKERS, RELAYED, ProcessChannel, ProcessStart, ProcessTable, Topic, open_channel
from app.processes.blob_locks import BlobLocks
from app.processes.forking import fork_process
from app.processes.unit_dispatcher import UnitDispatcher
from app.store.db.process_lock import process_lock

RESTARTS = RetryPolicy(first_delay=0.1, max_delay=30.0)
"""Of a process that dies again and again."""
HEALTHY_SECONDS = 60.0
"""A process that lived so long is restarted as one that dies for the first time."""
STUCK_SECONDS = 60.0
"""An event loop that has not turned for so long is not going to: longer than any answer of a registry takes to read."""
STUCK_WRITER_SECONDS = 5.0
"""So long where it holds a write transaction open, for whose locks others wait: SQLite has one for all."""
CHECK_SECONDS = 1.0
END_SECONDS = 15.0
"""What the processes get beyond the grace period, to give back what they have, before they are killed."""
REMEMBERED_WORKERS = 100
GARBAGE_OBJECTS = 10_000
"""New objects after which a process looks for cycles: with Python's own 700 that took 3 % of a job's CPU."""

log = get_logger(__name__)

ChildMain = Callable[[ProcessStart], int]
"""What a process does until it is stopped; returns its exit code."""


@dataclass(frozen=True, slots=True)
class ProcessRole:
    """One process that is to be kept alive."""

    name: str
    """Its name in logs and metrics: `api`, `worker-1`."""
    main: ChildMain
    is_worker: bool = False


@dataclass(slots=True)
class _Child:
    """One life of a process."""

    role: ProcessRole
    pid: int
    worker_id: str
    channel: ProcessChannel
    end: socket.socket
    """The supervisor's end of the channel, which no other process may keep open."""
    writes: mmap
    """How many write transactions it has open."""
    started_at: float
    heartbeat_at: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0
    """Its exit code, or minus the signal that ended it."""


class Supervisor:
    """Runs processes until a signal.

    - `roles`: the processes, each forked from this one
    - `grace_seconds`: how long running work may go on after the first signal
    - `new_id`: makes the ids that workers claim units under
    - `dispatcher`: the queue of the workers beside SQLite; None on PostgreSQL, which has its own
    - `on_drain`: called when draining begins
    - `lock_file`: the embedded database, which the workers of one supervisor at a time work on; None on PostgreSQL
    - `stuck_seconds`: how long an event loop may stand still before its process is killed
    """

    def __init__(
        self,
        roles: Sequence[ProcessRole],
        *,
        grace_seconds: float,
        new_id: Callable[[], str],
        dispatcher: UnitDispatcher | None = None,
        on_drain: Callable[[], None] = lambda: None,
        lock_file: str | None = None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._roles = roles
        self._grace_seconds = grace_seconds
        self._new_id = new_id
        self._dispatcher = dispatcher
        self._blob_locks = BlobLocks()
        self._on_drain = on_drain
        self._lock_file = lock_file
        self._stuck_seconds = stuck_seconds
        self._children: dict[str, _Child] = {}
        self._gone: deque[str] = deque(maxlen=REMEMBERED_WORKERS)
        self._restarts: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Keep the processes alive until a signal, then let them drain; return when all have ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        gc.freeze()  # what is loaded stays shared: no collection in a child writes to it
        gc.set_threshold(GARBAGE_OBJECTS)
        beside = [asyncio.create_task(self._end_stuck()), asyncio.create_task(self._drain())]
        try:
            async with asyncio.TaskGroup() as group:
                for role in self._roles:
                    if not role.is_worker:
                        group.create_task(self._keep(role))
                group.create_task(self._keep_workers())
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _keep_workers(self) -> None:
        """Keep the workers alive, beside SQLite once those of another supervisor have ended.

        The lock's file is open in the workers too: it is let go of when the last of them has ended.
        """
        workers = [role for role in self._roles if role.is_worker]
        if workers:
            async with process_lock(self._lock_file, stop=self._stop) as is_ours, asyncio.TaskGroup() as group:
                for role in workers if is_ours else ():
                    group.create_task(self._keep(role))

    async def _keep(self, role: ProcessRole) -> None:
        """Fork a process whenever there is none, until draining; return when it has ended."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stop.is_set():
            child = await self._start(role)
            await child.ended.wait()
            self._forget(child)
            if self._stop.is_set():
                return
            failures = 1 if loop.time() - child.started_at > HEALTHY_SECONDS else failures + 1
            pause = RESTARTS.delay(failures)
            log.error("process_ended", child=role.name, pid=child.pid, status=child.status, restart_seconds=pause)
            self._restarts[role.name] += 1
            await wait_for_event(self._stop, pause)

    async def _start(self, role: ProcessRole) -> _Child:
        ours, theirs = socket.socketpair()
        start = ProcessStart(theirs, self._new_id(), mmap(-1, 1))
        others = [child.end.fileno() for child in self._children.values()]
        with theirs:
            pid = fork_process(lambda: role.main(start), name=role.name, close=[*others, ours.fileno()])
        now = asyncio.get_running_loop().time()
        channel = await open_channel(ours)
        child = _Child(role, pid, start.worker_id, channel, ours, start.writes, started_at=now, heartbeat_at=now)
        self._children[role.name] = child
        self._listen(child)
        self._send_processes()
        if self._stop.is_set():
            child.channel.send(Topic.STOP)
        self._reap()  # it may have ended before it was known
        log.info("process_started", child=role.name, pid=pid)
        return child

    def _listen(self, child: _Child) -> None:
        def note_heartbeat(_: Any) -> None:
            child.heartbeat_at = asyncio.get_running_loop().time()

        child.channel.on(Topic.HEARTBEAT, note_heartbeat)
        for topic in RELAYED:
            child.channel.on(topic, partial(self._relay, child, topic))
        self._blob_locks.serve(child.role.name, child.channel)
        if self._dispatcher is not None:
            self._dispatcher.serve(child.role.name, child.channel)

    def _relay(self, sender: _Child, topic: Topic, content: Any) -> None:
        for child in self._children.values():
            if child is not sender and (child.role.is_worker or topic not in FOR_WORKERS):
                child.channel.send(topic, content)

    def _forget(self, child: _Child) -> None:
        """Tell the others that a process has ended, and hand out again what it had."""
        del self._children[child.role.name]
        child.channel.close()
        if child.role.is_worker:
            self._gone.append(child.worker_id)
        self._send_processes()
        self._blob_locks.leave(child.role.name)
        if self._dispatcher is not None:
            self._dispatcher.leave(child.role.name)

    def _send_processes(self) -> None:
        children = self._children.values()
        table = ProcessTable(
            workers={child.role.name: child.worker_id for child in children if child.role.is_worker},
            gone=tuple(self._gone),
            pids={"supervisor": os.getpid(), **{child.role.name: child.pid for child in children}},
            restarts={role.name: self._restarts[role.name] for role in self._roles},
        )
        for child in children:
            child.channel.send_processes(table)

    def _on_signal(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _reap(self) -> None:
        for child in self._children.values():
            if not child.ended.is_set():
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    child.status = os.waitstatus_to_exitcode(status)
                    child.ended.set()

    async def _end_stuck(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(CHECK_SECONDS)
            if loop.time() - before > 2 * CHECK_SECONDS:
                continue  # it was this process that stood still
            for child in self._children.values():
                stuck_seconds = loop.time() - child.heartbeat_at
                limit = min(STUCK_WRITER_SECONDS, self._stuck_seconds) if child.writes[0] else self._stuck_seconds
                if stuck_seconds > limit and not child.ended.is_set():
                    log.error("process_stuck", child=child.role.name, pid=child.pid, seconds=round(stuck_seconds, 1))
                    os.kill(child.pid, signal.SIGKILL)

    async def _drain(self) -> None:
        """Have all processes end after the first signal, and kill what is left when all limits are over."""
        await self._stop.wait()
        self._on_drain()
        if self._dispatcher is not None:
            self._dispatcher.stop()
        self._send_all(Topic.STOP)
        await wait_for_event(self._hurry, self._grace_seconds)
        self._send_all(Topic.HURRY)
        await asyncio.sleep(END_SECONDS)
        for child in self._children.values():
            if not child.ended.is_set():
                log.error("process_killed", child=child.role.name, pid=child.pid)
                os.kill(child.pid, signal.SIGKILL)

    def _send_all(self, topic: Topic) -> None:
        for child in self._children.values():
            child.channel.send(topic)
