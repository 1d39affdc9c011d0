"""Known blobs: which repository holds which, which is being sent right now (single-flight), and whose upload is open.

All jobs share this. What was seen or sent here lately counts as there, without a question. What is older, or comes from
earlier jobs, is only a place to mount from: a registry that collected its garbage meanwhile answers a mount with an
upload session, and nothing is lost.

An open upload is noted so that another worker can resume it, and cancelled when none will. One of `MIN_NOTED_BYTES` or
more is resumed across processes: its signed location is stored, and has one owner.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from app.concurrency import Activity, current_activity, waiting_for_unit
from app.domain.errors import TransferError
from app.domain.manifest import Descriptor
from app.domain.reference import Digest, Registry, Repository
from app.registry.client import RegistryClient
from app.registry.uploads import UploadSession

MAX_BLOBS = 50_000
MAX_PLACES = 16
"""Repositories remembered for one blob of one registry."""
MAX_NEWS = 10_000
MAX_FOUND_BY_MOUNT = 10_000
MAX_REPOSITORIES = 10_000
FRESH_SECONDS = 3_600.0
"""Registries that collect garbage while they run spare what is younger than hours (GitLab: a day)."""
CONFIRMED_SECONDS = 10.0
"""So long after something of a repository was seen, all of it that is known is believed; then one blob is asked for
first, and a repository that was emptied costs one request, not one for each blob and image."""
NEW_SECONDS = 60.0
"""So long after a registry said that it has no such repository, nothing is asked for that others may have put there."""
ABSENCES_BEFORE_TRYING = 8
"""Blobs asked for in vain, after which a registry is tried for answering that by a mount."""
MOUNTS_SECONDS = 3_600.0
"""So long what a registry was found to answer to mounts is believed: it may be upgraded, or its mounts switched off."""
DECLINED_MOUNTS = 3
"""Mounts in a row answered with a session, after which a registry is taken for one that never mounts."""
MIN_NOTED_BYTES = 16 * 1024 * 1024
"""Smaller blobs are sent again sooner than anything is written down about them."""
_LONG_AGO = float("-inf")

_Key = tuple[Registry, Digest]


class Siblings(Protocol):
    """The other processes of this host."""

    def tell(self, repository: Repository, digest: Digest, *, is_there: bool) -> None:
        """Tell them of a place that is new here, or turned out to be wrong."""

    def tell_of_mounts(self, registry: Registry, *, does: bool) -> None:
        """Tell them whether a registry answers by a mount if a blob is there."""

    def sending(self, places: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """Be the only one among them that sends to these places, while inside."""


class KnownBlobs:
    """Where blobs are: at most `MAX_BLOBS` (50,000), each believed for `FRESH_SECONDS` (an hour).

    - `clock`: monotonic seconds

    `siblings` are the other processes of this host, where there are any: they know what this one knows.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.siblings: Siblings | None = None
        self._places: OrderedDict[_Key, dict[str, float]] = OrderedDict()
        self._news: dict[tuple[Repository, Digest], None] = {}
        self._sending: dict[tuple[str, Digest], tuple[asyncio.Event, Activity | None]] = {}
        """What is being sent: set when it is over, and for which unit."""
        self._declined: dict[Registry, int] = {}
        self._confirmed: OrderedDict[Repository, float] = OrderedDict()
        self._missing: OrderedDict[Repository, float] = OrderedDict()
        self._looking: dict[Repository, asyncio.Lock] = {}
        self._answers_by_mount: dict[Registry, tuple[bool, float]] = {}
        self._found_by_mount: OrderedDict[tuple[Repository, Digest], float] = OrderedDict()
        self._absences: dict[Registry, int] = {}

    def is_present(self, repository: Repository, digest: Digest) -> bool:
        """Return whether a repository held a blob so recently that the registry need not be asked."""
        seen = self._places.get((repository.registry, digest), {}).get(repository.path, _LONG_AGO)
        return self._clock() - seen < FRESH_SECONDS

    def has_seen(self, repository: Repository) -> bool:
        """Return whether this process has seen anything of a repository, or just asked for it."""
        return repository in self._confirmed or self.is_new(repository)

    def is_new(self, repository: Repository) -> bool:
        """Return whether a repository was not there a moment ago: what is not known of it is not in it."""
        return self._clock() - self._missing.get(repository, _LONG_AGO) < NEW_SECONDS

    @asynccontextmanager
    async def looking_for(self, repository: Repository) -> AsyncIterator[None]:
        """Be the only task that asks whether a repository is there (single-flight)."""
        lock = self._looking.setdefault(repository, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            self._looking.pop(repository, None)

    def note_repository(self, repository: Repository, *, is_missing: bool) -> None:
        """Note whether a registry has a repository; where it has, nothing is known of what it holds."""
        if not is_missing:
            self._confirmed.setdefault(repository, _LONG_AGO)
            return
        self._missing[repository] = self._clock()
        self._missing.move_to_end(repository)
        while len(self._missing) > MAX_REPOSITORIES:
            self._missing.popitem(last=False)

    def is_confirmed(self, repository: Repository) -> bool:
        """Return whether something of a repository was seen there just now, so that the rest may be believed."""
        return self._clock() - self._confirmed.get(repository, _LONG_AGO) < CONFIRMED_SECONDS

    def answers_by_mount(self, registry: Registry) -> bool | None:
        """Return whether a mount from the repository itself tells if a blob is there.

        None when that was not tried, or not within `MOUNTS_SECONDS` (an hour).
        """
        does, learned = self._answers_by_mount.get(registry, (None, _LONG_AGO))
        return does if self._clock() - learned < MOUNTS_SECONDS else None

    def is_mount_to_be_tried(self, registry: Registry) -> bool:
        """Return whether so many blobs were asked for and not found there that one request more may save many."""
        return self.answers_by_mount(registry) is None and self._absences.get(registry, 0) >= ABSENCES_BEFORE_TRYING

    def note_mount_tried(self, registry: Registry) -> None:
        """Remember that a task tries that just now: no other does."""
        self._absences[registry] = -MAX_BLOBS

    def note_absence(self, registry: Registry) -> None:
        """Count a blob that was asked for and not found, where it is not known how mounts are answered."""
        if self.answers_by_mount(registry) is None:
            self._absences[registry] = self._absences.get(registry, 0) + 1

    def note_answers_by_mount(self, registry: Registry, *, does: bool) -> None:
        """Remember whether a mount from the repository itself found a blob that was there, and tell the others."""
        if self.answers_by_mount(registry) is not does and self.siblings is not None:
            self.siblings.tell_of_mounts(registry, does=does)
        self.hear_of_mounts(registry, does=does)

    def hear_of_mounts(self, registry: Registry, *, does: bool) -> None:
        """Take in what another process found out of mounts there."""
        self._answers_by_mount[registry] = does, self._clock()
        self._absences.pop(registry, None)

    def note_found_by_mount(self, repository: Repository, digest: Digest) -> None:
        """Remember that a blob is believed to be there because of the answer to a mount, and nothing else."""
        self._found_by_mount[repository, digest] = self._clock()
        self._found_by_mount.move_to_end((repository, digest))
        while len(self._found_by_mount) > MAX_FOUND_BY_MOUNT:
            self._found_by_mount.popitem(last=False)

    def doubt_mounts(self, repository: Repository, lacking: Iterable[Digest]) -> bool:
        """Ask by mounts no more where one found a blob that a repository lacks; return whether one did.

        - `lacking`: what the registry may have meant when it refused a manifest for a blob it does not have
        """
        found = [self._found_by_mount.pop((repository, digest), _LONG_AGO) for digest in lacking]
        if not any(self._clock() - when < FRESH_SECONDS for when in found):
            return False
        self.note_answers_by_mount(repository.registry, does=False)
        return True

    def mount_candidates(self, repository: Repository, digest: Digest) -> tuple[str, ...]:
        """List other repositories of that registry that held a blob when last seen, the latest first."""
        if not self.may_mount(repository.registry):
            return ()
        places = self._places.get((repository.registry, digest), {})
        return tuple(path for path in reversed(places) if path != repository.path)

    def add(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository holds a blob, as just seen."""
        if not self.is_present(repository, digest):
            self._tell(repository, digest, is_there=True)
        self._put(repository, digest, self._clock())
        self._confirmed[repository] = self._clock()
        self._confirmed.move_to_end(repository)
        while len(self._confirmed) > MAX_REPOSITORIES:
            self._confirmed.popitem(last=False)
        if len(self._news) < MAX_NEWS:
            self._news[repository, digest] = None

    def forget(self, repository: Repository, digest: Digest) -> None:
        """Believe no longer that a repository holds a blob."""
        if self._places.get((repository.registry, digest), {}).pop(repository.path, None) is not None:
            self._tell(repository, digest, is_there=False)
        self._news.pop((repository, digest), None)

    def forget_repository(self, repository: Repository) -> None:
        """Believe nothing any more of what a repository holds: something of it turned out to be gone.

        It stays a place to mount from, as what earlier jobs saw is.
        """
        for (registry, digest), places in self._places.items():
            if registry == repository.registry and places.get(repository.path, _LONG_AGO) != _LONG_AGO:
                places[repository.path] = _LONG_AGO
                self._news.pop((repository, digest), None)
                self._tell(repository, digest, is_there=False)

    def take_over(self, repository: Repository, digest: Digest, *, is_there: bool) -> None:
        """Take in what another process of this host has just seen."""
        if is_there:
            self._put(repository, digest, self._clock())
        else:
            self._places.get((repository.registry, digest), {}).pop(repository.path, None)

    def seed(self, places: Iterable[tuple[Repository, Digest]]) -> None:
        """Take in what earlier jobs saw, the latest last: places to mount from."""
        for repository, digest in places:
            if repository.path not in self._places.get((repository.registry, digest), {}):
                self._put(repository, digest, _LONG_AGO)

    def take_news(self) -> tuple[tuple[Repository, Digest], ...]:
        """Hand out what was added since the last time, for the jobs to come; more than a bound is dropped."""
        news, self._news = tuple(self._news), {}
        return news

    def may_mount(self, registry: Registry) -> bool:
        """Return whether mounting is worth a request there."""
        return self._declined.get(registry, 0) < DECLINED_MOUNTS

    def mount_answered(self, registry: Registry, *, mounted: bool) -> None:
        """Learn from the answer to a mount."""
        self._declined[registry] = 0 if mounted else self._declined.get(registry, 0) + 1

    @asynccontextmanager
    async def sending(
        self, repositories: Iterable[Repository], digest: Digest, *, is_small: bool = False
    ) -> AsyncIterator[None]:
        """Be the only task that sends a blob to these places (single-flight); a second one waits, and then looks again.

        All places are taken at once or none, so a slow one never holds up others through a task that waits for it.
        One at a time for a whole registry, since the next one can mount; for one repository where nothing is mounted.
        A small one may be sent by another process of this host at the same time.
        """
        keys = {(self._scope(repository), digest) for repository in repositories}
        while busy := next((self._sending[key] for key in keys if key in self._sending), None):
            over, activity = busy
            with waiting_for_unit(activity):
                await over.wait()
        done = asyncio.Event()
        self._sending.update(dict.fromkeys(keys, (done, current_activity())))
        try:
            if self.siblings is None or is_small:
                yield
            else:
                async with self.siblings.sending([f"{scope} {digest}" for scope, digest in sorted(keys)]):
                    yield
        finally:
            for key in keys:
                del self._sending[key]
            done.set()

    def _scope(self, repository: Repository) -> str:
        return repository.registry if self.may_mount(repository.registry) else str(repository)

    def _tell(self, repository: Repository, digest: Digest, *, is_there: bool) -> None:
        if self.siblings is not None:
            self.siblings.tell(repository, digest, is_there=is_there)

    def _put(self, repository: Repository, digest: Digest, seen: float) -> None:
        key = (repository.registry, digest)
        places = self._places.setdefault(key, {})
        places.pop(repository.path, None)
        places[repository.path] = seen
        if len(places) > MAX_PLACES:
            del places[next(iter(places))]
        self._places.move_to_end(key)
        while len(self._places) > MAX_BLOBS:
            self._places.popitem(last=False)


async def give_back(sessions: Iterable[UploadSession | None]) -> None:
    """End those that were not closed; who is cancelled takes the time for it, which each session limits."""
    left = [session.cancel() for session in sessions if session is not None]
    if left:
        await asyncio.shield(asyncio.gather(*left))


@dataclass(frozen=True, slots=True)
class UploadNotes:
    """Where locations of uploads are kept; they may be signed, so they are secrets. None of these may raise."""

    take: Callable[[Repository, Digest], Awaitable[str | None]]
    """Hands out, once, what a process left or died over: two that write to one session spoil it."""
    put: Callable[[Repository, Digest, str], Awaitable[None]]
    """Notes where an upload is resumed; the note of another worker that is at work stands."""
    leave: Callable[[Repository, Digest], Awaitable[None]]
    """Lets others take an upload that this process writes to no more."""
    drop: Callable[[Repository, Digest], Awaitable[None]]
    will_be_resumed: Callable[[], bool] = lambda: False
    """Returns whether another process resumes what is cancelled."""


class NotedUpload:
    """What is noted of one upload; without notes, or for a small blob, nothing."""

    def __init__(self, notes: UploadNotes | None, repository: Repository, blob: Descriptor) -> None:
        self._notes = notes if blob.size >= MIN_NOTED_BYTES else None
        self._repository = repository
        self._digest = blob.digest
        self._noted: str | None = None

    async def resume(self, client: RegistryClient) -> UploadSession | None:
        """Take up what another process left, if the registry still knows of it."""
        if self._notes is None or self._noted is not None:
            return None
        location = await self._notes.take(self._repository, self._digest)
        if location is None:
            return None
        self._noted = location
        try:
            return await client.resume_upload(self._repository.path, location)
        except TransferError:
            return None

    async def keep(self, session: UploadSession) -> None:
        """Note where a session goes on, when that changed."""
        if self._notes is not None and session.location != self._noted:
            self._noted = session.location
            await self._notes.put(self._repository, self._digest, session.location)

    async def leave(self, session: UploadSession) -> bool:
        """Leave an unfinished upload to the worker that resumes the copy; return False when there will be none."""
        if self._notes is None or self._noted is None or not self._notes.will_be_resumed():
            return False
        await self.keep(session)
        await self._notes.leave(self._repository, self._digest)
        return True

    async def drop(self) -> None:
        """Delete the note of an upload that has ended."""
        if self._notes is not None and self._noted is not None:
            self._noted = None
            await self._notes.drop(self._repository, self._digest)
