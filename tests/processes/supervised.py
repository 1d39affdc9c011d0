"""A supervisor over a process that misbehaves, for a test to watch.

    python -m tests.processes.supervised HOW

Each life of the process writes a line. In its first two it does what HOW says; after that it behaves.
"""

import asyncio
import sys
import time
from pathlib import Path

from app.jobs.submission import new_id
from app.observability import configure_logging
from app.process_channel import ProcessStart, Topic, open_channel
from app.processes.supervisor import ProcessRole, Supervisor

GRACE_SECONDS = 5.0
STUCK_SECONDS = 3.0
BAD_LIVES = 2
EXIT_CODE = 3


def main(how: str) -> None:
    """Supervise until SIGTERM."""
    configure_logging(log_format="json", process="supervisor")
    lives = Path("lives")

    def live(start: ProcessStart) -> int:
        with lives.open("a") as log:
            log.write("a life\n")
        if len(lives.read_text().splitlines()) > BAD_LIVES:
            Path("well").touch()
            return asyncio.run(behave(start))
        match how:
            case "dies":
                return EXIT_CODE
            case "raises":
                raise RuntimeError("on purpose")
            case "writes-and-stands-still":
                start.writes[0] = 1
                time.sleep(3_600)
            case "stands-still":
                time.sleep(3_600)
            case _:
                pass
        raise AssertionError(how)

    stuck_seconds = STUCK_SECONDS if how == "stands-still" else 3_600
    supervisor = Supervisor(
        [ProcessRole("only", live)], grace_seconds=GRACE_SECONDS, new_id=new_id, stuck_seconds=stuck_seconds
    )
    asyncio.run(supervisor.run())


async def behave(start: ProcessStart) -> int:
    """Beat until told to stop."""
    stop = asyncio.Event()
    channel = await open_channel(start.end)
    channel.on(Topic.STOP, lambda _: stop.set())
    while not stop.is_set():
        channel.send(Topic.HEARTBEAT)
        await asyncio.sleep(0.1)
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
