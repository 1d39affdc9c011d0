"""The graph below a manifest, as far as destinations lack it: fetched from the source, pushed children first, tag last.

A manifest that a destination has is proof of what is below it, as registries refuse one whose parts are missing. An
index is not: many registries take indexes whose children were left out, so its children are asked for one by one.

Manifests are pushed byte for byte: children first, each by its digest, then the root; the tag last. Order is the
distribution spec's, and more: a client that sees the tag must find everything that belongs to it. Hence the tag last,
after referrers too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.concurrency import run_limited
from app.domain.errors import ContentError, CopyError, RegistryError, TransferError
from app.domain.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    SCHEMA1_TYPES,
    Descriptor,
    Manifest,
    Platform,
    leaves_out,
    select_children,
    select_images,
)
from app.domain.reference import Digest, Tag
from app.registry.client import RegistryClient
from app.registry.http.errors import is_missing
from app.sync.destination import DestinationState, Need
from app.sync.known_blobs import KnownBlobs
from app.sync.rewrite import MAX_DEPTH, none_left

MAX_MANIFESTS = 5_000
"""In one copy; the largest real indexes have a few hundred."""
MAX_MANIFESTS_BYTES = 64 * 1024 * 1024
"""Of all manifests of one copy together: they are held until they are pushed."""
_ASKED_AT_ONCE = 8
_PUT_AT_ONCE = 8
_BLOB_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})
_PART_MISSING = _BLOB_MISSING | {"MANIFEST_UNKNOWN", "MANIFEST_REFERENCE_UNKNOWN"}

ForeignLayers = Literal["skip", "copy"]


@dataclass(slots=True, eq=False)
class Node:
    """A manifest, and the destinations that lack it."""

    manifest: Manifest
    depth: int
    lacking: set[DestinationState]


@dataclass(slots=True, eq=False)
class Bundle:
    """A manifest to be pushed with all below it: the image itself, a referrer, what a digest tag names."""

    root: Manifest
    targets: set[DestinationState]
    platforms: tuple[Platform, ...] = ()
    """What of the index is wanted; empty is all."""
    is_deep: bool = False
    """Whether the parts of manifests that are there are looked for too."""
    tag: Tag | None = None
    """The tag to put it under, last; by its digest alone without."""
    nodes: dict[Digest, Node] = field(default_factory=dict)
    """What is below the root, as far as a destination lacks it."""

    @property
    def indexes(self) -> list[Manifest]:
        """The root, if it is an index, and the chosen indexes below it that were looked into; the root first."""
        found = {self.root.digest: self.root} if self.root.children else {}
        level = list(found.values())
        while level:
            below = (self.nodes.get(child.digest) for one in level for child in select_children(one, self.platforms))
            nested = {node.manifest.digest: node.manifest for node in below if node and node.manifest.children}
            level = [index for digest, index in nested.items() if digest not in found]
            found |= {index.digest: index for index in level}
        return list(found.values())

    def levels(self) -> list[list[Node]]:
        """Divide what is below the root: the deepest first, each level needing only those before it."""
        depths = sorted({node.depth for node in self.nodes.values()}, reverse=True)
        return [[node for node in self.nodes.values() if node.depth == depth] for depth in depths]


@dataclass(frozen=True, slots=True)
class _Edge:
    """An entry of an index, and the index."""

    parent: Manifest
    child: Descriptor


class Gatherer:
    """Collects what bundles need; a manifest is looked at once for each destination in a whole copy."""

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        *,
        foreign_layers: ForeignLayers,
    ) -> None:
        self.needs: dict[Digest, Need] = {}
        self.seen: defaultdict[Digest, set[DestinationState]] = defaultdict(set)
        """Every manifest met, a root or below one, and the destinations it was looked at for."""
        self.made: Mapping[Digest, Manifest] = {}
        """Manifests that are made for this copy, which the source does not have."""
        self.leaves_layers_out = False
        """Whether layers that lie elsewhere were met, and left there."""
        self._client = client
        self._repository = repository
        self._foreign_layers = foreign_layers
        self._bytes = 0

    async def gather(self, bundle: Bundle) -> None:
        """Find what each destination of a bundle lacks; raise `CopyError` for the source.

        Destinations that can't be asked fail by themselves.
        """
        self.seen[bundle.root.digest] |= bundle.targets
        try:
            self._count(bundle.root)
            self._need_blobs(bundle.root, bundle.targets)
            level = [(bundle.root, bundle.targets)]
            for depth in range(1, MAX_DEPTH + 2):
                level = await self._descend(bundle, level, depth=depth)
                if not level:
                    return _check_choice(bundle)
            raise ContentError(f"indexes are nested more than {MAX_DEPTH} deep", code="limit_exceeded")
        except CopyError:
            raise
        except TransferError as error:
            raise CopyError(error, side="source", step=f"read what is below {bundle.root.digest}") from error

    def seen_at_source(self) -> list[Digest]:
        """List the manifests met so far that the source has."""
        return [digest for digest in self.seen if digest not in self.made]

    async def fetch(self, digest: Digest) -> Manifest:
        """Get a manifest of the source, or one made for it; raise `RegistryError` or `ContentError`."""
        return self.made.get(digest) or await self._client.get_manifest(self._repository, digest)

    async def _descend(
        self, bundle: Bundle, parents: Sequence[tuple[Manifest, set[DestinationState]]], *, depth: int
    ) -> list[tuple[Manifest, set[DestinationState]]]:
        """Look at one level of children; return the manifests to look below next."""
        children: dict[Digest, tuple[Manifest, Descriptor, set[DestinationState]]] = {}
        for parent, targets in parents:
            for child in select_children(parent, bundle.platforms):
                children.setdefault(child.digest, (parent, child, set()))[2].update(targets)
        visits = (
            self._visit(bundle, _Edge(parent, child), targets, depth=depth)
            for parent, child, targets in children.values()
        )
        found = await run_limited(visits, at_once=_ASKED_AT_ONCE)
        return [pair for pair in found if pair is not None]

    async def _visit(
        self, bundle: Bundle, edge: _Edge, targets: set[DestinationState], *, depth: int
    ) -> tuple[Manifest, set[DestinationState]] | None:
        child = edge.child
        if not await self._is_manifest(child):
            # BuildKit's cache lists layers in an index.
            self._need(child, targets)
            return None
        new = targets - self.seen[child.digest]
        self.seen[child.digest] |= new
        alive = [target for target in new if target.is_alive]
        answers = await run_limited((target.lacks(child.digest) for target in alive), at_once=_ASKED_AT_ONCE)
        lacking = {target for target, lacks in zip(alive, answers, strict=True) if lacks}
        is_proof = not bundle.is_deep and child.media_type not in INDEX_TYPES
        if not lacking and (not alive or is_proof):
            return None
        manifest = await self._fetch_child(edge)
        self._count(manifest)
        bundle.nodes[child.digest] = Node(manifest, depth, lacking)
        self._need_blobs(manifest, set(alive) if bundle.is_deep else lacking)
        return (manifest, set(alive)) if manifest.children else None

    async def _fetch_child(self, edge: _Edge) -> Manifest:
        """Get a child, or say which one the source lacks: it was deleted, or left out by a sparse copy."""
        try:
            return await self.fetch(edge.child.digest)
        except RegistryError as error:
            if not is_missing(error):
                raise
            platform = f" ({edge.child.platform})" if edge.child.platform else ""
            error.message = (
                f"{error.registry} does not have {edge.child.digest}{platform}, which the index {edge.parent.digest} "
                "lists; name the platforms that are there, with platform_mode: rewrite"
            )
            error.args = (error.message,)
            raise

    async def _is_manifest(self, child: Descriptor) -> bool:
        """Return whether an index's entry is a manifest; for an unknown media type the source is asked.

        Not whether it has such a manifest: Distribution 2 answers that with 500 for what is a blob.
        """
        if child.media_type in SCHEMA1_TYPES:
            raise ContentError(f"{child.digest} is of docker manifest schema 1, not supported", code="manifest_invalid")
        if child.media_type in INDEX_TYPES | MANIFEST_TYPES or child.digest in self.made:
            return True
        return not await self._client.has_blob(self._repository, child)

    def _need_blobs(self, manifest: Manifest, targets: set[DestinationState]) -> None:
        for blob in manifest.blobs:
            if not blob.is_foreign or self._foreign_layers == "copy":
                self._need(blob, targets)
            else:
                self.leaves_layers_out = True

    def _need(self, blob: Descriptor, targets: set[DestinationState]) -> None:
        if targets:
            self.needs.setdefault(blob.digest, Need(blob)).targets.update(targets)
            for target in targets:
                target.progress.expect(blob)

    def _count(self, manifest: Manifest) -> None:
        self._bytes += len(manifest.raw)
        if len(self.seen) > MAX_MANIFESTS or self._bytes > MAX_MANIFESTS_BYTES:
            raise ContentError("there are too many manifests below this one", code="limit_exceeded")


def _check_choice(bundle: Bundle) -> None:
    """Raise `ContentError` where an index has no image, at any depth, for the platforms that are wanted."""
    if bundle.platforms and bundle.root.children and not select_images(bundle.indexes, bundle.platforms):
        raise none_left(bundle.indexes, bundle.platforms)


class Publisher:
    """Pushes the manifests of one attempt; who refuses one fails, and no one else."""

    def __init__(self, known: KnownBlobs, *, is_first_attempt: bool) -> None:
        self._known = known
        self._is_first_attempt = is_first_attempt
        self._unlisted: dict[DestinationState, dict[Digest, dict[Digest, Manifest]]] = {}

    async def push_below(self, bundle: Bundle) -> None:
        """Push everything below a bundle's root."""
        for level in bundle.levels():
            puts = (
                self.put(
                    target,
                    node.manifest,
                    node.manifest.digest,
                    left_out=leaves_out(node.manifest, bundle.platforms),
                )
                for node in level
                for target in node.lacking
            )
            await run_limited(puts, at_once=_PUT_AT_ONCE)

    async def push_root(self, bundle: Bundle) -> None:
        """Push a bundle's root, under its tag if it has one."""
        puts = (self.put(target, bundle.root, bundle.tag or bundle.root.digest) for target in bundle.targets)
        await run_limited(puts, at_once=_PUT_AT_ONCE)

    async def put(
        self, target: DestinationState, manifest: Manifest, place: Tag | Digest, *, left_out: bool = False
    ) -> None:
        """Put one manifest; `left_out` says that children of it were not copied on purpose."""
        if not target.is_alive:
            return
        if target.dry_run is not None:
            target.dry_run.put_manifest(target.reference, place, manifest)
            self._note_unlisted(target, manifest, is_listed=target.client.has_referrers_api)
            return
        try:
            outcome = await target.client.put_manifest(target.path, place, manifest)
        except TransferError as error:
            self._learn(target, manifest, error)
            target.refuses_sparse = left_out and error.code == "manifest_rejected"
            target.fail(_explained(error, manifest, left_out=left_out), step=f"put manifest {place}")
            return
        target.progress.note("manifest_put", reference=place, digest=manifest.digest, bytes=len(manifest.raw))
        self._note_unlisted(target, manifest, is_listed=outcome.subject_acknowledged)

    def _note_unlisted(self, target: DestinationState, manifest: Manifest, *, is_listed: bool) -> None:
        if manifest.subject is not None and not is_listed:
            subjects = self._unlisted.setdefault(target, {})
            subjects.setdefault(manifest.subject.digest, {})[manifest.digest] = manifest

    def take_unlisted(self) -> dict[DestinationState, dict[Digest, dict[Digest, Manifest]]]:
        """Hand out the referrers put since the last time that a registry did not say it lists by itself."""
        unlisted, self._unlisted = self._unlisted, {}
        return unlisted

    def _learn(self, target: DestinationState, manifest: Manifest, error: TransferError) -> None:
        """Believe the registry that parts are missing, and let the next attempt ask for each of them.

        Its garbage was collected since, or it does not see yet what it just took (Artifactory, jib #534). Not where
        parts lie elsewhere on purpose: those will never be there. Where a mount said that a blob is there, the
        next attempt asks by HEAD.
        """
        if isinstance(error, RegistryError) and _PART_MISSING.intersection(error.spec_codes):
            self._known.forget_repository(target.repository)
            is_blob = not _BLOB_MISSING.isdisjoint(error.spec_codes)
            blobs = [blob.digest for blob in manifest.blobs] if is_blob else []
            is_mount_wrong = self._known.doubt_mounts(target.repository, blobs)
            may_mend = (self._is_first_attempt or is_mount_wrong) and not _foreign(manifest)
            error.temporary = error.temporary or may_mend


def _foreign(manifest: Manifest) -> bool:
    return any(blob.is_foreign for blob in manifest.blobs)


def _explained(error: TransferError, manifest: Manifest, *, left_out: bool) -> TransferError:
    """Add what may help to a refusal of a manifest."""
    if error.code != "manifest_rejected":
        return error
    if left_out:
        error.message += "; it seems to refuse an index without all its children: use platform_mode rewrite"
        error.temporary = False
    elif _foreign(manifest):
        error.message += (
            "; the image has layers that lie elsewhere: allow their hosts at the registry (Distribution: "
            "validation.manifests.urls.allow), or copy them with foreign_layers: copy"
        )
    error.args = (error.message,)
    return error
