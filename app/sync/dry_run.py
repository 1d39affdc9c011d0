"""A dry run: what destinations would have by the copies looked at before, if those had been made. No request writes.

A plan runs the copier itself, so its rows are those of the job; what the job would have brought by then (a layer that
two images share is sent once) is remembered here instead. Bounded, so that a plan of any size takes the same memory:
what was not needed for the longest time is forgotten, and counted once more if it comes up again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from app.domain.errors import CopyError
from app.domain.manifest import Descriptor, Manifest
from app.domain.reference import Digest, Reference, Registry, Repository, Tag, is_fallback_tag

MAX_REMEMBERED = 4_000
"""Blobs, and manifests, that are remembered each, in 3 MiB; images that share layers come soon after one another."""
MAX_PLACES = 32
"""Repositories remembered for one blob of one registry."""
MAX_INDEXES = 200
"""Lists of referrers that are remembered whole; each may have megabytes."""
T = TypeVar("T")
V = TypeVar("V")
ClaimBlobs = Callable[[Mapping[bytes, bytes]], Awaitable[frozenset[bytes]]]
"""Claims blobs, each by a key and for an owner, among all workers of a plan; returns the keys that are the owner's."""


@dataclass(frozen=True, slots=True)
class MissingBlob:
    """A blob that an image would have to send, as far as this process knows."""

    destination: Reference
    digest: Digest
    is_mounted: bool
    """Whether other repositories of the registry would mount it, once it is there."""


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One look at what is planned for one destination; equal to itself alone."""

    destination: bytes


class DryRun:
    """Remembers what the copies of one plan would have brought to which repository, in one process.

    An image may be looked at again, since it was put off halfway. What it would have brought itself the time before is
    then not there: it counts what it counted before.

    - `name`: of the plan, the same in every process
    - `claim`: decides among the processes which image sends a blob; by default there is no other process
    """

    def __init__(self, name: str = "", *, claim: ClaimBlobs | None = None) -> None:
        self._name = name
        self._claim = claim
        self._blobs = _Memory[tuple[tuple[str, _Look], ...]](MAX_REMEMBERED)
        """The paths that would have a blob, by registry and digest, the latest last."""
        self._manifests = _Memory[tuple[Descriptor, _Look]](MAX_REMEMBERED)
        self._indexes = _Memory[tuple[Manifest, _Look]](MAX_INDEXES)
        self._referrers = _Memory[tuple[tuple[Digest, _Look], ...]](MAX_INDEXES)
        self._looks: dict[bytes, _Look] = {}
        """Those that this is, by destination."""

    def look(self, destinations: Iterable[Reference]) -> DryRun:
        """Return this for one look at a copy, for all its attempts: with the same memory, less earlier looks'."""
        look = copy(self)
        look._looks = {key: _Look(key) for key in map(_key_of, destinations)}  # noqa: SLF001 — of this class
        return look

    def find_blob(
        self, repository: Repository, digest: Digest, *, mounts: bool
    ) -> Literal["present", "mounted"] | None:
        """Return how a repository would come by a blob without its bytes; with `mounts` from the registry's others."""
        paths = [path for path, look in self._places_of(repository, digest) if self._counts(look)]
        if repository.path in paths:
            return "present"
        return "mounted" if mounts and paths else None

    def add_blob(self, destination: Reference, digest: Digest) -> None:
        """Note that a destination's repository would have a blob."""
        repository = destination.repository
        places = self._places_of(repository, digest)
        if not any(path == repository.path and self._counts(look) for path, look in places):
            others = tuple(place for place in places if place[0] != repository.path)
            place = (repository.path, self._look_of(destination))
            self._blobs.put((*others[1 - MAX_PLACES :], place), repository.registry, digest)

    async def claim(self, missing: Iterable[MissingBlob]) -> frozenset[MissingBlob]:
        """Return those blobs that these images send; of the others another worker looked at an image that does."""
        by_key = {self._claim_key(blob): blob for blob in missing}
        if self._claim is None or not by_key:
            return frozenset(by_key.values())
        granted = await self._claim({key: _key_of(blob.destination) for key, blob in by_key.items()})
        return frozenset(blob for key, blob in by_key.items() if key in granted)

    def _claim_key(self, blob: MissingBlob) -> bytes:
        place = blob.destination.repository
        return _key((self._name, place.registry if blob.is_mounted else str(place), blob.digest))

    def foresee(
        self, found: Mapping[Reference, Descriptor | CopyError | None]
    ) -> dict[Reference, Descriptor | CopyError | None]:
        """Return what was found at destinations, or what would be there."""
        return {place: self.find_manifest(place.repository, place.target) or there for place, there in found.items()}

    def find_manifest(self, repository: Repository, target: Tag | Digest) -> Descriptor | None:
        """Return what a tag or digest would be; None where nothing was brought there."""
        return self._counting(self._manifests.find(repository.registry, repository.path, target))

    def find_index(self, repository: Repository, tag: Tag) -> Manifest | None:
        """Return what a fallback tag would list; None where nothing was added to it."""
        return self._counting(self._indexes.find(repository.registry, repository.path, tag))

    def put_manifest(self, destination: Reference, place: Tag | Digest, manifest: Manifest) -> None:
        """Note that a destination's repository would have a manifest, and list it as a referrer."""
        repository, look = destination.repository, self._look_of(destination)
        names = (repository.registry, repository.path)
        for target in {place, manifest.digest}:
            if self.find_manifest(repository, target) != manifest.descriptor:
                self._manifests.put((manifest.descriptor, look), *names, target)
        if is_fallback_tag(place):
            self._indexes.put((manifest, look), *names, place)
        if manifest.subject is not None:
            subject, digest = manifest.subject.digest, manifest.digest
            known = tuple(listed for listed in self._referrers.find(*names, subject) or () if listed[0] != digest)
            self._referrers.put((*known, (digest, look)), *names, subject)

    def list_referrers(self, repository: Repository, subject: Digest) -> frozenset[Digest]:
        """List the referrers that a manifest would have got."""
        listed = self._referrers.find(repository.registry, repository.path, subject) or ()
        return frozenset(digest for digest, look in listed if self._counts(look))

    def _places_of(self, repository: Repository, digest: Digest) -> tuple[tuple[str, _Look], ...]:
        return self._blobs.find(repository.registry, digest) or ()

    def _look_of(self, destination: Reference) -> _Look:
        key = _key_of(destination)
        return self._looks.get(key) or _Look(key)

    def _counting(self, noted: tuple[T, _Look] | None) -> T | None:
        return noted[0] if noted is not None and self._counts(noted[1]) else None

    def _counts(self, look: _Look) -> bool:
        """Whether what was noted counts: what an earlier look at the same destination noted does not."""
        return self._looks.get(look.destination, look) is look


class _Memory(Generic[V]):
    """Values under keys of 16 bytes, whatever the names are; of too many the one used longest ago is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[bytes, V] = OrderedDict()

    def find(self, *names: Registry | Tag | Digest | str) -> V | None:
        key = _key(names)
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, value: V, *names: Registry | Tag | Digest | str) -> None:
        key = _key(names)
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)


def _key_of(destination: Reference) -> bytes:
    return _key((str(destination),))


def _key(names: tuple[str, ...]) -> bytes:
    return hashlib.blake2b("\n".join(names).encode(), digest_size=16).digest()
