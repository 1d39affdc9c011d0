"""Processes of one host inside a test: channels between them as the supervisor has them, relaying and all."""

import socket
from contextlib import AsyncExitStack
from functools import partial

from app.process_channel import RELAYED, ProcessChannel, ProcessTable, Topic, open_channel
from app.processes.blob_locks import BlobLocks


class RelayedChannels:
    """The ends that processes have of channels whose other ends relay, as the supervisor does."""

    def __init__(self) -> None:
        self.ends: list[ProcessChannel] = []
        self.locks = BlobLocks()
        self._others: list[ProcessChannel] = []
        self._ends = AsyncExitStack()

    async def join(self) -> ProcessChannel:
        """Have another process join, and return its end."""
        ours, theirs = socket.socketpair()
        relaying, end = await open_channel(ours), await open_channel(theirs)
        for topic in RELAYED:
            relaying.on(topic, partial(self._relay, relaying, topic))
        self.locks.serve(f"process-{len(self.ends)}", relaying)
        self._others.append(relaying)
        self.ends.append(end)
        self._ends.callback(relaying.close)
        self._ends.callback(end.close)
        return end

    def tell(self, table: ProcessTable) -> None:
        """Tell all which processes there are."""
        for other in self._others:
            other.send_processes(table)

    async def close(self) -> None:
        """Close all channels."""
        await self._ends.aclose()

    def _relay(self, sender: ProcessChannel, topic: Topic, content: object) -> None:
        for other in self._others:
            if other is not sender:
                other.send(topic, content)
