"""Rewrites an index for a choice of platforms: other entries left out, everything else as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.domain.errors import ContentError
from app.domain.manifest import (
    INDEX_TYPES,
    Descriptor,
    Manifest,
    Platform,
    digest_of,
    load_json_object,
    parse_manifest,
    select_children,
    select_images,
)
from app.domain.reference import Digest
from app.registry.client import RegistryClient

MAX_DEPTH = 8
"""Indexes within indexes; real ones have two levels."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """An index made for a choice of platforms, with the indexes below it that were made for it."""

    root: Manifest
    made: Mapping[Digest, Manifest] = field(default_factory=dict)
    """What the source does not have, by digest; the root is among it unless it stayed as it was."""
    indexes: tuple[Manifest, ...] = ()
    """The root, if it is an index, and those left below it, made or as they were."""

    @property
    def parts(self) -> tuple[Digest, ...]:
        """What is left below the root, at any depth, that the source has."""
        below = dict.fromkeys(child.digest for index in self.indexes for child in index.children)
        return tuple(digest for digest in below if digest not in self.made)


async def rewrite(
    client: RegistryClient, repository: str, index: Manifest, *, platforms: Sequence[Platform]
) -> Rewritten:
    """Make the index that has only what the platforms need; raise `ContentError` when none is left."""
    read = await read_indexes(client, repository, index, platforms=platforms)
    making = _Making({one.digest: one for one in read}, platforms)
    root = making.smaller(index)
    if root is None:
        raise none_left(read, platforms)
    left = {one.digest: one for one in making.results.values() if one is not None}
    return Rewritten(root, making.made, tuple({root.digest: root, **left}.values()))


async def single_image(
    client: RegistryClient, repository: str, index: Manifest, *, platforms: Sequence[Platform]
) -> Rewritten:
    """Find the one image of an index that the platforms choose; raise `ContentError` for none, and for several."""
    read = await read_indexes(client, repository, index, platforms=platforms)
    images = {one.digest: one for one in select_images(read, platforms) if one.platform is not None}
    if not images:
        raise none_left(read, platforms)
    if len(images) > 1:
        there = ", ".join(str(image.platform) for image in images.values())
        message = f"{index.digest} has several images for {platforms[0]}: {there}; name one with its variant"
        raise ContentError(message, code="platform_mismatch")
    return Rewritten(await client.get_manifest(repository, next(iter(images))))


async def read_indexes(
    client: RegistryClient, repository: str, index: Manifest, *, platforms: Sequence[Platform]
) -> list[Manifest]:
    """Read the chosen indexes below an index, at any depth; return them after it.

    Raise `RegistryError`, and `ContentError` where they are nested more than `MAX_DEPTH` (8) deep.
    """
    found, level = {index.digest: index}, [index]
    for _ in range(MAX_DEPTH):
        chosen = {child.digest: child for one in level for child in select_children(one, platforms)}
        nested = [one.digest for one in chosen.values() if one.media_type in INDEX_TYPES and one.digest not in found]
        if not nested:
            return list(found.values())
        level = [await client.get_manifest(repository, digest) for digest in nested]
        found |= {one.digest: one for one in level}
    raise ContentError(f"indexes are nested more than {MAX_DEPTH} deep", code="limit_exceeded")


def none_left(indexes: Sequence[Manifest], platforms: Sequence[Platform]) -> ContentError:
    """Return the error for an index with none of the platforms asked for, and which it has.

    - `indexes`: the index, then those below it that were read
    """
    there = ", ".join(sorted({str(image.platform) for image in select_images(indexes) if image.platform}))
    wanted = ", ".join(map(str, platforms))
    message = f"{indexes[0].digest} has nothing for {wanted}; it has {there or 'no platform'}"
    return ContentError(message, code="reference_not_found")


@dataclass(frozen=True, slots=True)
class _Making:
    """The indexes that are made of those that were `read`."""

    read: Mapping[Digest, Manifest]
    platforms: Sequence[Platform]
    results: dict[Digest, Manifest | None] = field(default_factory=dict)
    """What became of each; None where nothing of it is left."""
    made: dict[Digest, Manifest] = field(default_factory=dict)

    def smaller(self, index: Manifest) -> Manifest | None:
        """Return the index with what is chosen, which may be the same; one that is listed twice is made once."""
        if index.digest not in self.results:
            existing: dict[Digest, Descriptor | Manifest] = {}
            for child in select_children(index, self.platforms):
                nested = self.read.get(child.digest)
                left = child if nested is None else self.smaller(nested)
                if left is not None:
                    existing[child.digest] = left
            self.results[index.digest] = self._with_children(index, existing) if existing else None
        return self.results[index.digest]

    def _with_children(self, index: Manifest, existing: Mapping[Digest, Descriptor | Manifest]) -> Manifest:
        document = load_json_object(index.raw)
        entries: list[dict[str, Any]] = []
        for entry in document["manifests"]:
            child = existing.get(entry["digest"])
            if isinstance(child, Manifest):
                entries.append({**entry, "digest": child.digest, "size": len(child.raw)})
            elif child is not None:
                entries.append(entry)
        if entries == document["manifests"]:
            return index
        raw = json.dumps({**document, "manifests": entries}, separators=(",", ":"), ensure_ascii=False).encode()
        smaller = parse_manifest(raw, media_type=index.media_type, digest=digest_of(raw))
        self.made[smaller.digest] = smaller
        return smaller
