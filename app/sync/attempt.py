"""One attempt at a copy, for the destinations still to be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from app.domain.errors import ContentError, CopyError, TransferError
from app.domain.manifest import INDEX_TYPES, Descriptor, Manifest
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest
from app.domain.report import JobWarning
from app.domain.request import Options
from app.registry.pool import RegistryClients
from app.sync.blobs import BlobMover
from app.sync.companions import Companions, TagLists
from app.sync.compare import Comparison, compare
from app.sync.fallback import Fallbacks, add_entries, compare_entries, merges
from app.sync.graph import Bundle, Gatherer
from app.sync.known_blobs import KnownBlobs
from app.sync.open_uploads import UploadNotes
from app.sync.patience import Patience
from app.sync.publish import Publisher
from app.sync.selection import select_children
from app.sync.target import Target
from app.sync.throttle import Throttle
from app.sync.together import together

MERGED = "merged_referrers"
_ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one destination, or what is known of it where it failed."""

    how: Literal["copied", "up_to_date", "failed"]
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    warnings: tuple[JobWarning, ...] = ()


class Attempt:
    """Runs once; failures are noted in the targets, each of which fails for itself."""

    def __init__(
        self,
        clients: RegistryClients,
        copy: PlannedCopy,
        options: Options,
        *,
        blobs: KnownBlobs,
        tag_lists: TagLists,
        patience: Patience,
        throttle: Throttle | None,
        notes: UploadNotes | None,
        is_first: bool,
    ) -> None:
        self._clients = clients
        self._copy = copy
        self._options = options
        self._blobs = blobs
        source = copy.source.repository
        self._client = clients.for_repository(source)
        self._gatherer = Gatherer(self._client, source.path, foreign_layers=options.foreign_layers)
        self._companions = Companions(self._client, copy, options, gatherer=self._gatherer, tag_lists=tag_lists)
        self._fallbacks = Fallbacks(self._client, copy)
        self._mover = BlobMover(clients, source, blobs, patience=patience, throttle=throttle, notes=notes)
        self._publisher = Publisher(blobs, is_first_attempt=is_first)
        self._platforms: tuple[str, ...] = ()

    async def run(self, targets: Sequence[Target]) -> list[Outcome]:
        """Bring every target to where it should be; return what became of each, in order."""
        try:
            comparison = await compare(self._clients, self._copy, self._options)
        except CopyError as error:
            for target in targets:
                target.fail(error, step=error.step)
            return [Outcome("failed") for _ in targets]
        outcomes = {target: self._decide(comparison, target) for target in targets}
        await self._bring(comparison, outcomes)
        return [replace(outcome, warnings=tuple(target.warnings)) for target, outcome in outcomes.items()]

    def _decide(self, comparison: Comparison, target: Target) -> Outcome:
        outcome = Outcome(
            "copied",
            digest=comparison.source.digest,
            destination_digest=comparison.wanted.digest,
            media_type=comparison.source.media_type,
        )
        try:
            action, reason = comparison.action(target.reference)
        except CopyError as error:
            target.fail(error, step=error.step)
            return outcome
        if merges(comparison, target):
            action, reason = "update", None
        previous = comparison.previous_digest(target.reference)
        outcome = replace(outcome, reason=reason, previous_digest=previous)
        match action:
            case "copy" | "update":
                return outcome
            case "up_to_date":
                return replace(outcome, how="up_to_date", destination_digest=previous)
            case "refuse":
                refusal = ContentError(f"{target.reference} exists and is {previous}", code="tag_immutable")
                target.fail(refusal, step=f"compare {target.reference} with {self._copy.source}")
                return outcome

    async def _bring(self, comparison: Comparison, outcomes: dict[Target, Outcome]) -> None:
        unchanged = [target for target, outcome in outcomes.items() if outcome.how == "up_to_date" and target.is_alive]
        same = [target for target in unchanged if outcomes[target].reason is None]
        incomplete = [target for target in same if await self._lacks_children(comparison, target)]
        for target in incomplete:
            outcomes[target] = replace(outcomes[target], how="copied")
        if settled := [target for target in same if target not in incomplete]:
            with _failing(settled):
                await self._bring_new_companions(comparison, settled)
        changed = [target for target, outcome in outcomes.items() if outcome.how == "copied" and target.is_alive]
        for target in [target for target in changed if merges(comparison, target)]:
            with _failing([target]):
                outcomes[target] = await self._merge_into(comparison, target, outcomes[target])
        if replaced := [target for target in changed if outcomes[target].reason is None and target.is_alive]:
            with _failing(replaced):
                await self._copy_to(comparison, replaced)
            for target in replaced:
                outcomes[target] = replace(outcomes[target], platforms=self._platforms)

    async def _lacks_children(self, comparison: Comparison, target: Target) -> bool:
        """Say whether an index that is there was left without children that are wanted now.

        Asked only where that may be: when a choice of platforms is copied, which may be another one than last time, and
        where sparse indexes are known to lie. The destination's own copy of the index is read, not the source's.
        """
        rewritten = comparison.rewritten
        is_sparse = bool(self._copy.platforms) and rewritten is None
        if comparison.wanted.media_type not in INDEX_TYPES or (rewritten and rewritten.root.digest in rewritten.made):
            return False
        if not is_sparse and not self._blobs.may_be_sparse(target.repository):
            return False
        try:
            index = await target.client.get_manifest(target.path, comparison.wanted.digest)
        except TransferError as error:
            target.fail(error, step=f"read {target.reference}")
            return False
        chosen = select_children(index, self._copy.platforms if is_sparse else ())
        lacks = await together((target.lacks(child.digest) for child in chosen), at_once=_ASKED_AT_ONCE)
        return any(lacks)

    async def _bring_new_companions(self, comparison: Comparison, targets: Sequence[Target]) -> None:
        digest = comparison.source.digest
        if comparison.rewritten is None and await self._companions.may_be_new(digest):
            await self._push_companions(await self._companions.find(targets, [digest]))

    async def _copy_to(self, comparison: Comparison, targets: Sequence[Target]) -> None:
        root = await self._root(comparison)
        self._gatherer.made = comparison.rewritten.made if comparison.rewritten else {}
        bundle = Bundle(root, set(targets), () if comparison.rewritten else self._copy.platforms)
        chosen = select_children(root, bundle.platforms)
        self._platforms = tuple(dict.fromkeys(str(child.platform) for child in chosen if _is_told(child)))
        await self._gatherer.gather(bundle)
        companions = await self._companions.find(targets, self._gatherer.seen_at_source())
        await self._mover.move(self._gatherer.needs.values())
        await self._publisher.push_below(bundle)
        is_sparse = len(chosen) < len(root.children)
        if companions or root.subject:
            await self._put_root(targets, root, by_digest=True, is_sparse=is_sparse)
        await self._push_companions(companions)
        await self._put_root(targets, root, by_digest=False, is_sparse=is_sparse)

    async def _root(self, comparison: Comparison) -> Manifest:
        if comparison.rewritten is not None:
            return comparison.rewritten.root
        try:
            return await self._gatherer.fetch(comparison.source.digest)
        except TransferError as error:
            raise CopyError(error, side="source", step=f"read {self._copy.source}") from error

    async def _push_companions(self, bundles: Sequence[Bundle]) -> None:
        await self._mover.move(self._gatherer.needs.values())
        for bundle in bundles:
            await self._publisher.push_below(bundle)
            await self._publisher.push_root(bundle)
        await self._fallbacks.keep(self._publisher.take_unlisted())

    async def _put_root(self, targets: Sequence[Target], root: Manifest, *, by_digest: bool, is_sparse: bool) -> None:
        """Put the image itself: with its tag this is the very last step, and makes the copy visible."""
        puts = (
            self._publisher.put(
                target, root, root.digest if by_digest else target.reference.tag or root.digest, left_out=is_sparse
            )
            for target in targets
        )
        await together(puts, at_once=_ASKED_AT_ONCE)
        if is_sparse:
            for target in targets:
                self._blobs.note_sparse(target.repository)

    async def _merge_into(self, comparison: Comparison, target: Target, outcome: Outcome) -> Outcome:
        """Bring a fallback tag's referrers to where others were hung on the same subject; both are listed then."""
        index = await self._root(comparison)
        tag, entries = target.reference.tag, await compare_entries(target, index)
        if tag is None or entries is None or not entries.has_others:
            return outcome
        if not entries.missing:
            return replace(outcome, how="up_to_date", reason=MERGED, destination_digest=outcome.previous_digest)
        bundle = Bundle(index, {target})
        await self._gatherer.gather(bundle)
        await self._mover.move(self._gatherer.needs.values())
        await self._publisher.push_below(bundle)
        return replace(outcome, reason=MERGED, destination_digest=await add_entries(target, tag, entries.missing))


@contextmanager
def _failing(targets: Sequence[Target]) -> Iterator[None]:
    """Let those that were being brought something fail when the source does, and no others."""
    try:
        yield
    except CopyError as error:
        for target in targets:
            target.fail(error, step=error.step)


def _is_told(child: Descriptor) -> bool:
    """Whether an entry says what it runs on; BuildKit's attestations say unknown/unknown."""
    return child.platform is not None and child.platform.os != "unknown"
