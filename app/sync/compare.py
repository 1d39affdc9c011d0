"""Compares both sides of a planned copy: is the tag up to date, and what is to be done if not.

That is one HEAD a side. Where a destination has lacked tags so far, it is asked first, and the source by GET: what it
lacks has to be read anyway. For unchanged tags it may be none: where registries list tags with their digests, whole
pages are compared instead. Such a list is believed once a HEAD agreed with it, in each job and for each repository
anew, and only for what turns out to be unchanged: what is copied is asked for. A list that differs from HEADs is not
used any more, and reported.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from app.concurrency import run_limited
from app.domain.errors import ContentError, CopyError, RegistryError, TransferError
from app.domain.manifest import INDEX_TYPES, SCHEMA1_TYPES, Descriptor, Manifest
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Reference, Registry, Repository, Tag
from app.domain.report import CHANGED_SINCE_PLAN, EXISTS_DIFFERENT, JobWarning
from app.domain.request import Options
from app.registry.client import RegistryClient, RegistryClients
from app.registry.http.errors import is_missing
from app.registry.listing.digest_lists import ListedTag
from app.sync.destination import find_there
from app.sync.dry_run import DryRun
from app.sync.rewrite import Rewritten, rewrite, single_image

_log = structlog.get_logger(__name__)
MAX_AGE_SECONDS = 600.0
"""A job that takes longer reads its lists again."""
MAX_LISTS = 100
MAX_LISTED_TAGS = 50_000
"""Of all lists together: a job of any size holds no more, and its copies stay near one another."""
MAX_PLACES = 10_000
"""Repositories of which is remembered whether they had the tags that were looked for."""
MAX_LIES = 2
"""HEADs that differ from a list, after which it is not believed: one may be a tag that moved in between."""


class ListState(NamedTuple):
    """What one process publishes of a list to the others of its host."""

    begun_at: float
    is_proven: bool
    is_off: bool
    heads: Sequence[tuple[str, str]]
    """The sample: tag and digest."""
    tags: Sequence[tuple[str, str, str]] | None = None
    """Tag, digest and media type of all there are; None where it was not read."""


class ListSiblings(Protocol):
    """The other processes of this host; a place is a job, an entry and a repository."""

    def reading(self, place: tuple[str, ...]) -> AbstractAsyncContextManager[None]:
        """Be the only one among them that reads a list, while inside."""

    def received(self, place: tuple[str, ...]) -> ListState | None:
        """Return what another one sent last."""

    def publish(self, place: tuple[str, ...], state: ListState) -> None:
        """Send them what was found out."""


@dataclass(slots=True, eq=False)
class _RepositoryList:
    """What is known of one repository's list."""

    place: tuple[str, ...]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    heads: dict[Tag, Digest] = field(default_factory=dict)
    """What the sample is, by HEAD: asked for before the list is read."""
    tags: Mapping[Tag, ListedTag] | None = None
    is_proven: bool = False
    is_off: bool = False
    lies: int = 0
    begun_at: float = 0.0

    def take_over(self, state: ListState) -> None:
        """Take in what another process found out, unless it is of an earlier list."""
        if state.begun_at < self.begun_at - MAX_AGE_SECONDS:
            return
        self.is_off = self.is_off or state.is_off
        if self.tags is None and not self.is_off:
            self.heads |= {Tag(tag): Digest(digest) for tag, digest in state.heads}
            if state.tags is not None:
                listed = (ListedTag(Tag(tag), Digest(digest), kind) for tag, digest, kind in state.tags)
                self.tags = {each.tag: each for each in listed}
                self.is_proven, self.begun_at = state.is_proven, state.begun_at

    def state(self) -> ListState:
        """Return what there is to publish."""
        tags = None if self.tags is None or self.is_off else self.tags.values()
        listed = None if tags is None else [(each.tag, each.digest, each.media_type) for each in tags]
        return ListState(self.begun_at, self.is_proven, self.is_off, list(self.heads.items()), listed)


