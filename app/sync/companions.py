"""What belongs to an image without being below it: referrers, and what cosign hangs on digests under tags.

Both are pushed before the image's tag moves. Whoever sees the tag finds the signatures, and a copy that broke off
between the two is not taken for done by the next one, which compares tags only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from app.domain.errors import ContentError, CopyError, RegistryError, TransferError
from app.domain.manifest import Descriptor, Manifest
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Tag, digest_tags_of
from app.domain.report import JobWarning
from app.domain.request import Options
from app.registry.client import RegistryClient
from app.registry.failures import is_missing
from app.registry.referrers import fallback_tag
from app.sync.graph import Bundle, Gatherer
from app.sync.target import Target
from app.sync.together import together

MAX_REFERRERS = 2_000
"""Of one image, theirs included; each costs requests on both sides."""
_ASKED_AT_ONCE = 8


class TagLists:
    """The tags of source repositories, listed at most once while a copier lives."""

    def __init__(self) -> None:
        self._tags: dict[tuple[str, str], frozenset[Tag]] = {}

    async def of(self, client: RegistryClient, repository: str) -> frozenset[Tag]:
        """List a repository's tags, or remember them."""
        key = (client.entry.registry, repository)
        if key not in self._tags:
            self._tags[key] = frozenset([tag async for tag in client.list_tags(repository)])
        return self._tags[key]


class Companions:
    """Finds what belongs to the manifests of one copy, and what of it destinations lack."""

    def __init__(
        self, client: RegistryClient, copy: PlannedCopy, options: Options, *, gatherer: Gatherer, tag_lists: TagLists
    ) -> None:
        self._client = client
        self._path = copy.source.repository.path
        self._copy = copy
        self._options = options
        self._gatherer = gatherer
        self._tag_lists = tag_lists

    async def find(self, targets: Sequence[Target], digests: Collection[Digest]) -> list[Bundle]:
        """Collect what belongs to these manifests; raise `CopyError` for the source."""
        try:
            bundles = []
            if self._options.referrers:
                bundles += await self._referrers(targets, digests)
            if self._options.digest_tags and self._copy.digest_tags != "apart":
                bundles += await self._digest_tags(targets, digests)
        except CopyError:
            raise
        except TransferError as error:
            raise CopyError(error, side="source", step="read referrers") from error
        return bundles

    async def may_be_new(self, digest: Digest) -> bool:
        """Say whether the source's tags, listed anyway, show something that belongs to an unchanged image."""
        if self._copy.digest_tags != "present":
            return False
        try:
            tags = await self._tag_lists.of(self._client, self._path)
        except TransferError as error:
            raise CopyError(error, side="source", step=f"list the tags of {self._path}") from error
        wanted = (fallback_tag(digest),) if self._options.referrers else ()
        return not tags.isdisjoint((*wanted, *(digest_tags_of(digest) if self._options.digest_tags else ())))

    async def _referrers(self, targets: Sequence[Target], digests: Collection[Digest]) -> list[Bundle]:
        bundles: list[Bundle] = []
        asked = set(digests)
        queue = list(asked)
        count = 0
        while queue:
            answers = await together(
                (self._client.list_referrers(self._path, digest) for digest in queue), at_once=_ASKED_AT_ONCE
            )
            count += sum(map(len, answers))
            if count > MAX_REFERRERS:
                raise ContentError(f"more than {MAX_REFERRERS} referrers belong to this image", code="limit_exceeded")
            for subject, found in zip(queue, answers, strict=True):
                bundles += await self._lacking(targets, subject, found)
            queue = [digest for digest in self._gatherer.seen_at_source() if digest not in asked]
            asked.update(queue)
        return bundles

    async def _lacking(self, targets: Sequence[Target], subject: Digest, found: Sequence[Descriptor]) -> list[Bundle]:
        """Make a bundle of each referrer that is one; its targets are those that lack it, or do not list it."""
        if not found:
            return []
        lists = await together((_listed(target, subject) for target in targets), at_once=_ASKED_AT_ONCE)
        bundles = []
        for descriptor in found:
            referrer = await self._valid(subject, descriptor, targets)
            if referrer is None:
                continue
            lacking = {
                target
                for target, listed in zip(targets, lists, strict=True)
                if target.is_alive and (descriptor.digest not in listed or await target.lacks(descriptor.digest))
            }
            bundle = Bundle(referrer, lacking - self._gatherer.seen[referrer.digest])
            await self._gatherer.gather(bundle)
            bundles.append(bundle)
        return bundles

    async def _valid(self, subject: Digest, descriptor: Descriptor, targets: Iterable[Target]) -> Manifest | None:
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
        for target in targets:
            message = f"{self._copy.source}: referrer {descriptor.digest} of {subject} {why}"
            target.warnings.append(JobWarning("referrer_skipped", message))
        return None

    async def _digest_tags(self, targets: Sequence[Target], digests: Collection[Digest]) -> list[Bundle]:
        tags = [tag for digest in digests for tag in digest_tags_of(digest)]
        if self._copy.digest_tags == "present":
            listed = await self._tag_lists.of(self._client, self._path)
            tags = [tag for tag in tags if tag in listed]
        found = await together((self._client.head_manifest(self._path, tag) for tag in tags), at_once=_ASKED_AT_ONCE)
        bundles = []
        for tag, descriptor in zip(tags, found, strict=True):
            if descriptor is None:
                continue
            wanting = {target for target in targets if target.is_alive and await self._wants(target, tag, descriptor)}
            if wanting:
                bundle = Bundle(await self._gatherer.fetch(descriptor.digest), wanting, tag=tag)
                await self._gatherer.gather(bundle)
                bundles.append(bundle)
        return bundles

    async def _wants(self, target: Target, tag: Tag, descriptor: Descriptor) -> bool:
        """Say whether a digest tag is to be written; the same rule as for the image's own tag."""
        try:
            there = await target.client.head_manifest(target.path, tag)
        except TransferError as error:
            target.fail(error, step=f"compare {tag}")
            return False
        if there is None or there.digest == descriptor.digest or self._options.overwrite == "always":
            return there is None or there.digest != descriptor.digest
        if self._options.overwrite == "fail":
            target.fail(_kept(target, tag), step=f"compare {tag}")
        return False


async def _listed(target: Target, subject: Digest) -> frozenset[Digest]:
    try:
        found = await target.client.list_referrers(target.path, subject)
    except TransferError as error:
        target.fail(error, step=f"list the referrers of {subject}")
        return frozenset()
    return frozenset(descriptor.digest for descriptor in found)


def _kept(target: Target, tag: Tag) -> ContentError:
    return ContentError(f"{target.repository}:{tag} exists and differs", code="tag_immutable")
