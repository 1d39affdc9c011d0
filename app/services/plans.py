"""Plans: what a request would do, planned and compared like a job, copying nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from app.domain.access import Caller
from app.domain.errors import FieldError, InvalidRequestError
from app.domain.explanation import Explanation
from app.domain.plan import PlannedCopy, PlanResult
from app.domain.reference import InvalidReferenceError
from app.domain.report import JobWarning, SelectionCount, merged_counts, merged_warnings
from app.domain.request import Options, SyncRequest
from app.registry.client import ClientPool, RegistryClients
from app.security import Sealer
from app.services.admission import Admission
from app.store.db.database import Database
from app.store.registries import RegistryStore
from app.sync.copier import SYNC_RETRIES, Copier
from app.sync.destination import DestinationNotes
from app.sync.dry_run import DryRun
from app.sync.explanation import explain
from app.sync.known_blobs import KnownBlobs
from app.sync.planner import Planned, Planner

MAX_IMAGES = 1_000
"""More is for a job: its images are listed in pages."""
MAX_SECONDS = 45.0
"""Proxies commonly cut a silent request after 60 s."""
MAX_AT_ONCE = 4
"""Previews in one process; each asks two registries about every image."""
ASKED_AT_ONCE = 16
"""Copies compared at once in one preview; the registries' own limits hold besides."""
PREVIEW_RETRIES = replace(SYNC_RETRIES, attempts=1)
"""A caller waits: what fails once is a row that says so. The requests themselves are repeated, as always."""

Warn = Callable[[Iterable[JobWarning]], None]


@dataclass(slots=True)
class Preview:
    """What would be done to which image, as far as time and size allowed."""

    images: list[PlanResult] = field(default_factory=list)
    warnings: list[JobWarning] = field(default_factory=list)
    explanation: Explanation | None = None
    """Of the one tag that was asked about."""
    selection: tuple[SelectionCount, ...] = ()
    """How many tags and repositories are taken and dropped for what."""
    is_complete: bool = True

    def warn(self, warnings: Iterable[JobWarning]) -> None:
        """Add warnings; those of one code and rule are one, with a count."""
        self.warnings = list(merged_warnings(tuple(self.warnings), warnings))

    def stop(self, why: str) -> None:
        """Note that there is more than was looked at."""
        self.is_complete = False
        self.warnings.append(JobWarning("plan_incomplete", (why,)))


@dataclass(slots=True)
class _Row:
    """A copy, and what is known of each of its destinations once both sides were asked."""

    copy: PlannedCopy | None
    images: tuple[PlanResult, ...] = ()

    @property
    def width(self) -> int:
        return len(self.copy.destinations) if self.copy else len(self.images)


class PlanService:
    """Return what requests would do, copying nothing (dry run).

    - `sealer`: opens the credentials of the registries asked
    - `pool`: clients to ask them with
    - `blobs`, `notes`: what this process knows of blobs, and what destinations are noted to lack

    At most `MAX_AT_ONCE` (4) at once in a process, `MAX_IMAGES` (1,000) images and `MAX_SECONDS` (45 s) each.
    """

    def __init__(
        self,
        database: Database,
        *,
        sealer: Sealer,
        pool: ClientPool,
        admission: Admission,
        blobs: KnownBlobs,
        notes: DestinationNotes,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._pool = pool
        self._admission = admission
        self._blobs = blobs
        self._notes = notes
        self._permits = asyncio.Semaphore(MAX_AT_ONCE)

    async def preview(self, request: SyncRequest, *, caller: Caller) -> Preview:
        """Plan and compare; what goes wrong at a registry is a row, as it is in a job.

        It ends after `MAX_SECONDS` or `MAX_IMAGES`, and says so; what was not compared by then is not in it.
        """
        await self._admission.check(request, caller=caller)
        preview, clients = Preview(), await self._clients()
        planner, copier = Planner(clients, notes=self._notes.read_only()), self._copier(clients)
        rows: list[_Row] = []
        try:
            async with self._permits, asyncio.timeout(MAX_SECONDS):
                await _list(planner.plan(request), preview, rows, is_strict=request.options.fail_fast)
                await _compare(copier, rows, request.options, warn=preview.warn)
        except TimeoutError:
            preview.stop(f"after {MAX_SECONDS:.0f} seconds")
        preview.images = [image for row in rows for image in row.images]
        return preview

    async def explain(self, request: SyncRequest, tag: str, *, caller: Caller, compares: bool = True) -> Preview:
        """Say what each rule does with one tag, and why; and where it `compares` what would become of it.

        What the source does not answer within `MAX_SECONDS` is not in it. Raise `InvalidRequestError` for a text that
        names no tag.
        """
        await self._admission.check(request, caller=caller)
        preview, clients = Preview(), await self._clients()
        try:
            async with self._permits, asyncio.timeout(MAX_SECONDS):
                preview.explanation = await explain(clients, request, tag, notes=self._notes.read_only())
                copies = [rule.copy for rule in preview.explanation.rules if rule.copy is not None and compares]
                rows = [_Row(copy) for copy in copies]
                await _compare(self._copier(clients), rows, request.options, warn=preview.warn)
                preview.images = [image for row in rows for image in row.images]
        except InvalidReferenceError as error:
            problem = FieldError("", error.code, str(error), parameter="explain")
            raise InvalidRequestError(str(error), errors=(problem,)) from error
        except TimeoutError:
            preview.stop(f"after {MAX_SECONDS:.0f} seconds")
        return preview

    async def _clients(self) -> RegistryClients:
        async with self._database.reading() as session:
            entries = await RegistryStore(session, self._sealer).list()
        return self._pool.clients(entries)

    def _copier(self, clients: RegistryClients) -> Copier:
        return Copier(
            clients, self._blobs, retry_policy=PREVIEW_RETRIES, destination_notes=self._notes, dry_run=DryRun()
        )


async def _list(found: AsyncGenerator[Planned], preview: Preview, rows: list[_Row], *, is_strict: bool) -> None:
    """Take in what planning finds; where it `is_strict` (`fail_fast`), what can't be planned is all there is."""
    images = 0
    async with aclosing(found) as finds:
        async for find in finds:
            if isinstance(find, JobWarning):
                preview.warn((find,))
                continue
            if isinstance(find, SelectionCount):
                preview.selection = merged_counts(preview.selection, (find,))
                continue
            row = _Row(find) if isinstance(find, PlannedCopy) else _Row(None, (PlanResult.of_failure(find),))
            if row.copy is None and is_strict:
                rows[:] = [row]
                return
            images += row.width
            if images > MAX_IMAGES:
                preview.stop(f"after {MAX_IMAGES} images")
                return
            rows.append(row)


async def _compare(copier: Copier, rows: Sequence[_Row], options: Options, *, warn: Warn) -> None:
    slots = asyncio.Semaphore(ASKED_AT_ONCE)

    async def compare(row: _Row, copy: PlannedCopy) -> None:
        async with slots:
            results = await copier.copy(copy, options, observe=lambda _, __: None)
        row.images = tuple(PlanResult.of_result(copy, result) for result in results)
        warn(warning for result in results for warning in result.warnings)

    async with asyncio.TaskGroup() as group:
        for row in rows:
            if row.copy is not None:
                group.create_task(compare(row, row.copy))
