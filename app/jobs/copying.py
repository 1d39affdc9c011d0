"""A copy unit: its images copied, several at once; one that fails does not stop the others."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from app.domain.plan import PlannedCopy
from app.domain.report import ExecutionError
from app.jobs.claims import Claim
from app.jobs.ledger import UnitLedger
from app.jobs.workshop import Workshop
from app.store.images import StoredImage

log = structlog.get_logger()

IMAGES_AT_ONCE = 8
"""Enough that small images wait for each other's round trips and not for their own; large ones share what there is."""
SLICE_SECONDS = 20.0
"""After this long a unit begins no more images but goes back to the queue, where a more urgent one may wait."""
MAX_CLAIMS = 10
"""A unit that was begun so often and never ended is taken to be what ends its workers."""


class Copying:
    """The copying of one claim."""

    def __init__(self, claim: Claim, ledger: UnitLedger, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._claim = claim
        self._ledger = ledger
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(IMAGES_AT_ONCE)

    async def copy_all(self, workshop: Workshop) -> None:
        """Copy what the unit still has to do and may do now; everything else is left as it is."""
        ready = [image for image in self._claim.images if self._may_begin(image)]
        if self._claim.unit.claims > MAX_CLAIMS:
            message = f"the copy was begun {MAX_CLAIMS} times and each time its worker ended without a word"
            self._ledger.fail([image.position for image in ready], ExecutionError("internal", message))
            return
        begun = self._monotonic()
        async with asyncio.TaskGroup() as group:
            for images in _by_copy(ready):
                await self._slots.acquire()
                if self._monotonic() - begun > SLICE_SECONDS:
                    break
                group.create_task(self._copy(images, workshop)).add_done_callback(lambda _: self._slots.release())

    def _may_begin(self, image: StoredImage) -> bool:
        written_by = self._claim.written_by.get(image.image.destination)
        if written_by is None:
            self._ledger.wait()
            return False  # another job writes it just now
        if written_by > self._claim.unit.job_number:
            self._ledger.supersede(image.position)
            return False
        return True

    async def _copy(self, images: Sequence[StoredImage], workshop: Workshop) -> None:
        positions = [image.position for image in images]
        copy = _joined(images)
        self._ledger.begin(positions)
        try:
            results = await workshop.copy(copy, self._claim.job.request.options, observe=self._ledger.observe)
        except Exception as error:
            log.exception("copy_failed_unexpectedly", job=self._claim.job.id, source=str(copy.source))
            self._ledger.fail(
                positions, ExecutionError("internal", f"{type(error).__name__} in this service; see its log")
            )
            return
        self._ledger.record(results)


def _by_copy(images: Sequence[StoredImage]) -> list[list[StoredImage]]:
    copies: defaultdict[int, list[StoredImage]] = defaultdict(list)
    for image in images:
        copies[image.copy_number].append(image)
    return list(copies.values())


def _joined(images: Sequence[StoredImage]) -> PlannedCopy:
    destinations = tuple(destination for image in images for destination in image.copy.destinations)
    return replace(images[0].copy, destinations=destinations)
