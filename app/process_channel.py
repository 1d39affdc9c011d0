"""ProcessChannel: one end of the socket pair between the supervisor and one of its processes.

A message is a line of JSON: a topic and its data. The supervisor relays what one process tells the others
(`RELAYED`), so the processes of a host hear of each other without a port that anything else could reach.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from mmap import mmap
from typing import Any, cast

MAX_BACKLOG_BYTES = 4 * 1024 * 1024
"""Unread bytes after which a process that does not read gets no more hints; all else is sent to it all the same."""

OnMessage = Callable[[Any], None]


class Topic(StrEnum):
    """What messages are about."""

    PROCESSES = "processes"
    """From the supervisor: which processes there are (`ProcessTable`)."""
    STOP = "stop"
    """From the supervisor: end in good order, within the grace period."""
    HURRY = "hurry"
    """From the supervisor: the grace period is over."""
    HEARTBEAT = "heartbeat"
    """To the supervisor: the event loop of this process turns."""
    READY = "ready"
    """To the supervisor: this worker takes so many units at once (SQLite)."""
    DRAINING = "draining"
    """To the supervisor: this worker takes no more units (SQLite)."""
    RUN = "run"
    """From the supervisor: run this unit (SQLite)."""
    DONE = "done"
    """To the supervisor: this unit is done, or is to come again after so many seconds (SQLite)."""
    ENQUEUE = "enqueue"
    """To the supervisor: these units are to be run (SQLite)."""
    JOB_CHANGED = "job_changed"
    """To all others: a job changed, and whether it has ended (SQLite; PostgreSQL notifies by itself)."""
    PUSH_STORED = "push_stored"
    """To all others: a push event waits to be matched."""
    LOCK_BLOB = "lock_blob"
    """To the supervisor: a number, and what this process wants to be the only one for: places to send a blob to, a
    list to read, a token to ask for."""
    BLOB_LOCKED = "blob_locked"
    """From the supervisor: what was asked for under that number is this process's."""
    UNLOCK_BLOB = "unlock_blob"
    """To the supervisor: what was asked for under that number is wanted no longer."""
    BLOBS = "blobs"
    """To the other workers: where blobs were found, and where they were not."""
    DIGEST_LIST = "digest_list"
    """To the other workers: what a registry's list says of a repository's tags, and whether it may be believed."""
    TOKEN = "token"  # noqa: S105 — what a message is about
    """To the other workers: a token of a registry, which they would ask for too."""


FOR_WORKERS = frozenset({Topic.BLOBS, Topic.DIGEST_LIST, Topic.TOKEN})
RELAYED = frozenset({Topic.JOB_CHANGED, Topic.PUSH_STORED, *FOR_WORKERS})
"""Hints: each is found out without them too, only later."""


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """The processes of one supervisor, as it sees them."""

    workers: Mapping[str, str] = field(default_factory=dict)
    """The id of each worker that lives, by the name of its process."""
    gone: tuple[str, ...] = ()
    """Ids of workers that have ended; the latest last, as many as are worth remembering."""
    pids: Mapping[str, int] = field(default_factory=dict)
    """The process id of each process that lives, by its name."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """How often each process was started again, by its name."""

    @property
    def alive(self) -> frozenset[str]:
        """The ids of the workers that live."""
        return frozenset(self.workers.values())


@dataclass(frozen=True, slots=True)
class ProcessStart:
    """What a process gets from its supervisor."""

    end: socket.socket
    """Its end of the channel."""
    worker_id: str
    """What it claims units under, if it works."""
    writes: mmap
    """One byte that the supervisor reads too: how many write transactions this process has open."""


class ProcessChannel(asyncio.Protocol):
    """One end of a channel; made by `open_channel`.

    - `writes`: where the open write transactions of this process are counted for the supervisor, which sees them there
      even when this process stands still
    """

    def __init__(self, writes: mmap | None = None) -> None:
        self._writes = writes
        self.closed = asyncio.Event()
        """Set when the other end has gone."""
        self.processes = ProcessTable()
        """The latest table that came through this end."""
        self._listeners: defaultdict[Topic, list[OnMessage]] = defaultdict(list)
        self._transport: asyncio.Transport | None = None
        self._rest = b""

    @property
    def backlog_bytes(self) -> int:
        """How much was sent that the other end has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, topic: Topic, data: Any = None) -> None:
        """Send a message; nothing happens where the other end has gone. A hint to who does not read is dropped."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if topic in RELAYED and self.backlog_bytes > MAX_BACKLOG_BYTES:
            return
        transport.write(json.dumps([topic, data], separators=(",", ":")).encode() + b"\n")

    def send_processes(self, table: ProcessTable) -> None:
        """Send the table of processes."""
        self.send(Topic.PROCESSES, asdict(table))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Show the supervisor that a write transaction is open, while inside."""
        self._count_write(1)
        try:
            yield
        finally:
            self._count_write(-1)

    def on(self, topic: Topic, action: OnMessage) -> None:
        """Call a function with the data of each message of a topic."""
        self._listeners[topic].append(action)

    @contextmanager
    def listening(self, topic: Topic, action: OnMessage) -> Iterator[None]:
        """Call a function with the data of each message of a topic, while inside."""
        self.on(topic, action)
        try:
            yield
        finally:
            self._listeners[topic].remove(action)

    def close(self) -> None:
        """Close this end, and with it the channel."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but not by descent

    def data_received(self, data: bytes) -> None:
        """Take messages apart and hand them out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            topic, content = json.loads(line)
            self._hand_out(Topic(topic), content)

    def connection_lost(self, _error: Exception | None) -> None:
        """Have this process end at once: who could tell it to has gone."""
        self.closed.set()
        self._hand_out(Topic.STOP, None)
        self._hand_out(Topic.HURRY, None)

    def _count_write(self, change: int) -> None:
        if self._writes is not None:
            self._writes[0] += change

    def _hand_out(self, topic: Topic, content: Any) -> None:
        if topic is Topic.PROCESSES:
            self.processes = ProcessTable(
                workers=content["workers"],
                gone=tuple(content["gone"]),
                pids=content["pids"],
                restarts=content["restarts"],
            )
        for action in tuple(self._listeners[topic]):
            action(content)


async def open_channel(end: socket.socket, *, writes: mmap | None = None) -> ProcessChannel:
    """Open one end of a socket pair; the channel owns the socket from now on."""
    channel = ProcessChannel(writes)
    end.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=end)
    return channel
