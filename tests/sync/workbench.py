"""Planner and copier over a real road, with the registries of a test entered."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from app.clock import now
from app.domain.plan import FailedListing, PlannedCopy, RefusedCopy
from app.domain.reference import Reference
from app.domain.registry import BasicAuth, RegistryEntry
from app.domain.report import CopyResult, JobWarning, SelectionCount, Tally
from app.domain.request import Options, SyncRequest
from app.domain.retry_policy import RetryPolicy
from app.registry.client import ClientPool, RegistryClients
from app.registry.limits import REQUEST_RETRIES, ClientSettings
from app.sync.compare import MissingTags
from app.sync.copier import SYNC_RETRIES, Copier
from app.sync.destination import DestinationNotes
from app.sync.dry_run import DryRun
from app.sync.known_blobs import KnownBlobs, UploadNotes
from app.sync.planner import Planner
from tests.support.fake_registry import FakeRegistry

UNKNOWN_PART = b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
LOGINS = {"GET ping", "GET token", "POST token"}
QUICK = replace(SYNC_RETRIES, first_delay=0.01, max_delay=0.02)
REQUEST_QUICK = replace(REQUEST_RETRIES, first_delay=0.01, max_delay=0.02)
ROAD = ClientSettings(
    connect_seconds=5,
    answer_seconds=10,
    idle_seconds=10,
    retry_policy=REQUEST_QUICK,
    settle_seconds=0.01,
)


class Running(Protocol):
    """A registry, real or fake, or a namespace of one."""

    @property
    def host(self) -> str:
        """Where it is."""


@dataclass
class Workbench:
    """What a job does with a request, without a job."""

    clients: RegistryClients
    known: KnownBlobs = field(default_factory=KnownBlobs)
    retry_policy: RetryPolicy = QUICK
    notes: UploadNotes | None = None
    dry_run: DryRun | None = None
    destination_notes: DestinationNotes = field(default_factory=DestinationNotes.in_memory)
    clock: Callable[[], datetime] = now
    tallies: list[tuple[Reference, Tally]] = field(default_factory=list)
    warnings: list[JobWarning] = field(default_factory=list)
    failed: list[FailedListing | RefusedCopy] = field(default_factory=list)
    counts: list[SelectionCount] = field(default_factory=list)
    missing: MissingTags | None = None
    """What the copies of one job know of missing tags; each copy is a job of its own without."""
    _waiting: dict[int, asyncio.Event] = field(default_factory=dict)

    @property
    def planner(self) -> Planner:
        return Planner(self.clients, clock=self.clock, notes=self.destination_notes)

    @property
    def copier(self) -> Copier:
        return Copier(
            self.clients,
            self.known,
            retry_policy=self.retry_policy,
            notes=self.notes,
            destination_notes=self.destination_notes,
            missing=self.missing,
            dry_run=self.dry_run,
        )

    async def plan(self, *rules: dict[str, object], **options: object) -> list[PlannedCopy]:
        """Plan; warnings go to `warnings`, counts to `counts`, what can't be planned to `failed`."""
        request = SyncRequest.model_validate({"rules": rules, "options": options})
        copies = []
        async with aclosing(self.planner.plan(request)) as found:
            async for item in found:
                if isinstance(item, PlannedCopy):
                    copies.append(item)
                elif isinstance(item, JobWarning):
                    self.warnings.append(item)
                elif isinstance(item, SelectionCount):
                    self.counts.append(item)
                else:
                    self.failed.append(item)
        return copies

    async def copy(self, source: str, *destinations: str, **options: object) -> tuple[CopyResult, ...]:
        """Copy one reference, as nobody planned it."""
        places = tuple(Reference.parse(destination) for destination in destinations)
        return await self.copy_planned(PlannedCopy(Reference.parse(source), places), **options)

    async def copy_planned(self, copy: PlannedCopy, **options: object) -> tuple[CopyResult, ...]:
        """Copy something planned."""
        return await self.copier.copy(copy, Options.model_validate(options), observe=self._observe)

    async def sync(self, source: str, destination: str | list[str], **more: object) -> list[CopyResult]:
        """Plan one rule and copy it all, one after the other; fields of the rule and options beside."""
        fields = {name: more.pop(name) for name in list(more) if name in {"tags", "repositories", "platforms"}}
        rule = {"source": source, "destination": destination, "platform_mode": more.pop("platform_mode", "sparse")}
        copies = await self.plan({**rule, **fields}, **more)
        copier = self.copier
        options = Options.model_validate(more)
        return [result for copy in copies for result in await copier.copy(copy, options, observe=self._observe)]

    async def bytes_moved(self, count: int) -> None:
        """Wait until so many bytes of some image were sent."""
        moved = self._waiting.setdefault(count, asyncio.Event())
        await moved.wait()

    def _observe(self, destination: Reference, tally: Tally) -> None:
        self.tallies.append((destination, tally))
        for count, moved in self._waiting.items():
            if tally.bytes_transferred >= count:
                moved.set()


@asynccontextmanager
async def workbench(
    *registries: Running, settings: ClientSettings = ROAD, accounts: bool = False, entries: Iterable[RegistryEntry] = ()
) -> AsyncIterator[Workbench]:
    """Enter registries that speak plain http under their hosts, with the fake's account if wanted."""
    auth = {"auth": BasicAuth.model_validate({"username": "ann", "password": "secret"})} if accounts else {}
    made = [
        RegistryEntry.model_validate({"name": f"r{number}", "host": registry.host, "insecure": True, **auth})
        for number, registry in enumerate({registry.host: registry for registry in registries}.values())
    ]
    pool = ClientPool(settings=settings, clock=lambda: datetime.now(UTC))
    try:
        yield Workbench(pool.clients((*made, *entries)))
    finally:
        await pool.aclose()


def asked(registry: FakeRegistry, *, since: int = 0) -> dict[str, int]:
    """Count a fake registry's requests by kind, logins aside."""
    return {what: count for what, count in registry.journal.table(since=since).items() if what not in LOGINS}
