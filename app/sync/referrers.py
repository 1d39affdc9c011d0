"""What belongs to an image without being below it: referrers, and the digest tags that cosign pushes.

Both are pushed before the image's tag moves. A client that sees the tag finds the signatures, and a copy that broke off
between the two is not taken for done by the next one, which compares tags only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import cast

from app.concurrency import run_limited
from app.domain.errors import ContentError, CopyError, RegistryError, TransferError
from app.domain.manifest import Descriptor, Manifest
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Tag, digest_tags_of
from app.domain.report import JobWarning
from app.domain.request import Options
from app.registry.client import RegistryClient
from app.registry.http.errors import is_missing
from app.registry.listing.pages import ListWarnings
from app.registry.referrers import fallback_tag
from app.sync.destination import DestinationState, fingerprint
from app.sync.graph import Bundle, Gatherer

MAX_REFERRERS = 2_000
"""Of one image, theirs included; each costs requests on both sides."""
MAX_LISTED = 1_000
"""Tags that are listed to see which belong to an image that was named outright: one page."""
_ASKED_AT_ONCE = 8


class SourceLists:
    """What hangs on digests at sources: tags and referrers, listed at most once while a copier lives."""

    def __init__(self) -> None:
        self._tags: dict[tuple[str, str], frozenset[Tag] | None] = {}
        self._referrers: dict[tuple[str, str, Digest], tuple[Descriptor, ...]] = {}

    async def tags(self, client: RegistryClient, repository: str, *, most: int | None = None) -> frozenset[Tag] | None:
        """List a repository's tags, or remember them; None for a longer list than `most`, which is not read on."""
        key = (client.entry.registry, repository)
        if key not in self._tags:
            found: list[Tag] = []
            async with aclosing(cast("AsyncGenerator[Tag]", client.list_tags(repository))) as tags:
                async for tag in tags:
                    found.append(tag)
                    if most is not None and len(found) > most:
                        self._tags[key] = None
                        return None
            self._tags[key] = frozenset(found)
        return self._tags[key]

    async def referrers(
        self, client: RegistryClient, repository: str, digest: Digest, *, list_warnings: ListWarnings | None = None
    ) -> tuple[Descriptor, ...]:
        """List a manifest's referrers, or remember them."""
        key = (client.entry.registry, repository, digest)
        if key not in self._referrers:
            found = await client.list_referrers(repository, digest, list_warnings=list_warnings)
            self._referrers[key] = found
        return self._referrers[key]


