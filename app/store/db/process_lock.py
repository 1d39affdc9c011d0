"""The process lock: one worker beside an embedded database, by a lock on a file next to it."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

log = structlog.get_logger()

WAIT_SECONDS = 0.2


@asynccontextmanager
async def process_lock(database_file: str | None, *, stop: asyncio.Event) -> AsyncIterator[bool]:
    """Hold the lock while inside, once another worker has released it; yield False when `stop` is set before that.

    A database that is no file needs no lock.
    """
    if database_file is None:
        yield True
        return
    handle = os.open(f"{database_file}.worker", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _is_locked(handle):
            log.warning("waiting_for_other_worker", database=database_file)
            while not stop.is_set() and not _is_locked(handle):
                with suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_SECONDS):
                        await stop.wait()
        yield not stop.is_set()
    finally:
        os.close(handle)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
