"""The copy algorithm: compare both sides, walk the graph, bring blobs, push manifests, move the tag last.

One planned copy goes to all its destinations; each fails for itself. What was temporary is tried again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import Struct, structs

from app.concurrency import back_off, run_limited
from app.domain.errors import ContentError, CopyError, RegistryError, TransferError
from app.domain.manifest import (
    INDEX_TYPES,
    Descriptor,
    Manifest,
    leaves_out,
    missing_platforms,
    select_children,
    select_images,
)
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Reference, Repository
from app.domain.report import (
    CHANGED_SINCE_PLAN,
    CompanionNames,
    CopyResult,
    ExecutionError,
    JobWarning,
    PlanAction,
)
from app.domain.request import Options, PlatformMode
from app.domain.retry_policy import RetryPolicy
from app.registry.client import RegistryClients
from app.registry.creation import advice_on_missing
from app.registry.http.errors import is_missing
from app.registry.ratelimit.token_bucket import TokenBucket
from app.sync.blobs import BlobMover
from app.sync.compare import Comparison, DigestLists, MissingTags, compare
from app.sync.destination import DestinationNote, DestinationNotes, DestinationState, Observe, Progress
from app.sync.dry_run import DryRun
from app.sync.graph import Bundle, Gatherer, Publisher
from app.sync.image_metadata import read_platform
from app.sync.known_blobs import KnownBlobs, UploadNotes
from app.sync.referrers import Companions, SourceLists
from app.sync.referrers_tag import TagSchemaIndexes, add_entries, compare_entries, merges
from app.sync.rewrite import read_indexes


@dataclass(slots=True, eq=False)
class _Destination:
    """One destination over all attempts."""

    progress: Progress
    dry_run: DryRun | None
    attempts: int = 0
    outcome: Outcome | None = None
    error: CopyError | None = None
    paused_seconds: float = 0.0
    has_created: bool = False
    """Whether its repository was made because it was missing; no second time."""

    @property
    def reference(self) -> Reference:
        return self.progress.destination


SYNC_RETRIES = RetryPolicy(attempts=3, first_delay=1.0, max_delay=30.0, jitter=0.5, max_pause=30.0)
"""Of a blob that broke off, and of an image at once. For longer pauses, all together, the copy ends and is made again
later: its worker has others to make."""


class Copier:
    """Copies images: compare both sides, bring over what is missing, the tag last.

    - `clients`: the registries of one job
    - `blobs`: which repository holds which blob; shared by all copiers of the process
    - `rate_limit`: bytes per second of the job; unlimited by default
    - `retry_policy`: for blobs and images; `SYNC_RETRIES` by default: 3 attempts, 1 to 30 s apart
    - `notes`: where open uploads are noted for another worker; by default they are cancelled
    - `missing`: what is known of tags that destinations lack; by default what this copier finds out
    - `dry_run`: with it nothing is written anywhere; results say what a copy would do

    Order and manifests: distribution spec, "Pushing manifests" and "Listing Referrers".
    """

    def __init__(
        self,
        clients: RegistryClients,
        blobs: KnownBlobs,
        *,
        rate_limit: TokenBucket | None = None,
        retry_policy: RetryPolicy | None = None,
        notes: UploadNotes | None = None,
        destination_notes: DestinationNotes | None = None,
        digest_lists: DigestLists | None = None,
        missing: MissingTags | None = None,
        dry_run: DryRun | None = None,
    ) -> None:
        self._clients = clients
        self._digest_lists = digest_lists or DigestLists()
        self._missing = missing or MissingTags()
        self._dry_run = dry_run
        self._blobs = blobs
        self._rate_limit = rate_limit
        self._retry_policy = retry_policy or SYNC_RETRIES
        self._notes = notes
        stored = destination_notes or DestinationNotes.in_memory()
        self._destination_notes = stored if dry_run is None else stored.read_only()
        self._lists = SourceLists()
        self._seen_blobs: set[tuple[Repository, Digest]] = set()

    async def copy(self, copy: PlannedCopy, options: Options, *, observe: Observe) -> tuple[CopyResult, ...]:
        """Copy one source to all its destinations; return one result for each, in order.

        A `TransferError` becomes a failed result. What was temporary, and no repeated request could mend, is tried
        again, for the destinations it concerned; exhausted retries of requests are left to later attempts of the image.
        """
        look = self._dry_run.look(copy.destinations) if self._dry_run is not None else None
        destinations = [_Destination(Progress(place, observe), look) for place in copy.destinations]
        left = destinations
        while left:
            await self._try(copy, options, left)
            left = [destination for destination in left if self._may_come_good(destination)]
            if left:
                asked_for = max(_pause(destination.error) for destination in left)
                await back_off(self._retry_policy, max(item.attempts for item in left), at_least=asked_for)
        return tuple(_result(destination, is_dry=self._dry_run is not None) for destination in destinations)

    async def _try(self, copy: PlannedCopy, options: Options, left: Sequence[_Destination]) -> None:
        by_mode: dict[PlatformMode, list[_Destination]] = {}
        for destination in left:
            by_mode.setdefault(await self._platform_mode(copy, destination), []).append(destination)
        for mode, destinations in by_mode.items():
            wanted = copy if mode == copy.platform_mode else structs.replace(copy, platform_mode=mode)
            await self._try_in(wanted, options, destinations, is_auto=copy.platform_mode == "auto")
        await self._expect_moved(copy.source, left)

    async def _platform_mode(self, copy: PlannedCopy, destination: _Destination) -> PlatformMode:
        """Return how an index is reduced: `auto` is sparse, until a repository was found to refuse that."""
        if copy.platform_mode != "auto" or not copy.platforms:
            return copy.platform_mode
        notes = await self._destination_notes.find(destination.reference.repository, None)
        return "rewrite" if "refuses_sparse" in notes else "sparse"

    async def _try_in(
        self, copy: PlannedCopy, options: Options, destinations: Sequence[_Destination], *, is_auto: bool
    ) -> None:
        overwrites = options.overwrite == "always"
        targets = []
        for destination in destinations:
            destination.attempts += 1
            client = self._clients.for_repository(destination.reference.repository, writing=True)
            progress, dry_run = destination.progress, destination.dry_run
            targets.append(DestinationState(destination.reference, client, progress, overwrites, dry_run))
        references = tuple(target.reference for target in targets)
        attempt = Attempt(
            self._clients,
            copy if references == copy.destinations else structs.replace(copy, destinations=references),
            options,
            blobs=self._blobs,
            seen_blobs=self._seen_blobs if options.force else None,
            lists=self._lists,
            retry_policy=self._retry_policy,
            rate_limit=self._rate_limit,
            notes=self._notes,
            destination_notes=self._destination_notes,
            digest_lists=self._digest_lists,
            missing=self._missing,
            dry_run=destinations[0].dry_run,
            is_first=all(destination.attempts == 1 for destination in destinations),
        )
        outcomes = await attempt.run(targets)
        for destination, target, outcome in zip(destinations, targets, outcomes, strict=True):
            destination.outcome, destination.error = outcome, target.error
            await self._create_missing(destination, target)
            if is_auto and copy.platform_mode == "rewrite" and outcome.reason is None and outcome.is_rewritten:
                destination.outcome = structs.replace(outcome, reason=REWRITTEN)
            if target.refuses_sparse:
                note = DestinationNote("refuses_sparse")
                await self._destination_notes.put(target.repository, None, note)
                if is_auto and destination.error is not None:
                    destination.error.temporary = True  # the next attempt makes a smaller index

    async def _create_missing(self, destination: _Destination, target: DestinationState) -> None:
        """Make a repository that a push found missing, where its registry's entry says so, and have it tried again."""
        cause = _registry_error(destination.error)
        if cause is None or cause.code != "repository_missing" or destination.has_created:
            return
        if destination.error is None or destination.error.side != "destination":
            return
        destination.has_created = True
        try:
            await target.client.create_repository(target.path)
        except RegistryError as error:
            destination.error = CopyError(error, side="destination", step=f"make {target.repository}")
            return
        if target.client.entry.create_missing is not None:
            target.progress.note("repository_created", repository=target.path)
            destination.error.temporary = True
        elif advice := advice_on_missing(target.client.entry):
            destination.error.message += f"; {advice}"

    async def _expect_moved(self, source: Reference, left: Sequence[_Destination]) -> None:
        """Try again what the source no longer had because its tag moved while it was copied: what is new is copied."""
        gone = [one for one in left if one.error and one.error.side == "source" and _is_gone(one.error)]
        digests = {one.outcome.digest for one in gone if one.outcome and one.outcome.digest}
        if source.tag is None or not digests:
            return
        client = self._clients.for_repository(source.repository)
        with suppress(TransferError):
            found = await client.head_manifest(source.repository.path, source.tag)
            for destination in gone:
                if destination.error and destination.outcome and found and found.digest != destination.outcome.digest:
                    destination.error.temporary = True

    def _may_come_good(self, destination: _Destination) -> bool:
        error = destination.error
        if error is None or not error.temporary:
            return False
        if asked_for := error.asked_pause:
            destination.paused_seconds += asked_for
            return destination.paused_seconds < self._retry_policy.max_pause
        if (cause := _registry_error(error)) is not None and cause.retries_exhausted:
            return False
        return self._retry_policy.allows(destination.attempts)


