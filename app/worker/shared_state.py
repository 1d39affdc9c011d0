"""What workers share through the database: windows and pauses of registries, blob locations, open uploads.

Through the supervisor the processes of one host tell each other at once where blobs are, what digest lists say, and
which tokens registries gave them.

Rate limits of an entry and of a job hold for all workers together: each gets its part of them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.concurrency import retry_while_unavailable
from app.domain.errors import UnavailableError
from app.domain.job import Job
from app.domain.reference import Digest, Registry, Repository
from app.domain.registry import RegistryEntry, RegistryLimits
from app.process_channel import ProcessChannel, Topic
from app.registry.auth.token_server import Token
from app.registry.client import ClientPool
from app.registry.ratelimit.adaptive_concurrency import WindowState
from app.security import Sealer
from app.store.blob_locations import BlobLocation, BlobLocationStore
from app.store.db.database import Database, GroupCommit, Session
from app.store.destination_notes import DestinationNoteStore, NotedPlace
from app.store.planned_blobs import PlannedBlobStore
from app.store.registry_limits import RegistryLimitStore, SharedLimit
from app.store.upload_sessions import OpenUpload, UploadSessionStore
from app.sync.compare import ListState
from app.sync.destination import DestinationNote, DestinationNotes, NoteKind
from app.sync.dry_run import ClaimBlobs
from app.sync.known_blobs import KnownBlobs, UploadNotes
from app.worker.heartbeat import Heartbeat

MEMORY = timedelta(minutes=10)
"""What was found out longer ago is found out anew."""
SAME_PAUSE = timedelta(seconds=0.5)
"""A pause that ends so little later is the one that was shared already."""


def with_shared_limits(entries: tuple[RegistryEntry, ...], *, workers: int) -> tuple[RegistryEntry, ...]:
    """Return entries with one worker's share of each registry's limits."""
    if workers == 1:
        return entries
    return tuple(entry.model_copy(update={"limits": _part(entry.limits, workers)}) for entry in entries)


def with_shared_rate(job: Job, *, workers: int) -> Job:
    """Return a job with one worker's share of the bytes per second it may move."""
    options = job.request.options
    if options.max_bytes_per_second is None or workers == 1:
        return job
    part = options.model_copy(update={"max_bytes_per_second": max(1, options.max_bytes_per_second // workers)})
    return replace(job, request=job.request.model_copy(update={"options": part}))


class SharedRegistryLimits:
    """Tells other workers what this one found out of registries, and takes in what they did."""

    def __init__(self, database: Database, pool: ClientPool, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._pool = pool
        self._clock = clock
        self._published: dict[str, SharedLimit] = {}

    async def exchange(self) -> None:
        """Share this process's limits and adopt the others'; raise `UnavailableError`."""
        now = self._clock()
        news = {name: state for name, state in self._states().items() if self._is_news(name, state)}
        if news:
            async with self._database.transaction() as session:
                await RegistryLimitStore(session).share(news, now=now)
            self._published |= news
        async with self._database.reading(is_short=True) as session:
            known = await RegistryLimitStore(session).list_changed_since(now - MEMORY)
        self._pool.adopt_window_states(
            {name: WindowState(state.window, state.changed_at, state.paused_until) for name, state in known.items()}
        )

    def _states(self) -> dict[str, SharedLimit]:
        return {
            name: SharedLimit(state.window, state.changed_at, state.paused_until)
            for name, state in self._pool.window_states().items()
        }

    def _is_news(self, name: str, state: SharedLimit) -> bool:
        published = self._published.get(name)
        was_halved = state.changed_at > (published.changed_at if published else self._clock() - MEMORY)
        if state.paused_until is None:
            return was_halved
        is_longer = (
            published is None
            or published.paused_until is None
            or state.paused_until > published.paused_until + SAME_PAUSE
        )
        return was_halved or is_longer


def _part(limits: RegistryLimits, workers: int) -> RegistryLimits:
    return RegistryLimits(
        connections=max(1, limits.connections // workers),
        requests_per_second=limits.requests_per_second and limits.requests_per_second / workers,
        bytes_per_second=limits.bytes_per_second and max(1, limits.bytes_per_second // workers),
    )


RECALLED = 20_000
"""A process begins with what was seen last; older places are found again as blobs are looked for."""
BATCH = 100
"""Rows one transaction writes at most: others wait for it."""


NEWS_SECONDS = 0.01
"""How long news for the other processes wait for more."""
SEVERAL = 2
MAX_SHARED_TAGS = 10_000
"""Of one digest list: 1 MB of a message, which the supervisor reads and writes between two heartbeats."""
MAX_HEARD_TAGS = 20_000
MAX_HEARD_LISTS = 100
MAX_SHARED_TOKENS = 256
_numbers = itertools.count()
"""Of this process's locks."""
ASK_SECONDS = 0.002
"""How long a look at notes waits for those of other images, to be one statement with them."""
NOTE_SECONDS = 0.01
"""How long a note of an image waits for those of others, to be written with them."""
CLAIM_SECONDS = 0.02
"""How long an image of a plan waits for others that claim blobs, to be written with them."""


class SiblingTokens:
    """Tokens of registries: each is asked for by one process of a host for all.

    They go from worker to worker, through the supervisor, and nowhere else; who holds one could have asked for it.
    """

    def __init__(self, channel: ProcessChannel) -> None:
        self._channel = channel
        self._locks = SiblingLocks(channel)
        self._tokens: OrderedDict[str, Token] = OrderedDict()
        channel.on(Topic.TOKEN, self._take_in)

    def asking(self, place: str) -> AbstractAsyncContextManager[None]:
        """Be the only process that asks for a token; the second takes what the first has sent."""
        return self._locks.holding([f"token {place}"])

    def take(self, place: str) -> Token | None:
        """Return what another process sent, once."""
        return self._tokens.pop(place, None)

    def tell(self, place: str, token: Token) -> None:
        """Tell the others of a token."""
        if len(self._channel.processes.workers) >= SEVERAL:
            times = token.asked_at.timestamp(), token.good_until.timestamp()
            self._channel.send(Topic.TOKEN, [place, token.text, *times])

    def _take_in(self, message: Sequence[Any]) -> None:
        place, text, *times = message
        asked_at, good_until = (datetime.fromtimestamp(time, UTC) for time in times)
        self._tokens[place] = Token(text, asked_at, good_until)
        while len(self._tokens) > MAX_SHARED_TOKENS:
            self._tokens.popitem(last=False)


class SiblingLocks:
    """What one process of a host does at a time, by name: a second one waits until the first has ended."""

    def __init__(self, channel: ProcessChannel) -> None:
        self._channel = channel
        self._granted: dict[int, asyncio.Event] = {}
        channel.on(Topic.BLOB_LOCKED, self._grant)

    @asynccontextmanager
    async def holding(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Be the only process at these, all together; what is sent before the end the next one has heard."""
        if len(self._channel.processes.workers) < SEVERAL:
            yield
            return
        number = next(_numbers)
        granted = self._granted[number] = asyncio.Event()
        self._channel.send(Topic.LOCK_BLOB, [number, names])
        try:
            await granted.wait()
            yield
        finally:
            del self._granted[number]
            self._channel.send(Topic.UNLOCK_BLOB, number)

    def _grant(self, number: int) -> None:
        if number in self._granted:
            self._granted[number].set()


class SharedBlobLocations:
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
            async with self._database.transaction(is_short=True) as session:
                await BlobLocationStore(session).record(news[first : first + BATCH], now=self._clock())


class SiblingBlobs:
    """What the processes of one host know of blobs together: where they are, and who sends which just now.

    So an image that one process copies finds the layers that another has sent, and waits for those it is sending.
    """

    def __init__(self, channel: ProcessChannel, blobs: KnownBlobs) -> None:
        self._channel = channel
        self._blobs = blobs
        self._news: list[tuple[str, str, str, bool]] = []
        self._locks = SiblingLocks(channel)
        blobs.siblings = self
        channel.on(Topic.BLOBS, self._take_in)

    def tell(self, repository: Repository, digest: Digest, *, is_there: bool) -> None:
        """Tell the others of a place, together with what follows soon."""
        if not self._news:
            asyncio.get_running_loop().call_later(NEWS_SECONDS, self._tell_news)
        self._news.append((repository.registry, repository.path, digest, is_there))

    def tell_of_mounts(self, registry: Registry, *, does: bool) -> None:
        """Tell the others what a registry answers to mounts."""
        self._channel.send(Topic.BLOBS, [(registry, "", "", does)])

    @asynccontextmanager
    async def sending(self, places: Sequence[str]) -> AsyncIterator[None]:
        """Be the only process that sends to these places; the second finds what the first has sent."""
        async with self._locks.holding(places):
            try:
                yield
            finally:
                self._tell_news()

    def _tell_news(self) -> None:
        news, self._news = self._news, []
        if news:
            self._channel.send(Topic.BLOBS, news)

    def _take_in(self, news: Iterable[tuple[str, str, str, bool]]) -> None:
        for registry, path, digest, is_there in news:
            if path:
                self._blobs.take_over(Repository(Registry(registry), path), Digest(digest), is_there=is_there)
            else:  # of the registry as a whole: whether it answers by mounts
                self._blobs.hear_of_mounts(Registry(registry), does=is_there)


class SiblingDigestLists:
    """What the processes of one host know of digest lists together: each is read, and proven, by one for all."""

    def __init__(self, channel: ProcessChannel) -> None:
        self._channel = channel
        self._locks = SiblingLocks(channel)
        self._received: OrderedDict[tuple[str, ...], ListState] = OrderedDict()
        channel.on(Topic.DIGEST_LIST, self._take_in)

    def reading(self, place: tuple[str, ...]) -> AbstractAsyncContextManager[None]:
        """Be the only process that reads a list; the second finds what the first has sent."""
        return self._locks.holding([" ".join(("digest list", *place))])

    def received(self, place: tuple[str, ...]) -> ListState | None:
        """Return what another process sent last of a list."""
        return self._received.get(place)

    def publish(self, place: tuple[str, ...], state: ListState) -> None:
        """Send the others what is known of a list; one that is very long each reads by itself."""
        if len(self._channel.processes.workers) >= SEVERAL and len(state.tags or ()) <= MAX_SHARED_TAGS:
            self._channel.send(Topic.DIGEST_LIST, [place, state])

    def _take_in(self, message: Sequence[Any]) -> None:
        place = tuple(message[0])
        self._received[place] = ListState(*message[1])
        self._received.move_to_end(place)
        total = sum(len(state.tags or ()) for state in self._received.values())
        while len(self._received) > MAX_HEARD_LISTS or total > MAX_HEARD_TAGS:
            total -= len(self._received.popitem(last=False)[1].tags or ())


class SharedUploads:
    """One worker's notes of uploads in the database. A database that is gone costs the note, never the copy."""

    def __init__(
        self, database: Database, sealer: Sealer, *, heartbeat: Heartbeat, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._heartbeat = heartbeat
        self._clock = clock

    @property
    def notes(self) -> UploadNotes:
        """What copiers note uploads with."""
        return UploadNotes(take=self._take, put=self._put, leave=self._leave, drop=self._drop)

    async def _take(self, repository: Repository, digest: Digest) -> str | None:
        try:
            async with self._database.reading(is_short=True) as session:
                if not await self._uploads(session).has(repository, digest):
                    return None  # as nearly always: writing would wait for all other writers
            async with self._database.transaction() as session:
                uploads = self._uploads(session)
                owner = await uploads.find_owner(repository, digest)
                if owner is not None and not self._heartbeat.is_dead(owner):
                    return None
                upload = await uploads.take(repository, digest, dead=owner)
        except UnavailableError:
            return None
        return None if upload is None else upload.location

    async def _put(self, repository: Repository, digest: Digest, location: str) -> None:
        upload = OpenUpload(repository, digest, location)
        try:
            async with self._database.transaction() as session:
                await self._uploads(session).put(upload, now=self._clock())
        except UnavailableError:
            return

    async def _leave(self, repository: Repository, digest: Digest) -> None:
        try:
            async with self._database.transaction() as session:
                await self._uploads(session).leave(repository, digest)
        except UnavailableError:
            return  # then it is found when this worker is off the roster

    async def _drop(self, repository: Repository, digest: Digest) -> None:
        try:
            async with self._database.transaction() as session:
                await self._uploads(session).delete(repository, digest)
        except UnavailableError:
            return  # a note of an upload that is over finds no session at the registry

    def _uploads(self, session: Session) -> UploadSessionStore:
        return UploadSessionStore(session, self._sealer, worker=self._heartbeat.worker)


class SharedDestinationNotes:
    """Notes of destinations in the database, where all workers find them.

    A database that is gone costs the note, never the copy: what is not noted is looked for once more, or with `force`.
    """

    def __init__(self, database: Database, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._wanted: set[NotedPlace] = set()
        self._reading: asyncio.Task[Mapping[NotedPlace, Mapping[str, str]]] | None = None
        self._puts = GroupCommit[tuple[Repository, Digest | None, DestinationNote], None](
            database, self._put_all, linger_seconds=NOTE_SECONDS
        )

    @property
    def notes(self) -> DestinationNotes:
        """What copiers note destinations with."""
        return DestinationNotes(find=self._find, put=self._put, drop=self._drop)

    async def _find(self, repository: Repository, digest: Digest | None) -> Mapping[str, str]:
        """Read together with what other images ask for at the same time: unchanged ones ask for little else."""
        place = (repository, digest)
        self._wanted.add(place)
        if self._reading is None:
            self._reading = asyncio.create_task(self._find_wanted(), name="reading notes")
        found = await asyncio.shield(self._reading)
        return found.get(place, {})

    async def _find_wanted(self) -> Mapping[NotedPlace, Mapping[str, str]]:
        await asyncio.sleep(ASK_SECONDS)
        wanted, self._wanted, self._reading = self._wanted, set(), None
        try:
            async with self._database.reading(is_short=True) as session:
                return await DestinationNoteStore(session).find(wanted)
        except UnavailableError:
            return {}

    async def _put(self, repository: Repository, digest: Digest | None, note: DestinationNote) -> None:
        with suppress(UnavailableError):
            await self._puts.add((repository, digest, note))

    async def _put_all(
        self, session: Session, wanted: Sequence[tuple[Repository, Digest | None, DestinationNote]]
    ) -> list[Exception | None]:
        """Write the notes of several images in one transaction."""
        rows = [(repository, digest, note.kind, note.value) for repository, digest, note in wanted]
        await DestinationNoteStore(session).put(rows, now=self._clock())
        return [None] * len(rows)

    async def _drop(self, repository: Repository, digest: Digest | None, kind: NoteKind) -> None:
        try:
            async with self._database.transaction() as session:
                await DestinationNoteStore(session).drop(repository, digest, kind=kind)
        except UnavailableError:
            return


def shared_blob_claims(database: Database, *, clock: Callable[[], datetime]) -> ClaimBlobs:
    """Return what workers claim the blobs of a plan with; while the database is gone it waits."""

    async def write(session: Session, wanted: Sequence[Mapping[bytes, bytes]]) -> list[frozenset[bytes] | Exception]:
        return [*await PlannedBlobStore(session).claim(wanted, now=clock())]

    commits = GroupCommit[Mapping[bytes, bytes], frozenset[bytes]](database, write, linger_seconds=CLAIM_SECONDS)
    return lambda wanted: retry_while_unavailable(lambda: commits.add(wanted))
