"""Settings become live services here: one factory for every door, and the chores before the first request."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uuid_utils

from app.desk.audit import AuditService
from app.desk.checks import CheckService
from app.desk.imports import ImportService
from app.desk.keys import KeyService, NewKey
from app.desk.policies import PolicyService
from app.desk.previews import PreviewService
from app.desk.push_events import PushEventService
from app.desk.registries import RegistryService
from app.desk.subscriptions import SubscriptionService
from app.domain.access import Caller, Scope
from app.domain.errors import AccessError
from app.domain.job import Job
from app.domain.registry import RegistryEntry
from app.hooks.google_keys import GoogleKeys
from app.hooks.outbound import Outbound
from app.jobs.claims import Claims
from app.jobs.deliveries import Postman
from app.jobs.engine import MemoryEngine, PostgresEngine
from app.jobs.roster import Roster
from app.jobs.runner import JobRunner
from app.jobs.scheduler import Scheduler
from app.jobs.service import JobService
from app.jobs.standing import StandingJobs
from app.jobs.watching import JobWatch
from app.jobs.worker import Worker
from app.jobs.workshop import Workshop
from app.observability import JOBS, QUEUE_DEPTH, get_logger
from app.registry.limits import RoadSettings
from app.registry.pool import ClientPool
from app.security import AddressRules, Sealer
from app.settings import PREFIX, Settings, SettingsError
from app.store.database import Database
from app.store.migrate import migrate
from app.store.tallies import TallyStore
from app.sync.copier import Copier
from app.sync.known_blobs import KnownBlobs
from app.sync.planner import Planner

COMMAND_LINE = Caller("command-line", Scope.ADMIN.implied)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

log = get_logger(__name__)


def now() -> datetime:
    """Tell the time, aware and in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Make an id that sorts by time (UUIDv7)."""
    return str(uuid_utils.uuid7())


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
            asyncio.create_task(self.postman.run(stop), name="postman"),
        ]
        try:
            yield
        finally:
            stop.set()
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

    def open_workshop(_: Job, entries: tuple[RegistryEntry, ...]) -> Workshop:
        clients = pool.clients(entries)
        return Workshop(Planner(clients).plan, Copier(clients, blobs).copy)

    runner = JobRunner(
        database,
        engine,
        Claims(database, sealer, roster=roster, clock=now),
        open_workshop=open_workshop,
        clock=now,
    )
    registries = RegistryService(database, sealer=sealer, rules=AddressRules(), now=now)
    standing = StandingJobs(engine, clock=now, new_id=new_id)
    return Service(
        database=database,
        jobs=JobService(database, engine, JobWatch(database), clock=now, new_id=new_id),
        registries=registries,
        checks=CheckService(database, sealer=sealer, pool=pool),
        previews=PreviewService(database, sealer=sealer, pool=pool),
        keys=KeyService(database, now=now),
        policies=PolicyService(database, standing, now=now),
        push_events=PushEventService(
            database, standing, sealer=sealer, google_keys=google_keys, now=now, new_id=new_id
        ),
        imports=ImportService(database, registries, sealer=sealer, now=now),
        scheduler=Scheduler(database, standing, clock=now),
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


# --- before the first request -----------------------------------------------------------------------------------------


async def prepare(settings: Settings) -> None:
    """Bring up an embedded database, or see that a shared one is current; make the first API key where one is set.

    Raise `UnavailableError` saying what to run, `SettingsError` for a bootstrap key that is none.
    """
    database = Database(settings.database_url)
    try:
        if database.is_sqlite:
            await migrate(settings.database_url)
        await database.check_schema()
        if text := _bootstrap_key(settings):
            try:
                await KeyService(database, now=now).ensure_bootstrap(text)
            except AccessError as error:
                raise SettingsError(f"{PREFIX}BOOTSTRAP_KEY: a key has 32 characters or more") from error
    finally:
        await database.aclose()


async def check_may_listen(settings: Settings) -> None:
    """Refuse to be reached from elsewhere while nobody has a key; raise `SettingsError`."""
    database = Database(settings.database_url)
    try:
        if await KeyService(database, now=now).any_exists():
            return
    finally:
        await database.aclose()
    if settings.host not in LOOPBACK:
        raise SettingsError(
            f"won't listen on {settings.host} while no API key exists: make one first (registry-sync create-key), "
            f"or set {PREFIX}BOOTSTRAP_KEY_FILE"
        )
    log.warning("no_api_key_exists", meaning="callers on this machine may do everything, others nothing")


async def create_key(settings: Settings, *, name: str, scope: Scope, expires_seconds: int | None) -> NewKey:
    """Make an API key from the command line."""
    await prepare(settings)
    database = Database(settings.database_url)
    try:
        keys = KeyService(database, now=now)
        return await keys.create(name=name, scope=scope, expires_seconds=expires_seconds, caller=COMMAND_LINE)
    finally:
        await database.aclose()


def load_sealer(settings: Settings) -> Sealer:
    """Read the secret keys, or make one beside an embedded database; raise `SettingsError`."""
    keys = [key.get_secret_value() for key in settings.secret_keys]
    if keys and settings.secret_keys_file:
        raise SettingsError(f"set {PREFIX}SECRET_KEYS or {PREFIX}SECRET_KEYS_FILE, not both")
    if not keys:
        keys = _keys_in(settings.secret_keys_file or _key_file_beside(settings.database_url))
    try:
        return Sealer(keys)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}SECRET_KEYS: a key is 32 bytes in URL-safe base64") from error


def _key_file_beside(database_url: str) -> Path:
    scheme, _, path = database_url.partition(":///")
    if not scheme.startswith("sqlite"):
        raise SettingsError(
            f"{PREFIX}SECRET_KEYS or {PREFIX}SECRET_KEYS_FILE is needed with PostgreSQL, the same for all processes; "
            "make a key: openssl rand -base64 32 | tr '+/' '-_'"
        )
    file = Path(path.partition("?")[0]).with_suffix(".keys")
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file
    except OSError as error:
        raise SettingsError(f"can't make the key file {file}: {error.strerror}") from error
    with os.fdopen(handle, "w") as made:
        made.write(f"{Sealer.make_key()}\n")
    log.info("secret_key_made", file=str(file), meaning="seals registries' passwords; keep a copy with the database")
    return file


def _keys_in(file: Path) -> list[str]:
    lines = [line.strip() for line in _read(file).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _bootstrap_key(settings: Settings) -> str:
    if settings.bootstrap_key is not None:
        return settings.bootstrap_key.get_secret_value()
    return _read(settings.bootstrap_key_file).strip() if settings.bootstrap_key_file else ""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read {file}: {getattr(error, 'strerror', None) or 'not a text'}") from error
