"""What a request would do: planned and compared like a job, copying nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from app.domain.errors import InvalidRequestError, TransferError
from app.domain.plan import CopyPreview, PlannedCopy
from app.domain.report import ExecutionError, JobWarning
from app.domain.request import Options, SyncRequest
from app.registry.pool import ClientPool
from app.security import Sealer
from app.store.database import Database
from app.store.registries import RegistryStore
from app.sync.planner import Planner

MAX_IMAGES = 1_000
"""More is for a job: its images are listed in pages."""
MAX_SECONDS = 45.0
"""Proxies commonly cut a silent request after 60 s."""
MAX_AT_ONCE = 4
"""Previews in one process; each asks two registries about every image."""
ASKED_AT_ONCE = 16
"""Copies compared at once in one preview; the registries' own limits hold besides."""


@dataclass(slots=True)
class Preview:
    """What would be done to which image, as far as time and size allowed."""

    images: list[CopyPreview] = field(default_factory=list)
    warnings: list[JobWarning] = field(default_factory=list)
    error: ExecutionError | None = None
    is_complete: bool = False


class PreviewService:
    """Say what requests would do."""

    def __init__(self, database: Database, *, sealer: Sealer, pool: ClientPool) -> None:
        self._database = database
        self._sealer = sealer
        self._pool = pool
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def preview(self, request: SyncRequest) -> Preview:
        """Plan and compare; what goes wrong at a registry is in the preview's `error`."""
        async with self._database.reading() as session:
            entries = await RegistryStore(session, self._sealer).list()
        preview = Preview()
        planner = Planner(self._pool.clients(entries))
        try:
            async with self._turns, asyncio.timeout(MAX_SECONDS):
                copies, is_whole = await _planned(planner.plan(request), preview)
                await _compare(planner, copies, options=request.options, preview=preview)
                preview.is_complete = is_whole
        except TimeoutError:
            pass
        except (TransferError, InvalidRequestError) as error:
            preview.error = ExecutionError.of(error)
        return preview


async def _planned(found: AsyncIterator[PlannedCopy | JobWarning], preview: Preview) -> tuple[list[PlannedCopy], bool]:
    copies: list[PlannedCopy] = []
    images = 0
    async with aclosing(cast("AsyncGenerator[PlannedCopy | JobWarning]", found)) as finds:
        async for find in finds:
            if isinstance(find, JobWarning):
                preview.warnings.append(find)
                continue
            images += len(find.destinations)
            if images > MAX_IMAGES:
                return copies, False
            copies.append(find)
    return copies, True


async def _compare(planner: Planner, copies: list[PlannedCopy], *, options: Options, preview: Preview) -> None:
    slots = asyncio.Semaphore(ASKED_AT_ONCE)

    async def compare(copy: PlannedCopy) -> tuple[CopyPreview, ...]:
        async with slots:
            try:
                return await planner.preview(copy, options)
            except TransferError as error:
                return tuple(
                    CopyPreview(copy.source, destination, action="refuse", reason=error.code)
                    for destination in copy.destinations
                )

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(compare(copy)) for copy in copies]
    preview.images = [image for task in tasks for image in task.result()]