class DigestLists:
    """The digest lists of one job's repositories; each is read once, when a second tag of it is asked for.

    - `job`: its id, by which the other processes of this host know what is sent of its lists
    - `siblings`: these processes, where there are any: one of them reads for all
    - `clock`: monotonic seconds, the same for all processes of the host
    """

    def __init__(
        self, job: str = "", *, siblings: ListSiblings | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job = job
        self._siblings = siblings
        self._clock = clock
        self._lists: OrderedDict[tuple[str, Repository], _RepositoryList] = OrderedDict()
        self._warnings: list[JobWarning] = []

    async def find(self, client: RegistryClient, reference: Reference) -> Descriptor | None:
        """Return what a tag is: by a list, with the size 0, or by the HEAD of the sample.

        None where the list says nothing that may be believed.
        """
        if not client.has_digest_list or reference.tag is None or reference.digest is not None:
            return None
        known = self._of(client, reference.repository)
        async with known.lock:
            self._receive(known)
            if known.tags is None and not known.is_off:
                if self._siblings is None:
                    found = await self._read(client, reference, known)
                else:
                    async with self._siblings.reading(known.place):
                        self._receive(known)  # another process may have read it while we waited
                        found = await self._read(client, reference, known)
                if found is not None:
                    return found
        listed = known.tags.get(reference.tag) if known.tags and known.is_proven and not known.is_off else None
        return Descriptor(listed.media_type, listed.digest, 0) if listed else None

    def _of(self, client: RegistryClient, repository: Repository) -> _RepositoryList:
        key = (client.entry.name, repository)
        known = self._lists.get(key)
        if known is None or self._clock() - known.begun_at > MAX_AGE_SECONDS:
            place = (self._job, client.entry.name, str(repository))
            known = self._lists[key] = _RepositoryList(place, begun_at=self._clock())
            self._forget()
        self._lists.move_to_end(key)
        return known

    def _forget(self) -> None:
        """Forget the lists used longest ago where there are many, or long ones; what is asked of them is read again."""
        total = sum(len(known.tags or ()) for known in self._lists.values())
        while len(self._lists) > 1 and (len(self._lists) > MAX_LISTS or total > MAX_LISTED_TAGS):
            _, oldest = self._lists.popitem(last=False)
            total -= len(oldest.tags or ())

    def saw(self, client: RegistryClient, reference: Reference, found: Descriptor) -> None:
        """Compare a HEAD with what the list said."""
        known = self._lists.get((client.entry.name, reference.repository))
        if known is not None and known.tags is not None and reference.tag is not None:
            self._check(reference.repository, known, tag=reference.tag, digest=found.digest)

    def take_warnings(self) -> tuple[JobWarning, ...]:
        """Hand out what there is to report, once."""
        warnings, self._warnings = tuple(self._warnings), []
        return warnings

    async def _ask(self, client: RegistryClient, reference: Reference, known: _RepositoryList) -> Descriptor | None:
        """Ask for one tag by HEAD, to prove the list by."""
        try:
            found = await client.head_manifest(reference.repository.path, reference.target)
        except TransferError:
            return None  # the comparison meets the same, and says so
        if found is not None and reference.tag is not None:
            known.heads[reference.tag] = found.digest
        return found

    async def _read(self, client: RegistryClient, reference: Reference, known: _RepositoryList) -> Descriptor | None:
        """Ask for one tag by HEAD first, the next time read the list; return what HEAD said."""
        if known.tags is not None or known.is_off:
            return None
        if not known.heads:
            found = await self._ask(client, reference, known)
        else:
            found = None
            await self._read_all(client, reference.repository, known)
        self._publish(known)
        return found

    async def _read_all(self, client: RegistryClient, repository: Repository, known: _RepositoryList) -> None:
        try:
            known.tags = {listed.tag: listed async for listed in client.list_digests(repository.path)}
        except TransferError as error:
            known.is_off = True
            _log.info("digest_list_not_used", registry=repository.registry, path=repository.path, code=error.code)
            return
        for tag, digest in known.heads.items():
            self._check(repository, known, tag=tag, digest=digest)

    def _receive(self, known: _RepositoryList) -> None:
        state = self._siblings.received(known.place) if self._siblings is not None else None
        if state is not None:
            known.take_over(state)

    def _publish(self, known: _RepositoryList) -> None:
        if self._siblings is not None:
            self._siblings.publish(known.place, known.state())

    def _check(self, repository: Repository, known: _RepositoryList, *, tag: Tag, digest: Digest) -> None:
        listed = known.tags.get(tag) if known.tags else None
        if listed is None or known.is_off:
            return
        if listed.digest == digest:
            known.is_proven = True
            return
        known.lies += 1
        if not known.is_proven or known.lies >= MAX_LIES:
            known.is_off = True
            self._warnings.append(JobWarning("digest_list_wrong", (f"{repository}:{tag}",)))
            self._publish(known)
            _log.warning("digest_list_wrong", registry=repository.registry, path=repository.path, tag=tag)


class MissingTags:
    """Which destinations lacked the tags that were looked for last: the next ones are likely to be missing as well.

    It is a guess, by repository, else by registry; a wrong one costs a round trip, or one request.
    """

    def __init__(self) -> None:
        self._lacked: dict[Repository | Registry, bool] = {}

    def are_expected(self, places: Sequence[Reference]) -> bool:
        """Return whether none of these destinations is likely to be there."""
        return all(
            self._lacked.get(place.repository, self._lacked.get(place.repository.registry, False)) for place in places
        )

    def note(self, place: Reference, *, is_missing: bool) -> None:
        """Note whether a destination was there."""
        if len(self._lacked) > MAX_PLACES:
            self._lacked.clear()
        self._lacked[place.repository] = self._lacked[place.repository.registry] = is_missing


Action = Literal["copy", "update", "up_to_date", "refused"]


class Comparison(Struct, frozen=True):
    """The source's manifest, what the destinations should have of it, and what they have."""

    source: Descriptor
    wanted: Descriptor
    """Differs from `source` where the index is rewritten for a choice of platforms."""
    rewritten: Rewritten | None
    options: Options
    copy: PlannedCopy
    found: dict[Reference, Descriptor | CopyError | None] = {}
    manifest: Manifest | None = None
    """The source's manifest, where it was read already."""

    def previous_digest(self, destination: Reference) -> Digest | None:
        """Return what a destination's tag points to so far."""
        found = self.found[destination]
        return found.digest if isinstance(found, Descriptor) else None

    def action(self, destination: Reference) -> tuple[Action, str | None]:
        """Decide whether a destination is up to date, and if not what is to be done, with a reason if need be.

        Raise `CopyError` for a destination that could not be asked.
        """
        found = self.found[destination]
        if isinstance(found, CopyError):
            raise found
        if found is not None and found.digest == self.wanted.digest:
            return "up_to_date", None
        seen = self.copy.seen.get(destination)
        if seen is not None and (seen.source, seen.destination) != (
            self.source.digest,
            found.digest if found else None,
        ):
            return "refused", CHANGED_SINCE_PLAN
        if found is None:
            return "copy", None
        match self.options.overwrite:
            case "always":
                return "update", None
            case "never":
                return "up_to_date", EXISTS_DIFFERENT
            case "fail":
                return "refused", "tag_immutable"


async def compare(
    clients: RegistryClients,
    copy: PlannedCopy,
    options: Options,
    *,
    missing: MissingTags,
    lists: DigestLists | None = None,
    dry_run: DryRun | None = None,
) -> Comparison:
    """Ask the source and all destinations; raise `CopyError` when the source can't be copied.

    They are asked at once, or the destinations first where they are likely to lack the tag. With `lists`, what is the
    same everywhere by the registries' digest lists is not asked for; with `dry_run`, what earlier copies would have
    brought counts as there.
    """
    listed = await _listed(clients, copy, lists) if lists is not None else {}
    unlisted = [place for place in copy.destinations if place not in listed]
    known = _Source(listed[copy.source]) if copy.source in listed else None
    if known is not None and not unlisted:
        source: _Source | CopyError = known
        found: dict[Reference, Descriptor | CopyError | None] = {place: listed[place] for place in copy.destinations}
    elif not listed and missing.are_expected(unlisted):
        found = await _find_all(clients, unlisted, wanted=copy.source, options=options)
        foreseen = found if dry_run is None else dry_run.foresee(found)
        is_new = not copy.seen and not any(foreseen.values())  # a plan that saw it may refuse it
        source = await _source(clients, copy, is_to_be_read=is_new)
    else:
        asked = asyncio.create_task(_find_all(clients, unlisted, wanted=copy.source, options=options))
        try:
            source = known or await _source(clients, copy)
            others = await asked
        finally:
            if not asked.done():
                asked.cancel()
                await asyncio.wait({asked})
        found = {place: listed.get(place) or others[place] for place in copy.destinations}
    if isinstance(source, CopyError):
        raise source
    if listed and lists is not None:
        source = await _verify(clients, copy, source, options=options, found=found, lists=lists)
    for place, there in found.items():
        missing.note(place, is_missing=there is None)
    found = found if dry_run is None else dry_run.foresee(found)
    wanted = source.rewritten.root.descriptor if source.rewritten else source.descriptor
    for place in copy.destinations:
        if place.tag is None and wanted.digest != source.descriptor.digest:  # it is put under the digest it gets
            made = Reference(place.repository, digest=wanted.digest)
            planned = dry_run.find_manifest(made.repository, made.target) if dry_run is not None else None
            found[place] = planned or await _find(clients, made, wanted=copy.source, options=options)
    return Comparison(source.descriptor, wanted, source.rewritten, options, copy, found, source.manifest)


async def _listed(clients: RegistryClients, copy: PlannedCopy, lists: DigestLists) -> dict[Reference, Descriptor]:
    """Look both sides up in digest lists; what is found with the size 0 was not asked for by HEAD."""
    found = {copy.source: await lists.find(clients.for_repository(copy.source.repository), copy.source)}
    for place in copy.destinations:
        found[place] = await lists.find(clients.for_repository(place.repository, writing=True), place)
    return {reference: descriptor for reference, descriptor in found.items() if descriptor is not None}


async def _find_all(
    clients: RegistryClients, places: Sequence[Reference], *, wanted: Reference, options: Options
) -> dict[Reference, Descriptor | CopyError | None]:
    finds = (_find(clients, place, wanted=wanted, options=options) for place in places)
    return dict(zip(places, await run_limited(finds, at_once=len(places)), strict=True))


async def _verify(
    clients: RegistryClients,
    copy: PlannedCopy,
    source: _Source,
    *,
    options: Options,
    found: dict[Reference, Descriptor | CopyError | None],
    lists: DigestLists,
) -> _Source:
    """Return the source; where something is to be copied, ask the registries for what only a list said so far."""
    digest = source.descriptor.digest
    if all(isinstance(there, Descriptor) and there.digest == digest for there in found.values()):
        # By HEAD, if any side was asked so: the list may not say the media type.
        asked = (one for one in found.values() if isinstance(one, Descriptor) and one.size)
        return replace(source, descriptor=next(asked, source.descriptor))
    if not source.descriptor.size:
        outcome = await _source(clients, copy, is_to_be_read=not any(found.values()) and not copy.seen)
        if isinstance(outcome, CopyError):
            raise outcome
        source = outcome
        lists.saw(clients.for_repository(copy.source.repository), copy.source, source.descriptor)
    for place, there in found.items():
        if isinstance(there, Descriptor) and not there.size and there.digest != source.descriptor.digest:
            answer = found[place] = await _find(clients, place, wanted=copy.source, options=options)
            if isinstance(answer, Descriptor):
                lists.saw(clients.for_repository(place.repository, writing=True), place, answer)
    return source


class _Source(Struct, frozen=True, gc=False):
    """What the source's reference stands for."""

    descriptor: Descriptor
    manifest: Manifest | None = None
    """None where only its digest was asked for, or listed."""
    rewritten: Rewritten | None = None


async def _source(clients: RegistryClients, copy: PlannedCopy, *, is_to_be_read: bool = False) -> _Source | CopyError:
    """Ask for the source by HEAD, or read it where it is to be copied; an error is returned."""
    client, path = clients.for_repository(copy.source.repository), copy.source.repository.path
    try:
        manifest = await _read(client, copy.source) if is_to_be_read else None
        found = manifest.descriptor if manifest else await client.find_manifest(path, copy.source.target)
        if found is None:
            raise _missing(copy.source)
        if found.media_type in SCHEMA1_TYPES:
            raise ContentError(
                "docker manifest schema 1 is not supported; push the image again with a current client",
                code="manifest_invalid",
            )
        if copy.platforms and copy.platform_mode in {"rewrite", "single"} and found.media_type in INDEX_TYPES:
            index = manifest or await client.get_manifest(path, found.digest)
            reduce = rewrite if copy.platform_mode == "rewrite" else single_image
            return _Source(found, manifest, await reduce(client, path, index, platforms=copy.platforms))
    except TransferError as error:
        return CopyError(error, side="source", step=f"read {copy.source}")
    return _Source(found, manifest)


async def _read(client: RegistryClient, source: Reference) -> Manifest:
    try:
        return await client.get_manifest(source.repository.path, source.target)
    except RegistryError as error:
        if is_missing(error):
            raise _missing(source) from error
        raise


async def _find(
    clients: RegistryClients, place: Reference, *, wanted: Reference, options: Options
) -> Descriptor | CopyError | None:
    client = clients.for_repository(place.repository, writing=True)
    try:
        return await find_there(client, place.repository.path, place.target, overwrites=options.overwrite == "always")
    except TransferError as error:
        return CopyError(error, side="destination", step=f"compare {place} with {wanted}")


def _missing(source: Reference) -> RegistryError:
    registry = source.repository.registry
    message = f"{registry} has no {source.target} in {source.repository.path}"
    return RegistryError(message, registry=registry, operation="head_manifest", code="reference_not_found", status=404)
