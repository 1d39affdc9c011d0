"""What both sides have under a planned copy's names, and what is to be done about it: one HEAD on each side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from app.domain.errors import ContentError, CopyError, RegistryError, TransferError
from app.domain.manifest import INDEX_TYPES, SCHEMA1_TYPES, Descriptor
from app.domain.plan import CopyPreview, PlannedCopy
from app.domain.reference import Digest, Reference
from app.domain.request import Options
from app.registry.pool import RegistryClients
from app.sync.rewrite import Rewritten, rewrite

Action = Literal["copy", "update", "up_to_date", "refuse"]
KEPT = "exists_different_digest"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The source's manifest, what the destinations should have of it, and what they have."""

    source: Descriptor
    wanted: Descriptor
    """Differs from `source` where the index is rewritten for a choice of platforms."""
    rewritten: Rewritten | None
    options: Options
    copy: PlannedCopy
    found: dict[Reference, Descriptor | CopyError | None] = field(default_factory=dict)

    def previous_digest(self, destination: Reference) -> Digest | None:
        """Say what a destination's tag points to so far."""
        found = self.found[destination]
        return found.digest if isinstance(found, Descriptor) else None

    def action(self, destination: Reference) -> tuple[Action, str | None]:
        """Decide, with a reason where it is not plain; raise `CopyError` for a destination that could not be asked."""
        found = self.found[destination]
        if isinstance(found, CopyError):
            raise found
        if found is None:
            return "copy", None
        if found.digest == self.wanted.digest:
            return "up_to_date", None
        match self.options.overwrite:
            case "always":
                return "update", None
            case "never":
                return "up_to_date", KEPT
            case "fail":
                return "refuse", "tag_immutable"

    def preview(self, destination: Reference) -> CopyPreview:
        """Say what would be done; raise `CopyError` for a destination that could not be asked."""
        action, reason = self.action(destination)
        return CopyPreview(
            source=self.copy.source,
            destination=destination,
            action=action,
            digest=self.source.digest,
            previous_digest=self.previous_digest(destination),
            media_type=self.source.media_type,
            reason=reason,
        )


async def compare(clients: RegistryClients, copy: PlannedCopy, options: Options) -> Comparison:
    """Ask the source and all destinations at once; raise `CopyError` when the source can't be copied."""
    async with asyncio.TaskGroup() as group:
        asked = {place: group.create_task(_find(clients, place, wanted=copy.source)) for place in copy.destinations}
        source_asked = group.create_task(_source(clients, copy))
    outcome = source_asked.result()
    if isinstance(outcome, CopyError):
        raise outcome
    source, rewritten = outcome
    wanted = rewritten.root.descriptor if rewritten else source
    found = {place: task.result() for place, task in asked.items()}
    return Comparison(source, wanted, rewritten, options, copy, found)


async def _source(clients: RegistryClients, copy: PlannedCopy) -> tuple[Descriptor, Rewritten | None] | CopyError:
    client, path = clients.for_repository(copy.source.repository), copy.source.repository.path
    try:
        found = await client.head_manifest(path, copy.source.target)
        if found is None:
            raise _missing(copy.source)
        if found.media_type in SCHEMA1_TYPES:
            raise ContentError(
                "docker manifest schema 1 is not supported; push the image again with a current client",
                code="manifest_invalid",
            )
        if copy.platforms and copy.platform_mode == "rewrite" and found.media_type in INDEX_TYPES:
            index = await client.get_manifest(path, found.digest)
            return found, await rewrite(client, path, index, platforms=copy.platforms)
    except TransferError as error:
        return CopyError(error, side="source", step=f"read {copy.source}")
    return found, None


async def _find(clients: RegistryClients, place: Reference, *, wanted: Reference) -> Descriptor | CopyError | None:
    client = clients.for_repository(place.repository, writing=True)
    try:
        return await client.head_manifest(place.repository.path, place.target)
    except TransferError as error:
        return CopyError(error, side="destination", step=f"compare {place} with {wanted}")


def _missing(source: Reference) -> RegistryError:
    registry = source.repository.registry
    message = f"{registry} has no {source.repository.path} with {source.target}"
    return RegistryError(message, registry=registry, operation="head_manifest", code="reference_not_found", status=404)
