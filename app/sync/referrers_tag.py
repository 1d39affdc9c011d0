"""The referrers tag schema (distribution spec): an index of referrers under a fallback tag, copied or merged.

Such a tag is never replaced by another index: what others hung on the subject at the destination stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from app.domain.errors import ContentError, RegistryError, TransferError
from app.domain.manifest import Descriptor, Manifest, MediaType
from app.domain.reference import Digest, InvalidReferenceError, Tag, is_fallback_tag
from app.registry.client import RegistryClient
from app.registry.referrers import fallback_tag, with_entry
from app.sync.compare import Comparison
from app.sync.destination import DestinationState
from app.sync.dry_run import DryRun

Unlisted = Mapping[DestinationState, Mapping[Digest, Mapping[Digest, Manifest]]]
"""Target → subject → referrers that the registry did not say it lists by itself."""


def merges(comparison: Comparison, target: DestinationState) -> bool:
    """Return whether a copy brings a fallback tag to where the same tag holds another index: both are kept then."""
    found = comparison.found[target.reference]
    tag = comparison.copy.source.tag
    return (
        comparison.options.referrers
        and tag is not None
        and tag == target.reference.tag
        and _subject(tag) is not None
        and isinstance(found, Descriptor)
        and found.digest != comparison.wanted.digest
        and found.media_type == comparison.wanted.media_type == MediaType.OCI_INDEX
    )


@dataclass(frozen=True, slots=True)
class Entries:
    """How a destination's index differs from the source's."""

    there: Manifest
    missing: tuple[Descriptor, ...]
    has_others: bool
    """Whether it has entries that the source's lacks; without any, the source's can take its place."""


async def compare_entries(target: DestinationState, index: Manifest) -> Entries | None:
    """Read a destination's index; one that can't be asked fails, and None is returned."""
    try:
        there = await target.client.get_manifest(target.path, target.reference.target)
    except TransferError as error:
        target.fail(error, step=f"read {target.reference}")
        return None
    known, wanted = ({entry.digest for entry in one.children} for one in (there, index))
    return Entries(there, tuple(entry for entry in index.children if entry.digest not in known), not known <= wanted)


async def add_entries(target: DestinationState, tag: Tag, entries: Entries) -> Digest | None:
    """Add what is missing to the destination's index; return its digest then."""
    subject = _subject(tag)
    if target.dry_run is not None:
        return reduce(with_entry, entries.missing, entries.there).digest
    try:
        for entry in entries.missing:
            if subject is not None and target.is_alive:
                await target.client.add_referrer_fallback(target.path, subject, entry)
        found = await target.client.find_manifest(target.path, tag)
    except TransferError as error:
        target.fail(error, step=f"add referrers to {target.reference}")
        return None
    return found.digest if found else None


@dataclass(frozen=True, slots=True)
class TagSchemaIndexes:
    """Keeps the indexes of referrers where a registry keeps no list of its own, of one source."""

    client: RegistryClient
    path: str

    async def keep(self, unlisted: Unlisted) -> None:
        """Write what the spec asks of pushing a manifest with a subject ("Pushing Manifests with Subject").

        Where the destination has no index and the source's names the same referrers, it is taken over byte for byte.
        """
        for target, subjects in unlisted.items():
            for subject, referrers in subjects.items():
                if target.is_alive and fallback_tag(subject) != target.reference.tag:
                    await self._keep(target, subject, referrers)

    async def _keep(self, target: DestinationState, subject: Digest, referrers: Mapping[Digest, Manifest]) -> None:
        tag = fallback_tag(subject)
        index = await self._source_index(tag)
        is_same = index is not None and {entry.digest for entry in index.children} == set(referrers)
        try:
            is_new = index is not None and is_same and await target.find(tag) is None
            if target.dry_run is not None:
                there = index if is_new else await self._index_there(target, tag, target.dry_run)
                known = {entry.digest for entry in there.children} if there else set()
                for referrer in referrers.values():
                    there = there if referrer.digest in known else with_entry(there, referrer.descriptor)
                if there is not None:
                    target.dry_run.put_manifest(target.reference, tag, there)
                return
            if index is not None and is_new:
                await target.client.put_manifest(target.path, tag, index)
                return
            for referrer in referrers.values():
                await target.client.add_referrer_fallback(target.path, subject, referrer.descriptor)
        except TransferError as error:
            target.fail(error, step=f"list the referrers of {subject}")

    async def _index_there(self, target: DestinationState, tag: Tag, dry_run: DryRun) -> Manifest | None:
        """Return what a dry run foresees under a tag, or what is there."""
        foreseen = dry_run.find_index(target.repository, tag)
        if foreseen is not None or await target.find(tag) is None:
            return foreseen
        return await target.client.get_manifest(target.path, tag)

    async def _source_index(self, tag: Tag) -> Manifest | None:
        try:
            index = await self.client.get_manifest(self.path, tag)
        except (RegistryError, ContentError):
            return None  # the destination's is then written entry by entry
        return index if index.media_type == MediaType.OCI_INDEX else None


def _subject(tag: Tag) -> Digest | None:
    """Read the digest out of a fallback tag; None where it is cut off there (sha512), or the tag is no such tag."""
    try:
        return Digest(tag.replace("-", ":", 1)) if is_fallback_tag(tag) else None
    except InvalidReferenceError:
        return None
