"""What this process knows of who holds which blob, and who is sending which right now. Shared by all jobs, bounded.

Two kinds of knowledge. What was seen or sent here lately counts as there, without a question. What is older, or comes
from earlier jobs, is only a place to mount from: a registry that collected its garbage meanwhile answers a mount with
an upload session, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from app.domain.reference import Digest, Registry, Repository

MAX_BLOBS = 50_000
MAX_PLACES = 16
"""Repositories remembered for one blob of one registry."""
MAX_NEWS = 10_000
MAX_REPOSITORIES = 10_000
FRESH_SECONDS = 3_600.0
"""Registries that collect garbage while they run spare what is younger than hours (GitLab: a day)."""
DECLINED_MOUNTS = 3
"""Mounts in a row answered with a session, after which a registry is taken for one that never mounts."""
_LONG_AGO = float("-inf")

_Key = tuple[Registry, Digest]


class KnownBlobs:
    """Where blobs are; times are of `clock`, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: OrderedDict[_Key, dict[str, float]] = OrderedDict()
        self._news: dict[tuple[Repository, Digest], None] = {}
        self._sending: dict[tuple[str, Digest], asyncio.Event] = {}
        self._declined: dict[Registry, int] = {}
        self._sparse: OrderedDict[Repository, None] = OrderedDict()

    def is_present(self, repository: Repository, digest: Digest) -> bool:
        """Say whether a repository holds a blob, as of so short ago that nobody need be asked."""
        seen = self._places.get((repository.registry, digest), {}).get(repository.path, _LONG_AGO)
        return self._clock() - seen < FRESH_SECONDS

    def mount_candidates(self, repository: Repository, digest: Digest) -> tuple[str, ...]:
        """List other repositories of that registry that held a blob when last seen, the latest first."""
        if not self.may_mount(repository.registry):
            return ()
        places = self._places.get((repository.registry, digest), {})
        return tuple(path for path in reversed(places) if path != repository.path)

    def add(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository holds a blob, as just seen."""
        self._put(repository, digest, self._clock())
        if len(self._news) < MAX_NEWS:
            self._news[repository, digest] = None

    def forget(self, repository: Repository, digest: Digest) -> None:
        """Believe no longer that a repository holds a blob."""
        self._places.get((repository.registry, digest), {}).pop(repository.path, None)
        self._news.pop((repository, digest), None)

    def forget_repository(self, repository: Repository) -> None:
        """Believe nothing any more of what a repository holds: something of it turned out to be gone."""
        for (registry, digest), places in self._places.items():
            if registry == repository.registry and repository.path in places:
                del places[repository.path]
                self._news.pop((repository, digest), None)

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
        """Say whether mounting is worth a request there."""
        return self._declined.get(registry, 0) < DECLINED_MOUNTS

    def mount_answered(self, registry: Registry, *, mounted: bool) -> None:
        """Learn from the answer to a mount."""
        self._declined[registry] = 0 if mounted else self._declined.get(registry, 0) + 1

    def note_sparse(self, repository: Repository) -> None:
        """Remember that an index there may lack children."""
        self._sparse[repository] = None
        while len(self._sparse) > MAX_REPOSITORIES:
            self._sparse.popitem(last=False)

    def may_be_sparse(self, repository: Repository) -> bool:
        """Say whether sparse indexes were put into a repository by this process."""
        return repository in self._sparse

    @asynccontextmanager
    async def sending(self, repositories: Iterable[Repository], digest: Digest) -> AsyncIterator[None]:
        """Be the only one that sends a blob to these places; whoever comes second waits, and then looks again.

        All places are taken at once or none, so a slow one never holds up others through somebody who waits for it.
        One at a time for a whole registry, since the next one can mount; for one repository where nothing is mounted.
        """
        keys = {(self._scope(repository), digest) for repository in repositories}
        while busy := next((self._sending[key] for key in keys if key in self._sending), None):
            await busy.wait()
        done = asyncio.Event()
        self._sending.update(dict.fromkeys(keys, done))
        try:
            yield
        finally:
            for key in keys:
                del self._sending[key]
            done.set()

    def _scope(self, repository: Repository) -> str:
        return repository.registry if self.may_mount(repository.registry) else str(repository)

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
