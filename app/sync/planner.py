"""Request → planned copies: list, select, map; streamed as found.

Catalogs and tag lists only, and manifests where a rule asks for what no list says (`Rule.needs_metadata`).
What can't be planned, a list that can't be had or a destination that is another's, is yielded as such, and the rest
goes on.

A destination tag belongs to the first source that claims it, over all rules of a request and over every attempt at
planning: a planner that is started again, or the planning of a retry, begins with the claims of the rows there are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from app.clock import now
from app.domain.errors import ContentError, CopyError, InvalidRequestError
from app.domain.manifest import Platform
from app.domain.pattern import map_source
from app.domain.plan import DigestTags, FailedListing, Listing, PlannedCopy, RefusedCopy
from app.domain.reference import Digest, Reference, Repository, Tag, is_digest_tag, is_fallback_tag
from app.domain.report import JobWarning, SelectionCount, SelectionReason, SelectionTally
from app.domain.request import Options, Rule, SyncRequest
from app.domain.selection import TagSelection
from app.registry.client import RegistryClients
from app.registry.listing.pages import ListWarnings
from app.sync.destination import DestinationNotes
from app.sync.selection import (
    ImageMetadata,
    Note,
    check_matches,
    match_tags,
    select_tags,
)
from app.sync.tag_lists import ListScope, TagList, TagLists, released_by
from app.sync.taken_images import take_images

T = TypeVar("T", bound=Tag | Digest)

TAGS_PER_HEAD = 20
"""A list of digests has 100 tags on a page: with one tag of 20 to be compared, it takes less than HEADs do."""
Planned = PlannedCopy | RefusedCopy | FailedListing | JobWarning | SelectionCount


class _Origin(Struct, frozen=True, gc=False):
    """What goes to a destination, but for its tag or digest: one for all tags of a repository."""

    repository: Repository
    platforms: tuple[Platform, ...]
    mode: str


_Claim = _Origin | tuple[_Origin, str]
"""Where a source's tag is another one than the destination's, it stands beside the origin. Hundreds of thousands of
these are held while a large request is planned."""


class DestinationClaims:
    """Remembers which source claimed which destination first."""

    def __init__(self) -> None:
        self._origins: dict[_Origin, _Origin] = {}
        self._places: dict[Repository, dict[str, _Claim]] = {}
        self._refused: set[tuple[str, str]] = set()

    def take(self, copy: PlannedCopy) -> Iterator[PlannedCopy | RefusedCopy]:
        """Yield what is new of a copy: the destinations it claims, and a refusal for each that belongs to another.

        Nothing for a destination that this very copy was planned for before. Another choice of platforms comes to other
        content, so it is another source.
        """
        claimed: list[Reference] = []
        for destination in copy.destinations:
            first = self._claim(copy, destination)
            if first is None:
                claimed.append(destination)
            elif first != self._claim_of(copy, destination):
                error = self._conflict(copy, destination, first)
                yield from self.refuse(copy.source, str(destination), error, rule=copy.rule)
        if len(claimed) == len(copy.destinations):
            yield copy
        elif claimed:
            yield replace(copy, destinations=tuple(claimed))

    def release(self, repositories: Iterable[Repository]) -> None:
        """Forget what is claimed in repositories that nothing that is still to be planned can go to."""
        for repository in repositories:
            for claim in self._places.pop(repository, {}).values():
                self._origins.pop(claim if isinstance(claim, _Origin) else claim[0], None)

    def recall(self, copy: PlannedCopy) -> None:
        """Note a copy that was planned before; where two claim one destination, the first stays."""
        for destination in copy.destinations:
            self._claim(copy, destination)

    def recall_refusal(self, source: str, destination: str) -> None:
        """Note a copy that was refused before: it is not refused a second time."""
        self._refused.add((source, destination))

    def refuse(
        self, source: Reference, destination: str, error: InvalidRequestError, *, rule: int | None
    ) -> Iterator[RefusedCopy]:
        """Yield a copy's refusal, unless it was refused before."""
        pair = str(source), destination
        if pair not in self._refused:
            self._refused.add(pair)
            yield RefusedCopy(*pair, error, rule)

    def _claim(self, copy: PlannedCopy, destination: Reference) -> _Claim | None:
        places = self._places.setdefault(destination.repository, {})
        target = str(destination.target)
        first = places.get(target)
        if first is None:
            places[target] = self._claim_of(copy, destination)
        return first

    def _claim_of(self, copy: PlannedCopy, destination: Reference) -> _Claim:
        mode = copy.platform_mode if copy.platforms else ""  # says nothing where all platforms are copied
        origin = _Origin(copy.source.repository, copy.platforms, mode)
        origin = self._origins.setdefault(origin, origin)
        source_target = str(copy.source).removeprefix(str(copy.source.repository))
        is_same = source_target == str(destination).removeprefix(str(destination.repository))
        return origin if is_same else (origin, source_target)

    def _conflict(self, copy: PlannedCopy, destination: Reference, first: _Claim) -> InvalidRequestError:
        taken_by, refused = _shown(first, destination), _shown(self._claim_of(copy, destination), destination)
        message = (
            f"{taken_by} and {refused} would both become {destination}; it goes to the first. "
            "Give one of them another destination, or exclude it"
        )
        return InvalidRequestError(message, code="destination_conflict")


