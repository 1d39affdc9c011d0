"""A worker in a process of its own, to be stopped, frozen and killed.

    python -m tests.worker.worker_process URL JOURNAL NAME

It works as `registry-sync work` does, with the sync_session of `workshops` in the place of registries.
"""

import asyncio
import signal
import sys
from pathlib import Path

from app.store.db.database import Database
from tests.worker.house import House
from tests.worker.sync_sessions import Journal

GRACE_SECONDS = 0.5


async def main(url: str, journal: str, name: str) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    database = Database(url)
    house = House(database, Journal(Path(journal)))
    async with house.worker(name, grace_seconds=GRACE_SECONDS):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stop.wait()
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
