"""Everything below a manifest that destinations lack: fetched from the source, found by asking, children first.

A manifest that a destination has is proof of what is below it, as registries refuse one whose parts are missing. An
index is not: many registries take indexes whose children were left out, so its children are asked for one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.domain.errors import ContentError, CopyError, TransferError
from app.domain.manifest import INDEX_TYPES, MANIFEST_TYPES, SCHEMA1_TYPES, Descriptor, Manifest, Platform
from app.domain.reference import Digest, Tag
from app.registry.client import RegistryClient
from app.sync.rewrite import MAX_DEPTH, none_left
from app.sync.selection import select_children
from app.sync.target import Need, Target
from app.sync.together import together

MAX_MANIFESTS = 5_000
"""In one copy; the largest real indexes have a few hundred."""
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""Of all manifests of one copy together: they are held until they are pushed."""
_ASKED_AT_ONCE = 8

ForeignLayers = Literal["skip", "copy"]


@dataclass(slots=True, eq=False)
class Node:
    """A manifest, and the destinations that lack it."""

    manifest: Manifest
    depth: int
    lacking: set[Target]


@dataclass(slots=True, eq=False)
class Bundle:
    """A manifest to be pushed with all below it: the image itself, a referrer, what a digest tag names."""

    root: Manifest
    targets: set[Target]
    platforms: tuple[Platform, ...] = ()
    """What of the index is wanted; empty is all."""
    tag: Tag | None = None
    """The tag to put it under, last; by its digest alone without."""
    nodes: dict[Digest, Node] = field(default_factory=dict)
    """What is below the root, as far as somebody lacks it."""

    def levels(self) -> list[list[Node]]:
        """Divide what is below the root: the deepest first, each level needing only those before it."""
        depths = sorted({node.depth for node in self.nodes.values()}, reverse=True)
        return [[node for node in self.nodes.values() if node.depth == depth] for depth in depths]


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
        self.seen: defaultdict[Digest, set[Target]] = defaultdict(set)
        """Every manifest met, a root or below one, and the destinations it was looked at for."""
        self.made: Mapping[Digest, Manifest] = {}
        """Manifests that are made for this copy, which the source does not have."""
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
                    return
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
        self, bundle: Bundle, parents: Sequence[tuple[Manifest, set[Target]]], *, depth: int
    ) -> list[tuple[Manifest, set[Target]]]:
        """Look at one level of children; return the manifests to look below next."""
        children: dict[Digest, tuple[Descriptor, set[Target]]] = {}
        for parent, targets in parents:
            for child in _choose(parent, bundle.platforms, is_root=depth == 1):
                children.setdefault(child.digest, (child, set()))[1].update(targets)
        visits = (self._visit(bundle, child, targets, depth=depth) for child, targets in children.values())
        found = await together(visits, at_once=_ASKED_AT_ONCE)
        return [pair for pair in found if pair is not None]

    async def _visit(
        self, bundle: Bundle, child: Descriptor, targets: set[Target], *, depth: int
    ) -> tuple[Manifest, set[Target]] | None:
        if not await self._is_manifest(child):
            # BuildKit's cache lists layers in an index.
            self._need(child, targets)
            return None
        new = targets - self.seen[child.digest]
        self.seen[child.digest] |= new
        alive = [target for target in new if target.is_alive]
        answers = await together((target.lacks(child.digest) for target in alive), at_once=_ASKED_AT_ONCE)
        lacking = {target for target, lacks in zip(alive, answers, strict=True) if lacks}
        if not lacking and (not alive or child.media_type not in INDEX_TYPES):
            return None
        manifest = await self.fetch(child.digest)
        self._count(manifest)
        bundle.nodes[child.digest] = Node(manifest, depth, lacking)
        self._need_blobs(manifest, lacking)
        return (manifest, set(alive)) if manifest.children else None

    async def _is_manifest(self, child: Descriptor) -> bool:
        """Say whether an index's entry is a manifest; of a kind that nobody knows the source is asked.

        Not whether it has such a manifest: Distribution 2 answers that with 500 for what is a blob.
        """
        if child.media_type in SCHEMA1_TYPES:
            raise ContentError(f"{child.digest} is of docker manifest schema 1, not supported", code="manifest_invalid")
        if child.media_type in INDEX_TYPES | MANIFEST_TYPES or child.digest in self.made:
            return True
        return not await self._client.has_blob(self._repository, child.digest)

    def _need_blobs(self, manifest: Manifest, targets: set[Target]) -> None:
        for blob in manifest.blobs:
            if not blob.is_foreign or self._foreign_layers == "copy":
                self._need(blob, targets)

    def _need(self, blob: Descriptor, targets: set[Target]) -> None:
        if targets:
            self.needs.setdefault(blob.digest, Need(blob)).targets.update(targets)
            for target in targets:
                target.progress.expect(blob)

    def _count(self, manifest: Manifest) -> None:
        self._bytes += len(manifest.raw)
        if len(self.seen) > MAX_MANIFESTS or self._bytes > MAX_MANIFEST_BYTES:
            raise ContentError("there are too many manifests below this one", code="limit_exceeded")


def _choose(parent: Manifest, platforms: Sequence[Platform], *, is_root: bool) -> tuple[Descriptor, ...]:
    chosen = select_children(parent, platforms)
    if is_root and parent.children and not chosen:
        raise none_left(parent, platforms)
    return chosen