@dataclass(frozen=True, slots=True)
class PlanScope(ListScope):
    """What of a request is to be planned."""

    claims: DestinationClaims = field(default_factory=DestinationClaims)


class Planner:
    """Plans a request: list, select, map; at most eight lists at once.

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
            if scope.only is None or scope.wants_rule(number):
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
            lists = TagLists(self.clients, self.rule, self.number, self.scope, self.list_warnings, self.tally)
            async with aclosing(lists.read()) as listed:
                async for one in listed:
                    for item in await self._select(one):
                        yield item
                    self.scope.claims.release(released_by(self.rule, self.later, self.places))
                    self.places.clear()
        for warning in self._warnings():
            yield warning
        for count in self.tally.counts:
            yield count

    async def _named(self, repository: Repository, sources: Sequence[Reference]) -> Iterator[Planned]:
        """Plan images that the rule names; those that it does not take by age or kind are left out.

        One that is not there is planned all the same, and fails when it is copied: it was asked for.
        """
        dropped = set[Tag | Digest]()

        def note(target: Tag | Digest, reason: SelectionReason) -> None:
            if reason != "missing":
                dropped.add(target)
                self.tally.add_tag(repository, target, reason)

        try:
            await self._take_images(repository, [source.target for source in sources], note)
        except CopyError as error:
            return iter([self._failed(self.rule.source, error)])
        for source in sources:
            if source.target not in dropped:
                self.tally.add_tag(repository, source.target, "named")
        return self._map(sources, dropped=dropped)

    async def _select(self, listed: TagList) -> Iterator[Planned]:
        if listed.error is not None:
            return iter([self._failed(listed.source, listed.error)])
        repository, selection = Repository.parse(listed.source), self.rule.tags
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
        if not self.rule.needs_metadata:
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
        dropped: AbstractSet[Tag | Digest] = frozenset(),
    ) -> Iterator[Planned]:
        rule = self.rule
        templates, is_pattern = rule.destination_templates, rule.source_pattern.is_pattern
        platforms = tuple(Platform.parse(text) for text in rule.platforms)
        for position, source in enumerate(sources):
            if source.target in dropped:
                continue
            self.found += 1
            try:
                places = map_source(source, templates, position=position, from_pattern=is_pattern, mapping=rule.mapping)
            except InvalidRequestError as error:
                yield from self.scope.claims.refuse(source, ", ".join(rule.destination), error, rule=self.number)
                continue
            self.places.update(place.repository for place in places)
            yield from self.scope.claims.take(
                PlannedCopy(source, places, platforms, rule.platform_mode, digest_tags, many, self.number)
            )

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
    digest_tags: DigestTags = "none" if not hung else "apart" if len(taken) == len(hung) else "present"
    return _Selected((*chosen, *taken), len(chosen), digest_tags)


def saves_requests(tags: int, *, among: int) -> bool:
    """Return whether a list of all tags of a repository costs less than asking for so many of them one by one."""
    return tags > 1 and tags * TAGS_PER_HEAD >= among


def hangs_on_a_digest(tag: Tag, options: Options) -> bool:
    """Return whether a tag belongs to an image by its digest, and so is no image of its own."""
    return (options.digest_tags and is_digest_tag(tag)) or (options.referrers and is_fallback_tag(tag))


def _shown(claim: _Claim, destination: Reference) -> str:
    origin, target = claim if isinstance(claim, tuple) else (claim, None)
    source = f"{origin.repository}{target or str(destination).removeprefix(str(destination.repository))}"
    return f"{source} ({', '.join(map(str, origin.platforms))}: {origin.mode})" if origin.platforms else source
