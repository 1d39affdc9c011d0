"""Request → planned copies: list, select, map; streamed as found.

Catalogs and tag lists only, and manifests where a rule asks for what no list says (`needs_metadata`).
What can't be planned, a list that can't be had or a destination that is another's, is yielded as such, and the rest
goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from app.clock import now
from app.domain.errors import ContentError, CopyError, InvalidRequestError, RegistryError, TransferError
from app.domain.manifest import Platform
from app.domain.pattern import map_source
from app.domain.plan import (
    TAKING,
    DigestTags,
    FailedListing,
    Listing,
    PlannedCopy,
    RefusedCopy,
    SelectionCount,
    SelectionReason,
    SelectionTally,
)
from app.domain.reference import Digest, Reference, Repository, Tag, is_digest_tag, is_fallback_tag
from app.domain.report import JobWarning
from app.domain.request import Options, Rule, SyncRequest
from app.domain.selection import TagSelection
from app.registry.listing.pages import ListWarnings
from app.registry.pool import RegistryClients
from app.sync.destination import DestinationNotes
from app.sync.plan_scope import PlanScope, released_by
from app.sync.selection import (
    ImageMetadata,
    Note,
    check_matches,
    match_tags,
    needs_metadata,
    repository_reason,
    select_tags,
)
from app.sync.taken_images import take_images

T = TypeVar("T", bound=Tag | Digest)

TAGS_PER_HEAD = 20
"""A list of digests has 100 tags on a page: with one tag of 20 to be compared, it takes less than HEADs do."""
LISTS_AT_ONCE = 8
"""Repositories whose tags are listed at the same time; the registry's own window may be narrower."""

Planned = PlannedCopy | RefusedCopy | FailedListing | JobWarning | SelectionCount


class Planner:
    """Plans a request: list, select, map; at most `LISTS_AT_ONCE` (8) lists at once.

    - `clients`: the registries of one job
    - `clock`: what ages of images are measured by, in UTC
    - `notes`: where it is remembered when an image that says no time was first seen; by default nowhere
    """

    def __init__(
        self,
        clients: RegistryClients,
        *,
        clock: Callable[[], datetime] = now,
        notes: DestinationNotes | None = None,
    ) -> None:
        self._clients = clients
        self._notes = notes or DestinationNotes.in_memory()
        self._clock = clock

    async def plan(self, request: SyncRequest, scope: PlanScope | None = None) -> AsyncGenerator[Planned]:
        """Yield what a request comes to, in an order that the request and the registries' lists decide.

        `scope` says what of it is still to be planned; the default is all. Nothing is raised for what registries say.
        Close it when leaving early.
        """
        scope = scope or PlanScope()
        for number, rule in enumerate(request.rules):
            if scope.wants_rule(number):
                planning = _RulePlanning(
                    self._clients,
                    rule,
                    number,
                    options=request.options,
                    scope=scope,
                    clock=self._clock,
                    later=request.rules[number + 1 :],
                    notes=self._notes,
                )
                async with aclosing(planning.plan()) as found:
                    async for item in found:
                        yield item


@dataclass(slots=True)
class _TagList:
    """A repository's tags, or why they can't be had."""

    repository: Repository
    tags: tuple[Tag, ...] = ()
    error: CopyError | None = None


