"""What the doors use, live from start to stop, and the one factory of it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.desk.audit import AuditService
from app.desk.checks import CheckService
from app.desk.imports import ImportService
from app.desk.keys import KeyService
from app.desk.policies import PolicyService
from app.desk.previews import PreviewService
from app.desk.push_events import PushEventService
from app.desk.push_log import PushLog
from app.desk.registries import RegistryService
from app.desk.subscriptions import SubscriptionService
from app.hooks.google_keys import GoogleKeys
from app.hooks.outbound import Outbound
from app.jobs.blob_memory import BlobMemory
from app.jobs.claims import Claims
from app.jobs.deliveries import Postman
from app.jobs.engine import MemoryEngine, PostgresEngine
from app.jobs.housekeeping import Housekeeping
from app.jobs.push_matching import PushMatcher
from app.jobs.roster import Roster
from app.jobs.runner import JobRunner
from app.jobs.scheduler import Scheduler
from app.jobs.service import JobService
from app.jobs.sharing import PressureExchange
from app.jobs.standing import StandingJobs
from app.jobs.upload_memory import UploadMemory
from app.jobs.watching import JobWatch
from app.jobs.worker import Chore, Worker
from app.observability import JOBS, QUEUE_DEPTH
from app.registry.limits import RoadSettings
from app.registry.pool import ClientPool
from app.security import AddressRules, Sealer
from app.settings import Settings
from app.store.database import Database
from app.store.tallies import TallyStore
from app.sync.known_blobs import KnownBlobs
from app.wiring.clock import new_id, now
from app.wiring.preparing import load_sealer
from app.wiring.workshops import Workshops

HOUSEKEEPING_SECONDS = 600.0
PRESSURE_SECONDS = 2.0
"""A registry that asked one worker to wait is known to all of them this much later."""
BLOBS_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything the doors use, live from start to stop."""

    database: Database
    jobs: JobService
    registries: RegistryService
    checks: CheckService
    previews: PreviewService
    keys: KeyService
    policies: PolicyService
    push_events: PushEventService
    imports: ImportService
    subscriptions: SubscriptionService
    audit: AuditService
    worker: Worker
    scheduler: Scheduler
    push_matcher: PushMatcher
    postman: Postman
    metrics_without_key: bool

    def now(self) -> datetime:
        """Tell the time the services go by."""
        return now()

    @asynccontextmanager
    async def working(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Work beside what is inside, until told to stop; then leave when running work has ended or was put back."""
        tasks = [
            asyncio.create_task(self.worker.run(stop), name="worker"),
            asyncio.create_task(self.scheduler.run(stop), name="scheduler"),
            asyncio.create_task(self.push_matcher.run(stop), name="push matcher"),
            asyncio.create_task(self.postman.run(stop), name="postman"),
        ]
        try:
            yield
        finally:
            stop.set()
            self.push_matcher.wake()
            await asyncio.gather(*tasks)

    async def refresh_gauges(self) -> None:
        """Bring the gauges to what the database says now."""
        async with self.database.reading() as session:
            tallies = TallyStore(session)
            for state, number in (await tallies.count_unfinished_jobs()).items():
                JOBS.labels(state).set(number)
            QUEUE_DEPTH.set(await tallies.count_queued_units())


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Build the service and close it again; raise `SettingsError` where the secret keys are missing or wrong."""
    sealer = load_sealer(settings)
    database = Database(settings.database_url)
    pool = ClientPool(settings=_road(settings), clock=now)
    outbound = Outbound(AddressRules(), private_hosts=settings.notify_private_hosts)
    google_keys = GoogleKeys(AddressRules())
    try:
        yield _assemble(
            settings, sealer=sealer, database=database, pool=pool, outbound=outbound, google_keys=google_keys
        )
    finally:
        await google_keys.aclose()
        await outbound.aclose()
        await pool.aclose()
        await database.aclose()


def _assemble(
    settings: Settings,
    *,
    sealer: Sealer,
    database: Database,
    pool: ClientPool,
    outbound: Outbound,
    google_keys: GoogleKeys,
) -> Service:
    engine = MemoryEngine(database) if database.is_sqlite else PostgresEngine(database)
    worker_id = new_id()
    concurrency = settings.worker_concurrency
    roster = Roster(database, worker=worker_id, name=socket.gethostname(), concurrency=concurrency, clock=now)
    blobs = KnownBlobs()
    memory = BlobMemory(database, blobs, clock=now)
    housekeeping = Housekeeping(database, clock=now, jobs_kept=timedelta(seconds=settings.job_retention))
    chores = [Chore(housekeeping.tidy_up, HOUSEKEEPING_SECONDS), Chore(memory.refresh, BLOBS_SECONDS)]
    if not database.is_sqlite:
        chores.append(Chore(PressureExchange(database, pool, clock=now).exchange, PRESSURE_SECONDS))
    runner = JobRunner(
        database,
        engine,
        Claims(database, sealer, roster=roster, clock=now),
        open_workshop=Workshops(pool, blobs, UploadMemory(database, sealer, roster=roster, clock=now).notes).open,
        clock=now,
    )
    registries = RegistryService(database, sealer=sealer, rules=AddressRules(), now=now)
    standing = StandingJobs(engine, clock=now, new_id=new_id)
    matcher = PushMatcher(database, standing, sealer)
    return Service(
        database=database,
        jobs=JobService(database, engine, JobWatch(database), clock=now, new_id=new_id),
        registries=registries,
        checks=CheckService(database, sealer=sealer, pool=pool),
        previews=PreviewService(database, sealer=sealer, pool=pool),
        keys=KeyService(database, now=now),
        policies=PolicyService(database, standing, now=now, new_id=new_id),
        push_events=PushEventService(
            database, PushLog(database, matcher), sealer=sealer, google_keys=google_keys, now=now, new_id=new_id
        ),
        imports=ImportService(database, registries, sealer=sealer, now=now),
        scheduler=Scheduler(database, standing, clock=now),
        push_matcher=matcher,
        subscriptions=SubscriptionService(
            database, sealer=sealer, outbound=outbound, now=now, new_id=new_id, random_bytes=secrets.token_bytes
        ),
        audit=AuditService(database),
        postman=Postman(database, sealer, outbound, clock=now),
        worker=Worker(
            database,
            engine,
            runner,
            roster=roster,
            concurrency=concurrency,
            clock=now,
            grace_seconds=settings.grace_period,
            chores=chores,
        ),
        metrics_without_key=settings.metrics_without_key,
    )


def _road(settings: Settings) -> RoadSettings:
    return RoadSettings(
        connect_seconds=settings.registry_connect_timeout,
        answer_seconds=settings.registry_answer_timeout,
        idle_seconds=settings.registry_idle_timeout,
        attempts=settings.registry_attempts,
    )
