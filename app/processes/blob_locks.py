"""Single-flight of blobs across the processes of a host: who sends a blob where, so that no other sends it as well.

A process asks for all places of a blob at once and gets all of them or waits.
What a process had that has ended is free again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.process_channel import ProcessChannel, Topic


@dataclass(frozen=True, slots=True)
class _Request:
    """One sending of one process."""

    process: str
    channel: ProcessChannel
    number: int
    """The process's own number for it."""
    places: tuple[str, ...]


class BlobLocks:
    """Hands out places to send blobs to."""

    def __init__(self) -> None:
        self._locked: dict[str, _Request] = {}
        self._waiting: list[_Request] = []

    def serve(self, process: str, channel: ProcessChannel) -> None:
        """Listen to what a process asks for."""
        channel.on(Topic.LOCK_BLOB, lambda asked: self._ask(_Request(process, channel, asked[0], tuple(asked[1]))))
        channel.on(Topic.UNLOCK_BLOB, lambda number: self._give_back(process, number))

    def leave(self, process: str) -> None:
        """Free what a process had that has ended."""
        self._remove({request for request in self._all() if request.process == process})

    def _ask(self, request: _Request) -> None:
        self._waiting.append(request)
        self._grant()

    def _give_back(self, process: str, number: int) -> None:
        self._remove({request for request in self._all() if (request.process, request.number) == (process, number)})

    def _all(self) -> Sequence[_Request]:
        return [*self._locked.values(), *self._waiting]

    def _remove(self, requests: set[_Request]) -> None:
        self._locked = {place: request for place, request in self._locked.items() if request not in requests}
        self._waiting = [request for request in self._waiting if request not in requests]
        self._grant()

    def _grant(self) -> None:
        """Grant what can be granted, the oldest first; a request that has to wait holds no other up."""
        for request in tuple(self._waiting):
            if not any(place in self._locked for place in request.places):
                self._waiting.remove(request)
                self._locked.update(dict.fromkeys(request.places, request))
                request.channel.send(Topic.BLOB_LOCKED, request.number)
