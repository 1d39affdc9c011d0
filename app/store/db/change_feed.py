"""The change feed: a job changed, and those who watch it hear of it, in this process and in all others (LISTEN/NOTIFY).

Beside SQLite it is a call after the commit, and a message to the other processes of the host. On PostgreSQL a trigger
of the table of jobs sends a NOTIFY, which comes with the commit too; one connection per process listens while there are
watchers. What is sent while that connection is lost is missed, so watchers must look by themselves now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import asyncpg  # type: ignore[import-untyped]  # it has no types of its own
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import UnavailableError
from app.process_channel import ProcessChannel, Topic

CHANNEL = "registry_sync_jobs"
"""Known to the trigger too, which a migration made."""
CHECK_SECONDS = 10.0
"""How often the listening connection is asked whether it still works: a dead one is silent too."""
RECONNECT_SECONDS = 1.0

Connect = Callable[[], Awaitable[asyncpg.Connection]]
Listener = Callable[[str], None]
AfterCommit = Callable[[], Awaitable[None]]


def after_commit(session: AsyncSession, action: AfterCommit) -> None:
    """Do something when the session's transaction has committed, and not otherwise."""
    session.info["after_commit"].append(action)


class ChangeFeed:
    """What one process announces and hears.

    - `connect`: opens a connection to PostgreSQL; None beside SQLite
    - `channel`: the way to the other processes beside SQLite; None where there are none
    """

    def __init__(self, connect: Connect | None, channel: ProcessChannel | None = None) -> None:
        self._connect = connect
        self._channel = channel
        if connect is None and channel is not None:
            channel.on(Topic.JOB_CHANGED, self._heard)
        self._listeners: set[Listener] = set()
        self._listening: asyncio.Task[None] | None = None

    def publish(self, session: AsyncSession, job_id: str) -> None:
        """Announce, when this transaction commits, that a job changed. On PostgreSQL the database does so by itself."""
        if self._connect is None:
            after_commit(session, partial(self._tell, job_id))

    @asynccontextmanager
    async def heard_by(self, listener: Listener) -> AsyncIterator[None]:
        """Call a function with the id of each job that changed, in whichever process, while inside."""
        self._listeners.add(listener)
        if self._connect is not None and self._listening is None:
            self._listening = asyncio.create_task(self._keep_listening(self._connect))
        try:
            yield
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._listening is not None:
                task, self._listening = self._listening, None
                task.cancel()
                await asyncio.wait({task})

    async def _keep_listening(self, connect: Connect) -> None:
        while True:
            with suppress(UnavailableError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._listen(await connect())
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, connection: asyncpg.Connection) -> None:
        broken = asyncio.Event()
        connection.add_termination_listener(lambda _: broken.set())
        try:
            await connection.add_listener(CHANNEL, lambda *heard: self._heard(heard[3]))
            while not broken.is_set():
                await connection.execute("SELECT 1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await broken.wait()
        finally:
            connection.terminate()

    async def _tell(self, job_id: str) -> None:
        self._heard(job_id)
        if self._channel is not None:
            self._channel.send(Topic.JOB_CHANGED, job_id)

    def _heard(self, job_id: str) -> None:
        for listener in tuple(self._listeners):
            listener(job_id)
