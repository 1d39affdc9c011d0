"""Where blobs were seen, kept from one process to the next and told to all others: places to mount from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.store.blob_locations import BlobLocation, BlobLocationStore
from app.store.database import Database
from app.sync.known_blobs import KnownBlobs

RECALLED = 20_000
"""A process begins with what was seen last; older places are found again as blobs are looked for."""
BATCH = 500
"""Rows one transaction writes at most: others wait for it."""


class BlobMemory:
    """Brings what one process knows of blobs and what the database does together."""

    def __init__(self, database: Database, blobs: KnownBlobs, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._has_recalled = False

    async def refresh(self) -> None:
        """Recall what was known, the first time; then write down what is new. Raise `UnavailableError`."""
        if not self._has_recalled:
            async with self._database.reading() as session:
                latest = await BlobLocationStore(session).list_latest(limit=RECALLED)
            self._blobs.seed((location.repository, location.digest) for location in reversed(latest))
            self._has_recalled = True
        news = [BlobLocation(repository, digest) for repository, digest in self._blobs.take_news()]
        for first in range(0, len(news), BATCH):
            async with self._database.transaction() as session:
                await BlobLocationStore(session).record(news[first : first + BATCH], now=self._clock())
