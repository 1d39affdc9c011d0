"""The event stream of jobs: watchers of a process share one poller, which reads a job once however many watch it.

The change feed says when a job changed (in the process, or by PostgreSQL to all processes); the poller looks then, and
every second anyway, in case a change was missed. A caller that only waits for the end of a job is answered at once, and
costs no look before that. A watcher never holds a database connection while it waits.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from app.concurrency import log_unavailable, wait_for_event
from app.domain.errors import NotFoundError, UnavailableError
from app.domain.job import ImageFilter, ImageState, Job, JobEvent
from app.domain.page import PageRequest
from app.store.db.database import Database
from app.store.images import ImageStore
from app.store.jobs import JobStore

POLL_SECONDS = 1.0
LEAST_REST_SECONDS = 0.02
"""A job that changes all the time is not read all the time: each look is followed by a rest, which only the end of a
job cuts short. Watchers see then what has come of it meanwhile."""
REST_SHARE = 5.0
REST_SECONDS_A_WATCHER = 0.0005
"""Nothing cuts short what is left of this: so many times what the look took, and so long for each watcher."""
MAX_EVENTS = 2_000
"""Events kept for watchers that read slowly; who is further behind reads from the database."""
READ_EVENTS = 500
SHOWN_RUNNING = 100
"""Images at work that a snapshot shows; all workers together rarely have more."""


class _Feed:
    """What is known of one watched job."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.is_gone = False
        """Whether the job was deleted, or never was."""
        self.events: list[JobEvent] = []
        self.floor = 0
        """All events after this number are kept."""
        self.latest = 0
        self.watchers = 0
        self.listeners = 0
        """Those of them that want the events, and not only the end."""
        self.changed = asyncio.Event()
        """Set, and replaced by another, with each change."""
        self.snapshot: tuple[JobEvent, ...] = ()
        self.reading = asyncio.Lock()
        """Held by the one watcher that reads for all."""

    @property
    def is_over(self) -> bool:
        """Whether nothing follows any more."""
        return self.is_gone or (self.job is not None and self.job.done)

    def begin(self, job: Job) -> None:
        """Take a first look, for one who wants the events."""
        self.job, self.floor, self.latest = job, job.version, job.version
        self._tell()

    def add(self, job: Job, events: Sequence[JobEvent]) -> None:
        """Take in what happened; the oldest events go."""
        self.job = job
        self.latest = max(self.latest, job.version)
        self.events.extend(events)
        if (surplus := len(self.events) - MAX_EVENTS) > 0:
            self.floor = self.events[surplus - 1].number
            del self.events[:surplus]
        self._tell()

    def skip(self, version: int) -> None:
        """Go on to a version whose events no watcher wants; one that comes later reads them from the database."""
        self.floor = self.latest = version
        self.events.clear()

    def close(self) -> None:
        """Note that the job is gone."""
        self.job, self.is_gone = None, True
        self._tell()

    def since(self, number: int) -> list[JobEvent] | None:
        """List the events after a number; None when not all of them are kept any more."""
        if number < self.floor:
            return None
        return self.events[bisect_right(self.events, number, key=lambda event: event.number) :]

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class JobEventStream:
    """All watching of one process: one poller, any number of watchers.

    - `poll_seconds`: how often a watched job is read when the change feed says nothing; 1 s
    """

    def __init__(self, database: Database, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._feeds: dict[str, _Feed] = {}
        self._rung = asyncio.Event()
        self._ended = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None

    async def wait(self, job_id: str, *, timeout_seconds: float) -> Job:
        """Wait until a job is done, or so long, and return it as it is then; raise `NotFoundError`."""
        async with self._watching(job_id) as feed:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    while not feed.is_over:
                        await feed.changed.wait()
            if feed.is_over:
                return _present(feed, job_id)
        async with self._database.reading(is_short=True) as session:
            return await JobStore(session).get(job_id)

    async def watch(self, job_id: str, *, after: int | None = None) -> AsyncIterator[JobEvent]:
        """Give a job's events as they come, up to its `end`; without `after` the job as it is comes first.

        Raise `NotFoundError` when there is no such job, or no longer.
        """
        async with self._watching(job_id, is_listening=True) as feed:
            number = after or 0
            if after is None:
                for event in await self._snapshot(feed, job_id):
                    number = event.number
                    yield event
            while True:
                changed, job = feed.changed, _present(feed, job_id)
                events = feed.since(number)
                if events is None:
                    job, events = await self._read(job_id, after=number, limit=READ_EVENTS)
                for event in events:
                    number = event.number
                    yield event
                if job.done and number >= job.version:
                    yield _end(job)
                    return
                if not events:
                    await changed.wait()

    async def list_events(self, job_id: str, *, after: int, limit: int) -> tuple[JobEvent, ...]:
        """Read a job's events after a number; raise `NotFoundError`."""
        job, events = await self._read(job_id, after=after, limit=limit)
        is_all = len(events) < limit
        return (*events, _end(job)) if is_all and job.done and after <= job.version else tuple(events)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _snapshot(self, feed: _Feed, job_id: str) -> tuple[JobEvent, ...]:
        async with feed.reading:
            if not feed.snapshot or feed.snapshot[0].number < feed.latest:
                async with self._database.reading() as session:
                    job = await JobStore(session).get(job_id)
                    page = PageRequest(limit=SHOWN_RUNNING)
                    running = await ImageStore(session).list(job_id, ImageFilter((ImageState.RUNNING,)), page)
                images = (JobEvent(job.version, "image", image) for image in running.items)
                feed.snapshot = JobEvent(job.version, "job", job), *images
            return feed.snapshot

    async def _read(self, job_id: str, *, after: int, limit: int) -> tuple[Job, list[JobEvent]]:
        async with self._database.reading() as session:
            job, news_version = await JobStore(session).get_watched(job_id)
            changed = await ImageStore(session).list_changed(job_id, after=after, limit=limit)
        events = [JobEvent(revision, "image", image) for revision, image in changed]
        if len(events) < limit and job.version > after:
            has_news = news_version > after
            events.append(
                JobEvent(job.version, "job", job) if has_news else JobEvent(job.version, "progress", job.progress)
            )
        return job, events

    # --- the poller ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _watching(self, job_id: str, *, is_listening: bool = False) -> AsyncIterator[_Feed]:
        feed = self._feeds.setdefault(job_id, _Feed())
        feed.watchers += 1
        feed.listeners += is_listening
        try:
            if is_listening:
                async with feed.reading:
                    if feed.job is None:
                        async with self._database.reading(is_short=True) as session:
                            feed.begin(await JobStore(session).get(job_id))
            self._start()
            yield feed
        finally:
            feed.watchers -= 1
            feed.listeners -= is_listening
            if feed.watchers == 0 and self._feeds.get(job_id) is feed:
                del self._feeds[job_id]
            if not self._feeds:
                await self._stop()

    def _start(self) -> None:
        self._rung.set()
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())

    async def _stop(self) -> None:
        task, self._polling = self._polling, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _ring(self, job_id: str, has_ended: bool) -> None:  # noqa: FBT001 — as the change feed calls it
        feed = self._feeds.get(job_id)
        if feed is not None and (has_ended or feed.listeners):
            self._rung.set()
            if has_ended:
                self._ended.set()

    async def _rest(self, took_seconds: float) -> None:
        """Wait for the next look: not soon after the last one, but at once when a job has ended."""
        watchers = sum(feed.watchers for feed in self._feeds.values())
        rest = min(took_seconds * REST_SHARE + watchers * REST_SECONDS_A_WATCHER, self._poll_seconds)
        await asyncio.sleep(rest)
        await wait_for_event(self._ended, LEAST_REST_SECONDS - rest)
        await wait_for_event(self._rung, self._poll_seconds - max(rest, LEAST_REST_SECONDS))

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._database.change_feed.heard_by(self._ring):
            while True:
                began = loop.time()
                self._rung.clear()
                self._ended.clear()
                try:
                    await self._look()
                except UnavailableError as error:
                    log_unavailable("watched jobs", error)
                await self._rest(loop.time() - began)

    async def _look(self) -> None:
        feeds = dict(self._feeds)
        async with self._database.reading(is_short=True) as session:
            found = await JobStore(session).list_versions(list(feeds))
        for job_id, feed in feeds.items():
            if feed.listeners and feed.job is None:
                continue  # one of them is about to read it
            version, is_done = found.get(job_id, (0, False))
            if not version:
                feed.close()
            elif version > feed.latest:
                if feed.listeners:
                    await self._feed(job_id, feed)
                elif is_done:
                    await self._finish(job_id, feed)
                else:
                    feed.skip(version)

    async def _finish(self, job_id: str, feed: _Feed) -> None:
        """Tell those who wait for the end only; the images that changed are read where a watcher wants them."""
        async with self._database.reading(is_short=True) as session:
            job = await JobStore(session).find(job_id)
        if job is None:
            feed.close()
            return
        feed.skip(job.version)
        feed.add(job, ())

    async def _feed(self, job_id: str, feed: _Feed) -> None:
        events: list[JobEvent] = []
        number = feed.latest
        while True:
            try:
                job, more = await self._read(job_id, after=number, limit=READ_EVENTS)
            except NotFoundError:
                feed.close()
                return
            events += more
            if len(more) < READ_EVENTS:
                feed.add(job, events)
                return
            number = more[-1].number


def _present(feed: _Feed, job_id: str) -> Job:
    if feed.job is None:
        raise NotFoundError(f"the job {job_id!r} was deleted")
    return feed.job


def _end(job: Job) -> JobEvent:
    return JobEvent(job.version + 1, "end", job)
