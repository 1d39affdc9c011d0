"""Read from a source what a rule may ask about an image beside its names: creation time, artifact type.

It costs one GET of the manifest for each image, one more for an index's first child, and one for an image's
configuration where its time is asked for. Registries that count pulls (Docker Hub) count these.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.clock import parse_time
from app.domain.errors import ContentError, RegistryError
from app.domain.manifest import (
    ATTESTED_DIGEST,
    INDEX_TYPES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    Platform,
    digest_of,
    load_json_object,
)
from app.domain.reference import Digest, Repository, Tag
from app.registry.client import RegistryClient
from app.sync.destination import DestinationNote, DestinationNotes
from app.sync.selection import ImageMetadata

CREATED = "org.opencontainers.image.created"
"""Annotation with a creation time (image spec, "Pre-Defined Annotation Keys")."""
RENEWED_AFTER = timedelta(days=30)
"""How old the note of an image that is still asked for may become: well below what retention keeps."""
CONFIG_TYPES = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
"""Configurations that have a `created` of their own."""


async def read_metadata(client: RegistryClient, repository: str, target: Tag | Digest) -> ImageMetadata | None:
    """Return an image's metadata; None where there is no such image, raise `RegistryError` where it can't be read.

    Of an index it is the type it names itself, else that of its first image; the time of its annotation, else that of
    its first image. What is no valid manifest or configuration has no metadata: its copy says what is wrong with it.
    """
    try:
        return await _read(client, repository, target)
    except ContentError:
        return ImageMetadata()
    except RegistryError as error:
        if error.code == "reference_not_found":
            return None
        raise


async def _read(client: RegistryClient, repository: str, target: Tag | Digest) -> ImageMetadata:
    manifest = await client.get_manifest(repository, target)
    digest = manifest.digest
    created, artifact_type = _annotated_time(manifest), manifest.artifact_type
    if manifest.media_type in INDEX_TYPES and (created is None or artifact_type is None):
        first = _first_image(manifest)
        if first is not None:
            manifest = await client.get_manifest(repository, first.digest)
            created, artifact_type = created or _annotated_time(manifest), artifact_type or manifest.artifact_type
    if created is None and manifest.blobs and manifest.blobs[0].media_type in CONFIG_TYPES:
        created = parse_time((await _read_config(client, repository, manifest.blobs[0])).get("created"))
    return ImageMetadata(created, artifact_type, digest)


class FirstSeenNotes:
    """Remembers when an image that says no creation time was first looked at: by repository and digest, in notes.

    A note is renewed while the image is asked for; retention deletes those of images that are not any more.
    """

    def __init__(self, notes: DestinationNotes) -> None:
        self._notes = notes

    async def date(self, repository: Repository, image: ImageMetadata | None, *, now: datetime) -> ImageMetadata | None:
        """Return an image with when it was first seen, which may be now; one that says a time as it is."""
        if image is None or image.creation is not None or image.digest is None:
            return image
        noted = (await self._notes.find(repository, image.digest)).get("first_seen", "")
        first, _, renewed = noted.partition(" ")
        seen_at, renewed_at = parse_time(first) or now, parse_time(renewed)
        if renewed_at is None or now - renewed_at > RENEWED_AFTER:
            note = DestinationNote("first_seen", f"{seen_at.isoformat()} {now.isoformat()}")
            await self._notes.put(repository, image.digest, note)
        return replace(image, first_seen_at=seen_at)


def _first_image(index: Manifest) -> Descriptor | None:
    return next((child for child in index.children if ATTESTED_DIGEST not in dict(child.annotations)), None)


def _annotated_time(manifest: Manifest) -> datetime | None:
    return parse_time(dict(manifest.annotations).get(CREATED))


async def read_platform(client: RegistryClient, repository: str, image: Manifest) -> Platform | None:
    """Return what a single image runs on, as its configuration says (image spec, "OCI Image Configuration").

    None where it says nothing of use; raise `RegistryError` or `ContentError` where it can't be read.
    """
    if not image.blobs or image.blobs[0].media_type not in CONFIG_TYPES:
        return None
    config = await _read_config(client, repository, image.blobs[0])
    names = [config.get(key) for key in ("os", "architecture", "variant", "os.version")]
    os, architecture, variant, version = (name if isinstance(name, str) and name else None for name in names)
    return Platform(os, architecture, variant, version) if os and architecture else None


async def _read_config(client: RegistryClient, repository: str, config: Descriptor) -> dict[str, Any]:
    if config.size > MAX_MANIFEST_BYTES:
        raise ContentError(f"the configuration {config.digest} has {config.size} bytes", code="limit_exceeded")
    async with client.open_blob(repository, config) as reader:
        raw = b"".join([part async for part in reader])
    if digest_of(raw, config.digest.algorithm) != config.digest:
        raise ContentError(f"the configuration {config.digest} has another digest", code="digest_mismatch")
    return load_json_object(raw)
