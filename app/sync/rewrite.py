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
    is_attestation,
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


async def rewrite(
    client: RegistryClient, repository: str, index: Manifest, *, platforms: Sequence[Platform]
) -> Rewritten:
    """Make the index that has only what the platforms need; raise `ContentError` when none is left."""
    made: dict[Digest, Manifest] = {}
    root = await _rewritten(client, repository, index, platforms=platforms, made=made, depth=1)
    if root is None:
        raise none_left(await read_indexes(client, repository, index, platforms=platforms), platforms)
    return Rewritten(root, made)


async def single_image(
    client: RegistryClient, repository: str, index: Manifest, *, platforms: Sequence[Platform]
) -> Rewritten:
    """Find the one image of an index that the platforms choose; raise `ContentError` for none, and for several."""
    level = [index]
    for _ in range(MAX_DEPTH):
        chosen = {child.digest: child for one in level for child in select_children(one, platforms)}
        images = [
            child
            for child in chosen.values()
            if child.media_type not in INDEX_TYPES and child.platform is not None and not is_attestation(child)
        ]
        if len(images) > 1:
            there = ", ".join(str(child.platform) for child in images)
            message = f"{index.digest} has several images for {platforms[0]}: {there}; name one with its variant"
            raise ContentError(message, code="platform_mismatch")
        if images:
            return Rewritten(await client.get_manifest(repository, images[0].digest))
        nested = [child.digest for child in chosen.values() if child.media_type in INDEX_TYPES]
        level = [await client.get_manifest(repository, digest) for digest in nested]
    raise none_left(await read_indexes(client, repository, index, platforms=platforms), platforms)


async def read_indexes(
    client: RegistryClient, repository: str, index: Manifest, *, platforms: Sequence[Platform]
) -> list[Manifest]:
    """Read the chosen indexes below an index; return them after it. Raise `RegistryError`, `ContentError`."""
    found = {index.digest: index}
    level = [index]
    for _ in range(MAX_DEPTH):
        chosen = {child.digest: child for one in level for child in select_children(one, platforms)}
        nested = [one.digest for one in chosen.values() if one.media_type in INDEX_TYPES and one.digest not in found]
        level = [await client.get_manifest(repository, digest) for digest in nested]
        found |= {one.digest: one for one in level}
    return list(found.values())


def none_left(indexes: Sequence[Manifest], platforms: Sequence[Platform]) -> ContentError:
    """Return the error for an index with none of the platforms asked for, and which it has.

    - `indexes`: the index, then those below it that were read
    """
    there = ", ".join(sorted({str(image.platform) for image in select_images(indexes) if image.platform}))
    wanted = ", ".join(map(str, platforms))
    message = f"{indexes[0].digest} has nothing for {wanted}; it has {there or 'no platform'}"
    return ContentError(message, code="reference_not_found")


async def _rewritten(
    client: RegistryClient,
    repository: str,
    index: Manifest,
    *,
    platforms: Sequence[Platform],
    made: dict[Digest, Manifest],
    depth: int,
) -> Manifest | None:
    if depth > MAX_DEPTH:
        raise ContentError(f"indexes are nested more than {MAX_DEPTH} deep", code="limit_exceeded")
    existing: dict[Digest, Descriptor | Manifest] = {}
    for child in select_children(index, platforms):
        if child.media_type not in INDEX_TYPES:
            existing[child.digest] = child
            continue
        nested = await client.get_manifest(repository, child.digest)
        smaller = await _rewritten(client, repository, nested, platforms=platforms, made=made, depth=depth + 1)
        if smaller is not None:
            existing[child.digest] = smaller
    if not existing:
        return None
    return _with_children(index, existing, made)


def _with_children(
    index: Manifest, existing: Mapping[Digest, Descriptor | Manifest], made: dict[Digest, Manifest]
) -> Manifest:
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
    made[smaller.digest] = smaller
    return smaller
