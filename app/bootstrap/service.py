"""The composition root: what the doors (`api`, `cli`) use, live from start to stop."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from app.bootstrap.mail import load_mail_server
from app.bootstrap.registry_settings import client_settings, login_rules, unregistered_hosts
from app.bootstrap.startup import load_sealer, load_token_issuers
from app.clock import now
from app.jobs.channel_queue import ChannelQueue
from app.jobs.event_stream import JobEventStream
from app.jobs.policy_jobs import PolicyJobs
from app.jobs.push_jobs import PushMatcher
from app.jobs.queue import JobQueue, MemoryQueue, PostgresQueue
from app.jobs.retention import Retention
from app.jobs.submission import new_id
from app.net.address_guard import AddressRules
from app.process_channel import ProcessChannel, ProcessTable
from app.registry.client import IDLE_SECONDS, ClientPool
from app.security import Sealer
from app.services.admission import Admission
from app.services.api_keys import ApiKeyService
from app.services.audit import AuditService
from app.services.authentication_guard import AuthenticationGuard
from app.services.caller_tokens import CallerTokenService
from app.services.console_sessions import ConsoleSessionService
from app.services.gauges import GaugeService
from app.services.importing import ImportingService
from app.services.jobs import JobService
from app.services.plans import PlanService
from app.services.policies import PolicyService
from app.services.push_deduplication import PushEventLog
from app.services.push_events import PushEventService
from app.services.registries import RegistryService
from app.services.registry_checks import RegistryCheckService
from app.services.subscriptions import SubscriptionService
from app.settings import Settings
from app.store.audit import LINK_SECONDS, AuditChain
from app.store.db.database import POOL_SIZE, Database
from app.sync.destination import DestinationNotes
from app.sync.known_blobs import KnownBlobs
from app.webhooks.google_keys import GoogleKeys
from app.webhooks.mailer import Mailer
from app.webhooks.outbound import Outbound
from app.worker.claims import Claims, UnitSlots
from app.worker.heartbeat import Heartbeat
from app.worker.notifier import Notifier
from app.worker.registry_states import PublishedRegistryStates
from app.worker.runner import JobRunner, SyncSessions
from app.worker.scheduler import Scheduler
from app.worker.shared_state import (
    SharedBlobLocations,
    SharedDestinationNotes,
    SharedRegistryLimits,
    SharedUploads,
    SiblingBlobs,
    SiblingDigestLists,
    SiblingTokens,
    shared_blob_claims,
)
from app.worker.summary_writer import SummaryWriter
from app.worker.worker import PeriodicTask, Worker

RETENTION_SECONDS = 600.0
LIMITS_SECONDS = 2.0
"""A registry that asked one worker to wait is known to all of them this much later."""
BLOBS_SECONDS = 10.0
SUMMARY_SECONDS = 30.0
STATES_SECONDS = 2.0
"""How old what the API shows of a registry's state may be."""
WORKER_POOL_SIZE = 5
"""Connections to PostgreSQL that a worker of several keeps: an API and four workers leave room below the usual 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything that `api` and `cli` use, live from start to stop."""

    database: Database
    jobs: JobService
    registries: RegistryService
    checks: RegistryCheckService
    previews: PlanService
    keys: ApiKeyService
    console_sessions: ConsoleSessionService
    policies: PolicyService
    push_events: PushEventService
    imports: ImportingService
    subscriptions: SubscriptionService
    audit: AuditService
    gauges: GaugeService
    worker: Worker
    scheduler: Scheduler
    push_matcher: PushMatcher
    notifier: Notifier
    metrics_without_key: bool
    public_url: str | None
    """Where people and programs reach the service, with no slash at its end; None where no setting says it."""
    channel: ProcessChannel | None
    """The way to the supervisor; None where this process is alone."""

    @property
    def authentication(self) -> AuthenticationGuard:
        """What slows down and writes down wrong keys and secrets."""
        return self.keys.guard

    @property
    def processes(self) -> ProcessTable:
        """The processes of this host, as their supervisor sees them."""
        return self.channel.processes if self.channel is not None else ProcessTable()

    @asynccontextmanager
    async def working(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Run a worker beside what is inside, until `stop` is set; leave when its units have ended or were put back."""
        tasks = [
            asyncio.create_task(self.worker.run(stop), name="worker"),
            asyncio.create_task(self.scheduler.run(stop), name="scheduler"),
            asyncio.create_task(self.push_matcher.run(stop), name="push matcher"),
            asyncio.create_task(self.notifier.run(stop), name="postman"),
        ]
        try:
            yield
        finally:
            stop.set()
            self.push_matcher.wake()
            await asyncio.gather(*tasks)


@asynccontextmanager
async def open_service(
    settings: Settings, *, channel: ProcessChannel | None = None, worker_id: str | None = None
) -> AsyncIterator[Service]:
    """Build the service and close it again; raise `SettingsError` where secret keys or the mail server are wrong.

    - `settings`: all there is to set
    - `channel`: the way to the supervisor; None where this process is the only one beside its database
    - `worker_id`: what this process claims units under; a new id by default
    """
    sealer, mailer = load_sealer(settings), Mailer(load_mail_server(settings))
    pool_size = POOL_SIZE if worker_id is None else WORKER_POOL_SIZE
    database = Database(settings.database_url, pool_size=pool_size, channel=channel)
    tokens = SiblingTokens(channel) if channel is not None else None
    pool = ClientPool(settings=client_settings(settings), clock=now, token_siblings=tokens)
    outbound = Outbound(AddressRules(), private_hosts=settings.notify_private_hosts)
    google_keys = GoogleKeys(AddressRules())
    try:
        service = _assemble(
            settings,
            sealer=sealer,
            database=database,
            pool=pool,
            outbound=outbound,
            mailer=mailer,
            google_keys=google_keys,
            channel=channel,
            worker_id=worker_id or new_id(),
        )
        try:
            yield service
        finally:
            await service.authentication.aclose()
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
    mailer: Mailer,
    google_keys: GoogleKeys,
    channel: ProcessChannel | None,
    worker_id: str,
) -> Service:
    queue = _queue(database, channel=channel, worker_id=worker_id)
    admission = _admission(settings, sealer=sealer, database=database, outbound=outbound)
    policy_jobs = PolicyJobs(queue, clock=now, new_id=new_id)
    keys = _keys(settings, database, google_keys)
    matcher = PushMatcher(database, policy_jobs, sealer, channel=channel)
    blobs = KnownBlobs()
    if channel is not None:
        SiblingBlobs(channel, blobs)
    notes = SharedDestinationNotes(database, clock=now).notes
    return Service(
        database=database,
        jobs=JobService(database, queue, JobEventStream(database), admission=admission, clock=now, new_id=new_id),
        registries=RegistryService(database, sealer=sealer, admission=admission, now=now, logins=login_rules(settings)),
        checks=RegistryCheckService(database, sealer=sealer, pool=pool, now=now),
        previews=PlanService(database, sealer=sealer, pool=pool, admission=admission, blobs=blobs, notes=notes),
        keys=keys,
        console_sessions=ConsoleSessionService(keys, sealer, now=now),
        policies=PolicyService(database, policy_jobs, admission=admission, now=now, new_id=new_id),
        push_events=PushEventService(
            database, PushEventLog(database, matcher), sealer=sealer, google_keys=google_keys, now=now, new_id=new_id
        ),
        imports=ImportingService(database, queue, sealer=sealer, admission=admission, now=now, new_id=new_id),
        scheduler=Scheduler(database, policy_jobs, clock=now),
        push_matcher=matcher,
        subscriptions=_subscriptions(database, sealer=sealer, admission=admission, mailer=mailer),
        audit=AuditService(database),
        gauges=GaugeService(database, sealer=sealer, now=now),
        notifier=Notifier(database, sealer, outbound, mailer=mailer, clock=now, public_url=settings.public_url),
        worker=_worker(
            settings,
            sealer=sealer,
            database=database,
            pool=pool,
            blobs=blobs,
            notes=notes,
            queue=queue,
            channel=channel,
            worker_id=worker_id,
        ),
        metrics_without_key=settings.metrics_without_key,
        public_url=settings.public_url,
        channel=channel,
    )


def _admission(settings: Settings, *, sealer: Sealer, database: Database, outbound: Outbound) -> Admission:
    return Admission(
        database,
        sealer,
        rules=AddressRules(),
        outbound=outbound,
        unregistered_hosts=unregistered_hosts(settings),
        job_quota=settings.job_quota,
    )


def _subscriptions(database: Database, *, sealer: Sealer, admission: Admission, mailer: Mailer) -> SubscriptionService:
    return SubscriptionService(
        database,
        sealer=sealer,
        admission=admission,
        has_mail_server=mailer.server is not None,
        now=now,
        new_id=new_id,
        random_bytes=secrets.token_bytes,
    )


def _keys(settings: Settings, database: Database, google_keys: GoogleKeys) -> ApiKeyService:
    issuers = load_token_issuers(settings)
    return ApiKeyService(
        database,
        now=now,
        is_key_required=settings.require_key or issuers is not None,
        tokens=CallerTokenService(issuers, google_keys, now=now) if issuers is not None else None,
    )


def _queue(database: Database, *, channel: ProcessChannel | None, worker_id: str) -> JobQueue:
    if not database.is_sqlite:
        return PostgresQueue(database, worker_id=worker_id)
    return MemoryQueue() if channel is None else ChannelQueue(channel)


def _worker(
    settings: Settings,
    *,
    sealer: Sealer,
    database: Database,
    pool: ClientPool,
    blobs: KnownBlobs,
    notes: DestinationNotes,
    queue: JobQueue,
    channel: ProcessChannel | None,
    worker_id: str,
) -> Worker:
    concurrency = settings.worker_concurrency
    slots = UnitSlots(concurrency)
    heartbeat = Heartbeat(
        database, worker=worker_id, name=socket.gethostname(), concurrency=concurrency, clock=now, channel=channel
    )
    uploads = SharedUploads(database, sealer, heartbeat=heartbeat, clock=now)
    claim_blobs = shared_blob_claims(database, clock=now)
    sessions = SyncSessions(
        pool,
        blobs,
        uploads.notes,
        destination_notes=notes,
        claim_blobs=claim_blobs,
        list_siblings=SiblingDigestLists(channel) if channel is not None else None,
    )
    runner = JobRunner(
        database,
        queue,
        Claims(
            database,
            sealer,
            heartbeat=heartbeat,
            crowded=slots.crowded,
            unregistered_hosts=unregistered_hosts(settings),
            clock=now,
        ),
        open_sync_session=sessions.open,
        clock=now,
    )
    return Worker(
        database,
        queue,
        runner,
        heartbeat=heartbeat,
        slots=slots,
        clock=now,
        grace_seconds=settings.grace_period,
        periodic_tasks=tuple(
            _periodic_tasks(settings, database, pool, sealer=sealer, blobs=blobs, worker_id=worker_id)
        ),
        channel=channel,
    )


def _periodic_tasks(
    settings: Settings, database: Database, pool: ClientPool, *, sealer: Sealer, blobs: KnownBlobs, worker_id: str
) -> Iterator[PeriodicTask]:
    retention = Retention(database, clock=now, job_retention=timedelta(seconds=settings.job_retention))
    yield PeriodicTask(retention.apply, RETENTION_SECONDS)
    yield PeriodicTask(AuditChain(database, sealer, now=now).link, LINK_SECONDS)
    yield PeriodicTask(SharedBlobLocations(database, blobs, clock=now).refresh, BLOBS_SECONDS)
    yield PeriodicTask(SharedRegistryLimits(database, pool, clock=now).exchange, LIMITS_SECONDS)
    states = PublishedRegistryStates(database, pool, worker=worker_id, clock=now)
    yield PeriodicTask(states.publish, STATES_SECONDS)
    summaries = SummaryWriter(database, at=settings.summary_at, zone=settings.summary_timezone, clock=now)
    yield PeriodicTask(summaries.write_due, SUMMARY_SECONDS)
    yield PeriodicTask(pool.close_idle, IDLE_SECONDS)