def _registry_error(error: CopyError | None) -> RegistryError | None:
    cause = error.cause if error is not None else None
    while isinstance(cause, CopyError):
        cause = cause.cause
    return cause if isinstance(cause, RegistryError) else None


def _is_gone(error: CopyError) -> bool:
    cause = _registry_error(error)
    return cause is not None and is_missing(cause)


def _pause(error: CopyError | None) -> float:
    cause = _registry_error(error)
    return (cause.retry_after or 0.0) if cause is not None else 0.0


def _result(destination: _Destination, *, is_dry: bool) -> CopyResult:
    outcome = destination.outcome or Outcome("failed", "failed")
    cause = _registry_error(destination.error)
    how: Literal["copied", "planned", "up_to_date", "failed"] = outcome.how
    return CopyResult(
        destination=destination.reference,
        outcome="failed" if destination.error else "planned" if is_dry and how == "copied" else how,
        action="failed" if destination.error and outcome.action != "refused" else outcome.action,
        reason=outcome.reason,
        digest=outcome.digest,
        destination_digest=None if destination.error else outcome.destination_digest,
        previous_digest=outcome.previous_digest,
        media_type=outcome.media_type,
        platforms=outcome.platforms,
        companions=CompanionNames.of(destination.progress.companions),
        tally=destination.progress.tally,
        error=ExecutionError.of(destination.error) if destination.error else None,
        warnings=outcome.warnings,
        attempts=destination.attempts,
        steps=destination.progress.steps,
        retry_after=destination.error.asked_pause if destination.error else None,
        retry_later=cause is not None and cause.retries_exhausted and cause.registry_responded,
    )