@dataclass(slots=True, eq=False)
class _RulePlanning:
    """The planning of one rule."""

    clients: RegistryClients
    rule: Rule
    number: int
    options: Options
    scope: PlanScope
    clock: Callable[[], datetime]
    notes: DestinationNotes
    later: Sequence[Rule] = ()
    """The rules after it."""
    places: set[Repository] = field(default_factory=set)
    """Where what is being planned of one repository goes."""
    list_warnings: ListWarnings = field(default_factory=ListWarnings)
    """What lists held that could not be used, over all lists of the rule."""
    tally: SelectionTally = field(init=False)
    found: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.tally = SelectionTally(self.number)

    async def plan(self) -> AsyncGenerator[Planned]:
        """Yield what the rule comes to, then what there is to know of it."""
        pattern = self.rule.source_pattern
        if pattern.repository is not None and (pattern.tags or pattern.digest):
            tags: tuple[Tag | None, ...] = pattern.tags or (None,)
            sources = [Reference(pattern.repository, tag, pattern.digest) for tag in tags]
            for item in await self._named(pattern.repository, sources):
                yield item
        else:
            async with aclosing(self._list_all_tags()) as listed:
                async for one in listed:
                    for item in [one] if isinstance(one, FailedListing) else await self._select(one):
                        yield item
                    self.scope.claims.release(released_by(self.rule, self.later, self.places))
                    self.places.clear()
        for warning in self._warnings():
            yield warning
        for count in self.tally.counts:
            yield count

    async def _named(self, repository: Repository, sources: Sequence[Reference]) -> Iterator[Planned]:
        """Plan images that the rule names; those that it does not take by age or kind are left out."""
        note = partial(self.tally.add_tag, repository)
        try:
            images = await self._take_images(repository, [source.target for source in sources], note)
        except CopyError as error:
            return iter([self._failed(self.rule.source, error)])
        for source in sources:
            if images is None or source.target in images:
                note(source.target, "named")
        return self._map(sources, only=images)

    async def _select(self, listed: _TagList) -> Iterator[Planned]:
        repository, selection = listed.repository, self.rule.tags
        if listed.error is not None:
            return iter([self._failed(str(repository), listed.error)])
        hung = [tag for tag in listed.tags if hangs_on_a_digest(tag, self.options)]
        tally = SelectionTally(self.number)
        note = partial(tally.add_tag, repository)
        matched = match_tags(set(listed.tags).difference(hung), selection, note=note)
        try:
            is_dated = saves_requests(len(matched), among=len(listed.tags))
            images = await self._take_images(repository, matched, note, is_dated=is_dated)
            candidates = matched if images is None else images
            selected = _select_images(candidates, hung, selection=selection, images=images, note=note)
            check_matches(selected.images, selection)
        except CopyError as error:
            return iter([self._failed(str(repository), error)])
        except ContentError as error:
            self.tally.take_in(tally, instead="too_few_matches")
            step = f"select tags of {repository}"
            return iter([self._failed(str(repository), CopyError(error, side="source", step=step))])
        self.tally.take_in(tally)
        many = saves_requests(len(selected.tags), among=len(listed.tags))
        sources = [Reference(repository, tag) for tag in selected.tags]
        return self._map(sources, digest_tags=selected.digest_tags, many=many)

    async def _take_images(
        self,
        repository: Repository,
        targets: Sequence[T],
        note: Callable[[T, SelectionReason], None],
        *,
        is_dated: bool = False,
    ) -> dict[T, ImageMetadata] | None:
        if not needs_metadata(self.rule):
            return None
        return await take_images(
            self.clients,
            self.rule,
            repository,
            targets=targets,
            now=self.clock(),
            note=note,
            notes=self.notes,
            is_dated=is_dated,
        )

    def _map(
        self,
        sources: Iterable[Reference],
        *,
        digest_tags: DigestTags = "unknown",
        many: bool = False,
        only: Mapping[Tag | Digest, ImageMetadata] | None = None,
    ) -> Iterator[Planned]:
        rule = self.rule
        templates, is_pattern = rule.destination_templates, rule.source_pattern.is_pattern
        platforms = tuple(Platform.parse(text) for text in rule.platforms)
        for position, source in enumerate(sources):
            if only is not None and source.target not in only:
                continue
            self.found += 1
            try:
                places = map_source(source, templates, position=position, from_pattern=is_pattern, mapping=rule.mapping)
            except InvalidRequestError as error:
                yield from self.scope.claims.refuse(source, ", ".join(rule.destination), error)
                continue
            self.places.update(place.repository for place in places)
            yield from self.scope.claims.take(
                PlannedCopy(source, places, platforms, rule.platform_mode, digest_tags, many, self.number)
            )

    async def _list_all_tags(self) -> AsyncGenerator[_TagList | FailedListing]:
        """List the tags of several repositories at once, and yield them in the order of the repositories."""
        waiting: deque[asyncio.Task[_TagList]] = deque()
        try:
            async with aclosing(self._list_repositories()) as repositories:
                async for repository in repositories:
                    if isinstance(repository, FailedListing):
                        yield repository
                        continue
                    if len(waiting) >= LISTS_AT_ONCE:
                        yield await waiting.popleft()
                    waiting.append(asyncio.create_task(self._list_tags(repository)))
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _list_repositories(self) -> AsyncGenerator[Repository | FailedListing]:
        pattern = self.rule.source_pattern
        whole = Listing(self.number, self.rule.source)
        if pattern.repository is not None:
            if self.scope.wants(Listing(self.number, str(pattern.repository))):
                yield pattern.repository
            return
        if not self.scope.wants(whole):
            for source in self.scope.repositories_of(self.number):
                yield Repository.parse(source)
            return
        client = self.clients.for_registry(pattern.registry, pattern.namespace)
        try:
            async for path in client.list_repositories(pattern.namespace, list_warnings=self.list_warnings):
                repository = Repository(pattern.registry, path)
                if Listing(self.number, str(repository)) in self.scope.without:
                    continue
                reason = repository_reason(path, self.rule.repositories)
                self.tally.add_repository(repository, reason)
                if reason in TAKING:
                    yield repository
        except TransferError as error:
            yield self._failed(self.rule.source, CopyError(error, side="source", step="list repositories"))

    async def _list_tags(self, repository: Repository) -> _TagList:
        client = self.clients.for_repository(repository)
        step = f"list the tags of {repository}"
        try:
            tags = tuple([tag async for tag in client.list_tags(repository.path, list_warnings=self.list_warnings)])
        except RegistryError as error:
            # Distribution's catalog names repositories that were emptied, which it calls unknown here.
            may_be_missing = self.rule.source_pattern.is_pattern
            if may_be_missing and error.code in {"repository_missing", "reference_not_found"}:
                self.list_warnings.add("repository_gone", str(repository))
                return _TagList(repository)
            return _TagList(repository, error=CopyError(error, side="source", step=step))
        except TransferError as error:
            return _TagList(repository, error=CopyError(error, side="source", step=step))
        return _TagList(repository, tags)

    def _failed(self, source: str, error: CopyError) -> FailedListing:
        self.failed += 1
        return FailedListing(Listing(self.number, source), ", ".join(self.rule.destination), error)

    def _warnings(self) -> Iterator[JobWarning]:
        for code, warning in self.list_warnings.by_code.items():
            yield JobWarning(code, warning.first, warning.count, rule=self.number)
        failed_before = any(listing.rule == self.number for listing in self.scope.without)
        if not self.found and not self.failed and not failed_before and self.scope.only is None:
            yield JobWarning("no_match", (self.rule.source,), rule=self.number)


