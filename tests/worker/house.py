"""The engine room as one process has it: a database, the service on it, and workers that a test starts and stops."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import uuid_utils

from app.domain.access import Caller, Scope
from app.domain.job import Image, ImageFilter, ImageState, Job, Submission
from app.domain.page import MAX_LIMIT, PageRequest
from app.domain.request import Options, Rule, SyncRequest
from app.jobs.event_stream import JobEventStream
from app.jobs.queue import JobQueue, MemoryQueue, PostgresQueue
from app.net.address_guard import AddressRules
from app.security import Sealer
from app.services.admission import Admission
from app.services.jobs import JobService
from app.store.db.database import Database
from app.webhooks.outbound import Outbound
from app.worker.claims import Claims, UnitSlots
from app.worker.heartbeat import Heartbeat
from app.worker.runner import JobRunner
from app.worker.worker import Worker
from tests.worker.sync_sessions import Journal, Steered

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
DESTINATION = ("dst.example.com/app",)
CALLER = Caller("tester", frozenset(Scope))
SEALER = Sealer([Sealer.make_key()])


def now() -> datetime:
    return datetime.now(UTC)


def wish(*tags: str, to: tuple[str, ...] = DESTINATION, options: Options | None = None) -> SyncRequest:
    """Make a request for some tags of one repository; what they are called steers what becomes of them."""
    rule = Rule(source=f"src.example.com/app:{','.join(tags)}", destination=to)
    return SyncRequest(rules=(rule,), options=options or Options())


@dataclass
class House:
    """The engine room over one database, as one process has it."""

    database: Database
    journal: Journal
    queue: JobQueue = field(init=False)
    watch: JobEventStream = field(init=False)
    jobs: JobService = field(init=False)
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        outbound = Outbound(AddressRules(), private_hosts=["127.0.0.1"])
        self.admission = Admission(
            self.database, SEALER, rules=AddressRules(), outbound=outbound, unregistered_hosts=("allow",)
        )
        self.queue = MemoryQueue() if self.database.is_sqlite else PostgresQueue(self.database)
        self.watch = JobEventStream(self.database)
        new_id = lambda: str(uuid_utils.uuid7())  # noqa: E731 — what stands for a parameter
        self.jobs = JobService(
            self.database,
            self.queue,
            self.watch,
            admission=self.admission,
            clock=now,
            new_id=new_id,
        )

    async def submit(self, *tags: str, to: tuple[str, ...] = DESTINATION, options: Options | None = None) -> Job:
        """Submit a request for some tags."""
        submission: Submission = await self.jobs.submit(wish(*tags, to=to, options=options), caller=CALLER)
        return submission.job

    async def run(self, *tags: str, to: tuple[str, ...] = DESTINATION, options: Options | None = None) -> Job:
        """Submit, and wait for the end."""
        return await self.done(await self.submit(*tags, to=to, options=options))

    async def done(self, job: Job, *, seconds: float = 120) -> Job:
        """Wait for a job's end."""
        ended = await self.jobs.wait(job.id, timeout_seconds=seconds, caller=CALLER)
        assert ended.done, ended
        return ended

    async def cancel(self, job: Job) -> Job:
        """Cancel a job and wait for its end."""
        await self.jobs.cancel(job.id, caller=CALLER)
        return await self.done(job)

    async def images(self, job: Job, state: ImageState | None = None) -> list[Image]:
        """List all of a job's images."""
        found: list[Image] = []
        page = PageRequest(limit=MAX_LIMIT)
        while True:
            answer = await self.jobs.list_images(job.id, ImageFilter((state,) if state else ()), page, caller=CALLER)
            found += answer.items
            if answer.next_cursor is None:
                return found
            page = PageRequest(limit=MAX_LIMIT, cursor=answer.next_cursor)

    async def until(self, ready: Callable[[Job], bool], job: Job, *, seconds: float = 120) -> Job:
        """Wait until a job is as wanted."""
        async with asyncio.timeout(seconds):
            while not ready(job := await self.jobs.get(job.id, caller=CALLER)):  # noqa: ASYNC110 — it is the rows that are looked at
                await asyncio.sleep(0.02)
        return job

    @asynccontextmanager
    async def worker(
        self, name: str = "one", *, concurrency: int = 4, grace_seconds: float = 5
    ) -> AsyncIterator[Worker]:
        """Have a worker at work while inside; it is asked to end, and waited for."""
        heartbeat = Heartbeat(self.database, worker=name, name=name, concurrency=concurrency, clock=now)
        runner = JobRunner(
            self.database,
            self.queue,
            Claims(self.database, SEALER, heartbeat=heartbeat, clock=now),
            open_sync_session=Steered(self.journal).open,
            clock=now,
        )
        worker = Worker(
            self.database,
            self.queue,
            runner,
            heartbeat=heartbeat,
            slots=UnitSlots(concurrency),
            clock=now,
            grace_seconds=grace_seconds,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(worker.run(stop))
        try:
            yield worker
        finally:
            stop.set()
            await task
