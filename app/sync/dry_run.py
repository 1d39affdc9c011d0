"""A dry run: what destinations would have by the copies looked at before, if those had been made. No request writes.

A plan runs the copier itself, so its rows are those of the job; what the job would have brought by then (a layer that
two images share is sent once) is remembered here instead. Bounded: of very large plans the oldest is forgotten, and
counted once more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeVar

from app.domain.manifest import Descriptor, Manifest
from app.domain.reference import Digest, Registry, Repository, Tag, is_fallback_tag

MAX_REMEMBERED = 20_000
"""Blobs, and manifests, that are remembered each."""
K = TypeVar("K")
V = TypeVar("V")


class DryRun:
    """Remembers what the copies of one plan would have brought to which repository, in one process."""

    def __init__(self) -> None:
        self._blobs: OrderedDict[tuple[Registry, Digest], set[str]] = OrderedDict()
        self._manifests: OrderedDict[tuple[Repository, Tag | Digest], Descriptor] = OrderedDict()
        self._indexes: OrderedDict[tuple[Repository, Tag], Manifest] = OrderedDict()
        self._referrers: OrderedDict[tuple[Repository, Digest], set[Digest]] = OrderedDict()

    def find_blob(
        self, repository: Repository, digest: Digest, *, mounts: bool
    ) -> Literal["present", "mounted"] | None:
        """Return how a repository would come by a blob without its bytes; with `mounts` from the registry's others."""
        paths = self._blobs.get((repository.registry, digest), ())
        if repository.path in paths:
            return "present"
        return "mounted" if mounts and paths else None

    def add_blob(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository would have a blob."""
        _remembered(self._blobs, (repository.registry, digest), set[str]()).add(repository.path)

    def find_manifest(self, repository: Repository, target: Tag | Digest) -> Descriptor | None:
        """Return what a tag or digest would be; None where nothing was brought there."""
        return self._manifests.get((repository, target))

    def find_index(self, repository: Repository, tag: Tag) -> Manifest | None:
        """Return what a fallback tag would list; None where nothing was added to it."""
        return self._indexes.get((repository, tag))

    def put_manifest(self, repository: Repository, place: Tag | Digest, manifest: Manifest) -> None:
        """Note that a repository would have a manifest, and list it as a referrer."""
        for target in {place, manifest.digest}:
            self._manifests.pop((repository, target), None)
            _remembered(self._manifests, (repository, target), manifest.descriptor)
        if is_fallback_tag(place):
            self._indexes.pop((repository, Tag(place)), None)
            _remembered(self._indexes, (repository, Tag(place)), manifest)
        if manifest.subject is not None:
            _remembered(self._referrers, (repository, manifest.subject.digest), set[Digest]()).add(manifest.digest)

    def list_referrers(self, repository: Repository, subject: Digest) -> frozenset[Digest]:
        """List the referrers that a manifest would have got."""
        return frozenset(self._referrers.get((repository, subject), ()))


def _remembered(memory: OrderedDict[K, V], key: K, value: V) -> V:
    found = memory.setdefault(key, value)
    memory.move_to_end(key)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
    return found