MERGED = "merged_referrers"
REWRITTEN = "index_rewritten"
"""The destination takes no index without all its children, so that a smaller one was made."""
PLATFORM_MISMATCH = "platform_mismatch"
"""It is a single image, for another platform than asked for."""
REPAIRED = "repaired"
"""The tag was right, and something below it was missing."""
_ASKED_AT_ONCE = 8
MAX_PARTS = 1_000
"""Manifests below an index that are looked at, while it is unchanged, for what was hung on them later."""


class Outcome(Struct, frozen=True, gc=False):
    """What became of one destination, or what is known of it where it failed."""

    how: Literal["copied", "up_to_date", "failed"]
    action: PlanAction
    """What was found to be done."""
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    warnings: tuple[JobWarning, ...] = ()

    @property
    def is_rewritten(self) -> bool:
        """Whether the destination has an index that was made for it."""
        return self.how != "failed" and self.destination_digest not in {None, self.digest}


class Attempt:
    """Runs once; failures are noted in the targets, each of which fails for itself."""

    def __init__(
        self,
        clients: RegistryClients,
        copy: PlannedCopy,
        options: Options,
        *,
        blobs: KnownBlobs,
        seen_blobs: set[tuple[Repository, Digest]] | None,
        lists: SourceLists,
        retry_policy: RetryPolicy,
        rate_limit: TokenBucket | None,
        notes: UploadNotes | None,
        destination_notes: DestinationNotes,
        digest_lists: DigestLists,
        missing: MissingTags,
        dry_run: DryRun | None,
        is_first: bool,
    ) -> None:
        self._digest_lists = digest_lists
        self._missing = missing
        self._dry_run = dry_run
        self._clients = clients
        self._copy = copy
        self._options = options
        self._notes = destination_notes
        source = copy.source.repository
        self._client = clients.for_repository(source)
        self._gatherer = Gatherer(self._client, source.path, foreign_layers=options.foreign_layers)
        self._companions = Companions(self._client, copy, options, gatherer=self._gatherer, lists=lists)
        self._fallbacks = TagSchemaIndexes(self._client, source.path)
        self._mover = BlobMover(
            clients,
            source,
            blobs,
            retry_policy=retry_policy,
            rate_limit=rate_limit,
            notes=notes,
            seen=seen_blobs,
            dry_run=dry_run,
        )
        self._publisher = Publisher(blobs, is_first_attempt=is_first)
        self._platforms: tuple[str, ...] = ()
        self._reason: str | None = None

    async def run(self, targets: Sequence[DestinationState]) -> list[Outcome]:
        """Bring every target to where it should be; return what became of each, in order."""
        try:
            # By the registries' lists where a digest says all there is to know, and there are many to compare.
            is_listed = self._copy.many and not self._copy.platforms and not self._options.force
            lists = self._digest_lists if is_listed else None
            comparison = await compare(
                self._clients, self._copy, self._options, missing=self._missing, lists=lists, dry_run=self._dry_run
            )
        except CopyError as error:
            for target in targets:
                target.fail(error, step=error.step)
            return [Outcome("failed", "failed") for _ in targets]
        targets[0].warnings += self._digest_lists.take_warnings()
        outcomes = {target: self._decide(comparison, target) for target in targets}
        await self._bring(comparison, outcomes)
        rule = self._copy.rule
        return [
            structs.replace(outcome, warnings=tuple(replace(warning, rule=rule) for warning in target.warnings))
            if target.warnings
            else outcome
            for target, outcome in outcomes.items()
        ]

    def _decide(self, comparison: Comparison, target: DestinationState) -> Outcome:
        source, wanted = comparison.source, comparison.wanted.digest
        media_type = source.media_type or None
        try:
            action, reason = comparison.action(target.reference)
        except CopyError as error:
            target.fail(error, step=error.step)
            return Outcome("failed", "failed", digest=source.digest, destination_digest=wanted, media_type=media_type)
        if reason != CHANGED_SINCE_PLAN and _merges(comparison, target):
            action, reason = "update", None
        previous = comparison.previous_digest(target.reference)
        target.progress.note("compared", action=action, source_digest=source.digest, was=previous)
        if action == "refused":
            refusal = self._refusal(comparison, target, reason)
            target.fail(refusal, step=f"compare {target.reference} with {self._copy.source}")
        is_right = action == "up_to_date"
        return Outcome(
            "up_to_date" if is_right else "copied",
            action,
            reason,
            digest=source.digest,
            destination_digest=previous if is_right else wanted,
            previous_digest=previous,
            media_type=media_type,
        )

    def _refusal(self, comparison: Comparison, target: DestinationState, reason: str | None) -> TransferError:
        place, previous = target.reference, comparison.previous_digest(target.reference)
        if reason != CHANGED_SINCE_PLAN:
            return ContentError(f"{place} exists and is {previous}", code="tag_immutable")
        seen, is_source = self._copy.seen[place], comparison.source.digest != self._copy.seen[place].source
        which, was, now = (
            (self._copy.source, seen.source, comparison.source.digest)
            if is_source
            else (place, seen.destination or "not there", previous or "gone")
        )
        moved = ContentError(f"{which} was {was} when it was planned, and is {now} now; plan it again", code=reason)
        side: Literal["source", "destination"] = "source" if is_source else "destination"
        return CopyError(moved, side=side, step=f"compare {place} with {self._copy.source}")

    async def _bring(self, comparison: Comparison, outcomes: dict[DestinationState, Outcome]) -> None:
        unchanged = [target for target, outcome in outcomes.items() if outcome.how == "up_to_date" and target.is_alive]
        same = [target for target in unchanged if outcomes[target].reason is None]
        repaired = await self._repair(comparison, same)
        for target in repaired:
            outcomes[target] = structs.replace(outcomes[target], how="copied", action="update", reason=REPAIRED)
        same = [target for target in same if target not in repaired]
        incomplete = [target for target in same if await self._lacks_children(comparison, target)]
        for target in incomplete:
            outcomes[target] = structs.replace(outcomes[target], how="copied", action="update")
        if settled := [target for target in same if target not in incomplete]:
            if (rewritten := comparison.rewritten) is not None:
                self._warn_of_platforms(rewritten.indexes, settled)
            with _failing(settled):
                await self._bring_new_companions(comparison, settled)
        changed = [target for target, outcome in outcomes.items() if outcome.how == "copied" and target.is_alive]
        for target in [target for target in changed if _merges(comparison, target)]:
            with _failing([target]):
                outcomes[target] = await self._merge_into(comparison, target, outcomes[target])
        if replaced := [target for target in changed if outcomes[target].reason is None and target.is_alive]:
            with _failing(replaced):
                await self._copy_to(comparison, replaced)
            for target in replaced:
                outcomes[target] = structs.replace(outcomes[target], platforms=self._platforms, reason=self._reason)

    async def _repair(self, comparison: Comparison, targets: Sequence[DestinationState]) -> list[DestinationState]:
        """Look below tags that are right for what is missing, and bring it; return the targets something came to.

        With `force` everywhere, else where layers were left out before that are wanted now.
        """
        wanted = comparison.wanted.digest
        doubtful = [
            target
            for target in targets
            if self._options.force
            or (
                self._options.foreign_layers == "copy"
                and "lacks_foreign_layers" in await self._notes.find(target.repository, wanted)
            )
        ]
        if not doubtful:
            return []
        before = {target: target.progress.sent_blobs for target in doubtful}
        lacked: set[DestinationState] = set()
        with _failing(doubtful):
            root, bundle = await self._gather(comparison, doubtful, is_deep=True)
            lacked = {target for node in bundle.nodes.values() for target in node.lacking}
            await self._mover.move(self._gatherer.needs.values())
            await self._publisher.push_below(bundle)
            companions = await self._companions.find(doubtful, self._gatherer.seen_at_source())
            lacked.update(target for companion in companions for target in companion.targets)
            await self._push_companions(companions)
            await self._note_completeness(doubtful, root.digest, is_sparse=_is_sparse(bundle))
        repaired = [
            target
            for target in doubtful
            if target.is_alive and (target in lacked or target.progress.sent_blobs > before[target])
        ]
        for target in repaired:
            target.progress.companions |= self._companions.found[target]
        return repaired

    async def _lacks_children(self, comparison: Comparison, target: DestinationState) -> bool:
        """Return whether an index that is there was left without children that are wanted now.

        Asked only where that may be: when a choice of platforms is copied, which may be another one than last time, and
        for an index that was noted to lack some. The destination's own copies of it, and of the indexes below it, are
        read, not the source's.
        """
        rewritten, wanted = comparison.rewritten, comparison.wanted
        is_sparse = bool(self._copy.platforms) and rewritten is None
        is_image = bool(wanted.media_type) and wanted.media_type not in INDEX_TYPES  # some lists say no media type
        if is_image or (rewritten and rewritten.root.digest in rewritten.made):
            return False
        if not is_sparse and "lacks_children" not in await self._notes.find(target.repository, wanted.digest):
            return False
        indexes: list[Manifest] = []
        digests = [wanted.digest]
        for digest in digests:  # and for those that are added on the way
            try:
                index = await target.client.get_manifest(target.path, digest)
            except TransferError as error:
                target.fail(error, step=f"read {target.reference}")
                return False
            chosen = select_children(index, self._copy.platforms if is_sparse else ())
            if any(await run_limited((target.lacks(child.digest) for child in chosen), at_once=_ASKED_AT_ONCE)):
                return True
            if not target.is_alive:
                return False
            indexes.append(index)
            below = [child.digest for child in chosen if child.media_type in INDEX_TYPES]
            digests += [one for one in below if one not in digests][: MAX_PARTS - len(digests)]
        if is_sparse:
            self._warn_of_platforms(indexes, [target])
        elif target.is_alive:
            await self._notes.drop(target.repository, wanted.digest, "lacks_children")
        return False

    async def _bring_new_companions(self, comparison: Comparison, targets: Sequence[DestinationState]) -> None:
        """Bring what was hung on an image, or on one below an index, since it was copied.

        That is one request for each, where nothing is; which are below an index is noted.
        """
        subject, rewritten = comparison.wanted.digest, comparison.rewritten
        if self._options.companions != "always":
            return
        parts = await self._parts(comparison, targets)
        is_made = rewritten is not None and subject in rewritten.made
        subjects = [*parts] if is_made else [subject, *parts]
        found = await self._fingerprint(subjects, targets) if subjects else None
        if found is None:
            return
        noted = [await self._notes.find(target.repository, subject) for target in targets]
        behind = [one for one, notes in zip(targets, noted, strict=True) if notes.get("companions") != found]
        if behind:
            await self._push_companions(await self._companions.find(behind, subjects))
            await self._note_companions(behind, subject, found)

    async def _parts(self, comparison: Comparison, targets: Sequence[DestinationState]) -> tuple[Digest, ...]:
        """List the manifests below an unchanged index: as noted, else as its copy at the destination says."""
        index, rewritten = comparison.wanted, comparison.rewritten
        if rewritten is not None:
            return self._few(rewritten.parts, targets)
        if index.media_type and index.media_type not in INDEX_TYPES:  # some lists say no media type
            return ()
        for target in targets:
            if noted := (await self._notes.find(target.repository, index.digest)).get("parts"):
                return tuple(map(Digest, noted.split()))
        if not index.media_type:
            return ()
        client, path, platforms = targets[0].client, targets[0].path, self._copy.platforms
        try:
            there = await client.get_manifest(path, index.digest)
            indexes = await read_indexes(client, path, there, platforms=platforms)
        except TransferError as error:
            if not (isinstance(error, RegistryError) and is_missing(error)):  # one that a dry run only foresees
                targets[0].fail(error, step=f"read {targets[0].reference}")
            return ()
        parts = dict.fromkeys(child.digest for one in indexes for child in select_children(one, platforms))
        return await self._note_parts(targets, index.digest, self._few(tuple(parts), targets))

    def _few(self, parts: tuple[Digest, ...], targets: Sequence[DestinationState]) -> tuple[Digest, ...]:
        """Return the parts of an index; none, and a warning, where there are too many to ask about each."""
        if len(parts) <= MAX_PARTS:
            return parts
        for target in targets:
            target.warnings.append(JobWarning("parts_not_asked_for", (str(self._copy.source),)))
        return ()

    async def _note_parts(
        self, targets: Sequence[DestinationState], index: Digest, parts: Sequence[Digest]
    ) -> tuple[Digest, ...]:
        """Note which manifests are below an index, for looks at what is hung on them later."""
        if not 0 < len(parts) <= MAX_PARTS:
            return ()
        for target in targets:
            if target.is_alive:
                await self._notes.put(target.repository, index, DestinationNote("parts", " ".join(sorted(parts))))
        return tuple(parts)

    async def _fingerprint(self, subjects: Sequence[Digest], targets: Sequence[DestinationState]) -> str | None:
        """Ask what hangs on images that are there; a refusal is a warning, as the image itself is right."""
        try:
            return await self._companions.fingerprint(subjects, targets)
        except TransferError as error:
            if error.temporary:
                raise CopyError(error, side="source", step="read referrers") from error
            for target in targets:
                message = f"{self._copy.source}: what belongs to it can't be read: {error.message}"
                target.warnings.append(JobWarning("companions_unreadable", (message,)))
            return None

    async def _note_companions(self, targets: Sequence[DestinationState], subject: Digest, found: str) -> None:
        for target in targets:
            if target.is_alive:
                await self._notes.put(target.repository, subject, DestinationNote("companions", found))

    async def _forget_companions(self, targets: Sequence[DestinationState], subject: Digest) -> None:
        """Forget that an image had its companions: it was brought anew, without them."""
        for target in targets:
            if "companions" in await self._notes.find(target.repository, subject):
                await self._notes.drop(target.repository, subject, "companions")

    async def _note_completeness(self, targets: Sequence[DestinationState], digest: Digest, *, is_sparse: bool) -> None:
        """Note what an image lacks on purpose, for later runs that want it."""
        for target in targets:
            if not target.is_alive:
                continue
            if is_sparse:
                await self._notes.put(target.repository, digest, DestinationNote("lacks_children"))
            if self._gatherer.leaves_layers_out:
                await self._notes.put(target.repository, digest, DestinationNote("lacks_foreign_layers"))
            elif self._options.foreign_layers == "copy":
                await self._notes.drop(target.repository, digest, "lacks_foreign_layers")

    async def _copy_to(self, comparison: Comparison, targets: Sequence[DestinationState]) -> None:
        root, bundle = await self._gather(comparison, targets, is_deep=self._options.force)
        if indexes := bundle.indexes:
            chosen = select_images(indexes, bundle.platforms)
            self._platforms = tuple(dict.fromkeys(str(child.platform) for child in chosen if _is_named(child)))
            self._warn_of_platforms(indexes, targets)
        await self._check_platform(comparison, root, targets=targets)
        await self._create_first(comparison, targets)
        subjects = self._gatherer.seen_at_source()
        companions = await self._companions.find(targets, subjects)
        await self._mover.move(self._gatherer.needs.values())
        await self._publisher.push_below(bundle)
        left_out = leaves_out(root, bundle.platforms)
        if companions or root.subject:
            await self._put_root(targets, root, by_digest=True, left_out=left_out)
        await self._push_companions(companions)
        for target in targets:
            if target.is_alive:  # also what another image, copied at the same time, brought or brings
                target.progress.companions |= self._companions.found[target]
        await self._put_root(targets, root, by_digest=False, left_out=left_out)
        await self._note_completeness(targets, root.digest, is_sparse=_is_sparse(bundle))
        if self._options.companions == "always" and comparison.rewritten is None:
            parts = [digest for digest in subjects if digest != root.digest]
            await self._note_parts(targets, root.digest, parts)
        if companions and subjects:
            found = await self._fingerprint(subjects, targets)
            if found is not None:
                await self._note_companions(targets, root.digest, found)
        elif self._options.companions == "never":
            await self._forget_companions(targets, root.digest)

    def _warn_of_platforms(self, indexes: Sequence[Manifest], targets: Sequence[DestinationState]) -> None:
        names = tuple(f"{self._copy.source} ({one})" for one in missing_platforms(indexes, self._copy.platforms))
        for target in targets if names else ():
            target.warnings.append(JobWarning("platform_missing", names, len(names)))

    async def _check_platform(
        self, comparison: Comparison, root: Manifest, *, targets: Sequence[DestinationState]
    ) -> None:
        """Say so where a single image is for another platform than asked for; there is nothing to choose from."""
        if not self._copy.platforms or root.media_type in INDEX_TYPES or comparison.rewritten is not None:
            return
        with suppress(TransferError):  # its copy says what is wrong with the configuration
            found = await read_platform(self._client, self._copy.source.repository.path, root)
            if found is None:
                return
            self._platforms = (str(found),)
            if not any(wanted.selects(found) for wanted in self._copy.platforms):
                self._reason = PLATFORM_MISMATCH
                for target in targets:
                    target.warnings.append(JobWarning("platform_missing", (f"{self._copy.source} (it is {found})",)))

    async def _create_first(self, comparison: Comparison, targets: Sequence[DestinationState]) -> None:
        """Make repositories where the first push would, otherwise than the entry says."""
        for target in targets:
            if not target.client.creates_first(target.path) or comparison.previous_digest(target.reference) is not None:
                continue
            try:
                if await target.client.create_repository(target.path):
                    target.progress.note("repository_created", repository=target.path)
            except RegistryError as error:
                target.fail(error, step=f"make {target.repository}")

    async def _gather(
        self, comparison: Comparison, targets: Sequence[DestinationState], *, is_deep: bool
    ) -> tuple[Manifest, Bundle]:
        """Get the image, and find what each target lacks of it."""
        root = await self._root(comparison)
        self._gatherer.made = comparison.rewritten.made if comparison.rewritten else {}
        platforms = () if comparison.rewritten else self._copy.platforms
        bundle = Bundle(root, set(targets), platforms, is_deep=is_deep)
        await self._gatherer.gather(bundle)
        return root, bundle

    async def _root(self, comparison: Comparison) -> Manifest:
        if comparison.rewritten is not None:
            return comparison.rewritten.root
        if comparison.manifest is not None:
            return comparison.manifest
        try:
            return await self._gatherer.fetch(comparison.source.digest)
        except TransferError as error:
            raise CopyError(error, side="source", step=f"read {self._copy.source}") from error

    async def _push_companions(self, bundles: Sequence[Bundle]) -> None:
        for bundle in bundles:
            for target in bundle.targets:
                target.progress.companions.add(bundle.tag or bundle.root.digest)
        await self._mover.move(self._gatherer.needs.values())
        for bundle in bundles:
            await self._publisher.push_below(bundle)
            await self._publisher.push_root(bundle)
        if unlisted := self._publisher.take_unlisted():
            await self._fallbacks.keep(unlisted)

    async def _put_root(
        self, targets: Sequence[DestinationState], root: Manifest, *, by_digest: bool, left_out: bool
    ) -> None:
        """Put the image itself: with its tag this is the very last step, and makes the copy visible."""
        puts = (
            self._publisher.put(
                target, root, root.digest if by_digest else target.reference.tag or root.digest, left_out=left_out
            )
            for target in targets
        )
        await run_limited(puts, at_once=_ASKED_AT_ONCE)

    async def _merge_into(self, comparison: Comparison, target: DestinationState, outcome: Outcome) -> Outcome:
        """Bring a fallback tag's referrers to where others were hung on the same subject; both are listed then."""
        index = await self._root(comparison)
        tag, entries = target.reference.tag, await compare_entries(target, index)
        if tag is None or entries is None or not entries.has_others:
            return outcome
        if not entries.missing:
            return structs.replace(
                outcome,
                how="up_to_date",
                action="up_to_date",
                reason=MERGED,
                destination_digest=outcome.previous_digest,
            )
        bundle = Bundle(index, {target})
        await self._gatherer.gather(bundle)
        await self._mover.move(self._gatherer.needs.values())
        await self._publisher.push_below(bundle)
        return structs.replace(outcome, reason=MERGED, destination_digest=await add_entries(target, tag, entries))


def _merges(comparison: Comparison, target: DestinationState) -> bool:
    """Whether a fallback tag's index is added to that of a destination, which can only be where there is one."""
    return comparison.previous_digest(target.reference) is not None and merges(comparison, target)


@contextmanager
def _failing(targets: Sequence[DestinationState]) -> Iterator[None]:
    """Let those that were being brought something fail when the source does, and no others."""
    try:
        yield
    except CopyError as error:
        for target in targets:
            target.fail(error, step=error.step)


def _is_sparse(bundle: Bundle) -> bool:
    """Whether an index, or one below it, is put without all its children."""
    return any(leaves_out(index, bundle.platforms) for index in bundle.indexes)


def _is_named(child: Descriptor) -> bool:
    """Whether an entry says what it runs on; BuildKit's attestations say unknown/unknown."""
    return child.platform is not None and child.platform.os != "unknown"