@dataclass(frozen=True, slots=True)
class _Selected:
    tags: tuple[Tag, ...]
    images: int
    """How many of them are images of their own."""
    digest_tags: DigestTags


def _select_images(
    tags: Iterable[Tag],
    hung: Sequence[Tag],
    *,
    selection: TagSelection,
    images: Mapping[Tag, ImageMetadata] | None,
    note: Note,
) -> _Selected:
    """Choose tags; those that belong to an image by its digest are no images of their own, as far as options say so.

    What the selection takes of them is planned all the same: the tags of the destination are then those of the source,
    with what hangs on digests no tag points at any more, and what was hung on an image after it was copied. They count
    for nothing in `newest`, and what is not taken travels with its image.
    """
    chosen = select_tags(tags, selection, images=images, note=note)
    taken = select_tags(hung, selection) if selection.newest is None else ()
    for tag in hung:
        note(tag, "attached")
    return _Selected((*chosen, *taken), len(chosen), "apart" if len(taken) == len(hung) else "present")


def saves_requests(tags: int, *, among: int) -> bool:
    """Return whether a list of all tags of a repository costs less than asking for so many of them one by one."""
    return tags > 1 and tags * TAGS_PER_HEAD >= among


def hangs_on_a_digest(tag: Tag, options: Options) -> bool:
    """Return whether a tag belongs to an image by its digest, and so is no image of its own."""
    return (options.digest_tags and is_digest_tag(tag)) or (options.referrers and is_fallback_tag(tag))