class Companions:
    """Finds what belongs to the manifests of one copy, and what of it destinations lack."""

    def __init__(
        self, client: RegistryClient, copy: PlannedCopy, options: Options, *, gatherer: Gatherer, lists: SourceLists
    ) -> None:
        self._client = client
        self._path = copy.source.repository.path
        self._copy = copy
        self._options = options
        self._gatherer = gatherer
        self._lists = lists
        self.found: defaultdict[DestinationState, set[str]] = defaultdict(set)
        """What each destination has or gets of it, by tag or digest, whether or not it was there."""
        self._tagged: set[Digest] = set()
        """What digest tags were found to name."""
        self._without_subject: list[tuple[Descriptor, JobWarning]] = []

    async def find(self, targets: Sequence[DestinationState], digests: Collection[Digest]) -> list[Bundle]:
        """Collect what belongs to these manifests; raise `CopyError` for the source."""
        bundles: list[Bundle] = []
        if self._options.companions == "never":
            return bundles
        try:
            if self._options.referrers:
                bundles += await self._referrers(targets, digests)
            if self._looks_for_digest_tags:
                bundles += await self._digest_tags(targets, digests)
        except CopyError:
            raise
        except TransferError as error:
            raise CopyError(error, side="source", step="read referrers") from error
        self._warn_of_others(targets)
        return bundles

    async def fingerprint(self, subjects: Collection[Digest], targets: Iterable[DestinationState]) -> str | None:
        """Return one text for all that hangs on some manifests, None for nothing; raise `RegistryError`.

        Lists that can't be used are reported as warnings of these targets.

        One request for a manifest that nothing hangs on, and none where the repository's tags, listed anyway, show it.
        """
        companions: set[str] = set()
        asked, queue, unused = set(subjects), list(subjects), ListWarnings()
        while queue and self._options.referrers:
            lists = (self._list(one, unused, is_there=True) for one in queue)
            answers = await run_limited(lists, at_once=_ASKED_AT_ONCE)
            queue = [entry.digest for entries in answers for entry in entries if entry.digest not in asked]
            asked.update(queue)
            companions.update(queue)
            if len(asked) > MAX_REFERRERS:
                raise ContentError(f"more than {MAX_REFERRERS} referrers belong to this image", code="limit_exceeded")
        _warn_of_lists(unused, targets)
        if self._looks_for_digest_tags:
            listed = await self._known_tags()
            # Where tags can't be listed, what is below an index is not asked for tag by tag.
            found = await self._tagged_digests(asked if listed is not None else asked.difference(list(subjects)[1:]))
            companions.update(f"{tag}@{descriptor.digest}" for tag, descriptor in found if descriptor is not None)
        return fingerprint(companions) if companions else None

    @property
    def _looks_for_digest_tags(self) -> bool:
        return self._options.digest_tags and self._copy.digest_tags not in {"none", "apart"}

    async def _list(
        self, digest: Digest, list_warnings: ListWarnings, *, is_there: bool = False
    ) -> tuple[Descriptor, ...]:
        """List a manifest's referrers; without an API, the repository's tags may show that there are none.

        `is_there` says that the destinations have the image: what hangs on it may come as a copy of its own then.
        """
        if not self._client.has_referrers_api:
            seen = self._copy.digest_tags
            if seen == "none" or (seen == "apart" and is_there):
                return ()
            if is_there or seen == "present":
                tags = await self._known_tags()
                if tags is not None and fallback_tag(digest) not in tags:
                    return ()
        return await self._lists.referrers(self._client, self._path, digest, list_warnings=list_warnings)

    async def _known_tags(self) -> frozenset[Tag] | None:
        """List the repository's tags; None where that is refused, or costs more than asking for each."""
        most = None if self._copy.digest_tags == "present" else MAX_LISTED
        try:
            return await self._lists.tags(self._client, self._path, most=most)
        except RegistryError as error:
            if error.temporary:
                raise
            return None

    def _warn_of_others(self, targets: Iterable[DestinationState]) -> None:
        """Warn of what is listed as a referrer and names no subject, unless a digest tag brings it.

        Harbor lists cosign's signatures so, which are made for their tags.
        """
        others, self._without_subject = self._without_subject, []
        if self._options.digest_tags and self._copy.digest_tags == "apart":
            return
        for descriptor, warning in others:
            if descriptor.digest not in self._tagged:
                for target in targets:
                    target.warnings.append(warning)

    async def _referrers(self, targets: Sequence[DestinationState], digests: Collection[Digest]) -> list[Bundle]:
        bundles: list[Bundle] = []
        asked = set(digests)
        queue = list(asked)
        count = 0
        list_warnings = ListWarnings()
        while queue:
            answers = await run_limited((self._list(one, list_warnings) for one in queue), at_once=_ASKED_AT_ONCE)
            count += sum(map(len, answers))
            if count > MAX_REFERRERS:
                raise ContentError(f"more than {MAX_REFERRERS} referrers belong to this image", code="limit_exceeded")
            for subject, found in zip(queue, answers, strict=True):
                bundles += await self._lacking(targets, subject, found)
            queue = [digest for digest in self._gatherer.seen_at_source() if digest not in asked]
            asked.update(queue)
        _warn_of_lists(list_warnings, targets)
        return bundles

    async def _lacking(
        self, targets: Sequence[DestinationState], subject: Digest, found: Sequence[Descriptor]
    ) -> list[Bundle]:
        """Make a bundle of each referrer that is one; its targets are those that lack it, or do not list it."""
        if not found:
            return []
        lists = await run_limited((_listed(target, subject) for target in targets), at_once=_ASKED_AT_ONCE)
        bundles = []
        for descriptor in found:
            referrer = await self._valid(subject, descriptor, targets)
            if referrer is None:
                continue
            for target in targets:
                self.found[target].add(descriptor.digest)
            lacking = {
                target
                for target, listed in zip(targets, lists, strict=True)
                if target.is_alive and (descriptor.digest not in listed or await target.lacks(descriptor.digest))
            }
            bundle = Bundle(referrer, lacking - self._gatherer.seen[referrer.digest])
            await self._gatherer.gather(bundle)
            bundles.append(bundle)
        return bundles

    async def _valid(
        self, subject: Digest, descriptor: Descriptor, targets: Iterable[DestinationState]
    ) -> Manifest | None:
        """Fetch what is said to be a referrer; None, and a warning, when it is gone or names another subject."""
        try:
            referrer = await self._gatherer.fetch(descriptor.digest)
        except RegistryError as error:
            if not is_missing(error):
                raise
            why = "is listed, but not there"
        except ContentError as error:
            why = f"can't be copied: {error.message}"
        else:
            if referrer.subject is not None and referrer.subject.digest == subject:
                return referrer
            why = "does not name it as its subject"
            if referrer.subject is None:
                self._without_subject.append((descriptor, self._skipped(subject, descriptor, why)))
                return None
        for target in targets:
            target.warnings.append(self._skipped(subject, descriptor, why))
        return None

    def _skipped(self, subject: Digest, descriptor: Descriptor, why: str) -> JobWarning:
        message = f"{self._copy.source}: referrer {descriptor.digest} of {subject} {why}"
        return JobWarning("referrer_skipped", (message,))

    async def _digest_tags(self, targets: Sequence[DestinationState], digests: Collection[Digest]) -> list[Bundle]:
        found = await self._tagged_digests(digests)
        bundles = []
        for tag, descriptor in found:
            if descriptor is None:
                continue
            self._tagged.add(descriptor.digest)
            wanting = {target for target in targets if target.is_alive and await self._wants(target, tag, descriptor)}
            if wanting:
                bundle = Bundle(await self._gatherer.fetch(descriptor.digest), wanting, tag=tag)
                await self._gatherer.gather(bundle)
                bundles.append(bundle)
        return bundles

    async def _tagged_digests(self, digests: Collection[Digest]) -> list[tuple[Tag, Descriptor | None]]:
        """Find what the digest tags of these manifests name; where tags were listed only those that are there.

        For a tag that was named outright the repository's tags are listed once, if they fit on a page.
        """
        tags = [tag for digest in digests for tag in digest_tags_of(digest)]
        listed = await self._known_tags()
        if listed is not None:
            tags = [tag for tag in tags if tag in listed]
        ask = self._client.head_manifest if listed is None else self._client.find_manifest
        found = await run_limited((ask(self._path, tag) for tag in tags), at_once=_ASKED_AT_ONCE)
        return list(zip(tags, found, strict=True))

    async def _wants(self, target: DestinationState, tag: Tag, descriptor: Descriptor) -> bool:
        """Return whether a digest tag is to be written; the same rule as for the image's own tag."""
        try:
            there = await target.find(tag)
        except TransferError as error:
            target.fail(error, step=f"compare {tag}")
            return False
        if there is None or there.digest == descriptor.digest or self._options.overwrite == "always":
            self.found[target].add(tag)
            return there is None or there.digest != descriptor.digest
        if self._options.overwrite == "fail":
            target.fail(_exists_different(target, tag), step=f"compare {tag}")
        return False


def _warn_of_lists(list_warnings: ListWarnings, targets: Iterable[DestinationState]) -> None:
    found = [JobWarning(code, seen.first, seen.count) for code, seen in list_warnings.by_code.items()]
    for target in targets:
        target.warnings += found


async def _listed(target: DestinationState, subject: Digest) -> frozenset[Digest]:
    """List a destination's referrers; where it denies that, what is missing shows by writing it."""
    try:
        found = await target.client.list_referrers(target.path, subject)
    except TransferError as error:
        if error.code == "denied":
            return frozenset()
        target.fail(error, step=f"list the referrers of {subject}")
        return frozenset()
    foreseen = target.dry_run.list_referrers(target.repository, subject) if target.dry_run is not None else frozenset()
    return foreseen.union(descriptor.digest for descriptor in found)


def _exists_different(target: DestinationState, tag: Tag) -> ContentError:
    return ContentError(f"{target.repository}:{tag} exists and differs", code="tag_immutable")
