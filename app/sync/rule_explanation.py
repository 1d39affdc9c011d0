"""What one rule says of one tag, part by part, in the order in which planning looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from app.domain.errors import InvalidRequestError, RegistryError, TransferError
from app.domain.explanation import Effect, ExplanationReason, ExplanationStep, RuleExplanation
from app.domain.manifest import INDEX_TYPES, Platform, missing_platforms, select_images
from app.domain.pattern import map_source
from app.domain.plan import PlannedCopy
from app.domain.reference import Digest, Reference, Repository, Tag
from app.domain.report import SelectionReason
from app.domain.request import Options, Rule
from app.domain.selection import Matcher, matches_of
from app.registry.client import RegistryClients
from app.sync.destination import DestinationNotes
from app.sync.image_metadata import read_platform
from app.sync.planner import hangs_on_a_digest, saves_requests
from app.sync.rewrite import read_indexes
from app.sync.selection import (
    ImageMetadata,
    included,
    match_tags,
    newest_first,
    repository_reason,
    select_tags,
)
from app.sync.taken_images import take_images

T = TypeVar("T", bound=Tag | Digest)


@dataclass(slots=True, eq=False)
class ListReader:
    """The lists that rules share; each is asked for once."""

    clients: RegistryClients
    notes: DestinationNotes
    """When images that say no time were first seen."""
    tags: dict[Repository, frozenset[Tag]] = field(default_factory=dict)
    listed: dict[tuple[str, str, Repository], bool] = field(default_factory=dict)

    async def tags_of(self, repository: Repository) -> frozenset[Tag]:
        """Return the tags of a repository; raise `RegistryError`."""
        if repository not in self.tags:
            client = self.clients.for_repository(repository)
            self.tags[repository] = frozenset([tag async for tag in client.list_tags(repository.path)])
        return self.tags[repository]

    async def has(self, namespace: str, repository: Repository) -> bool:
        """Return whether its registry lists a repository, read until it is found; raise `RegistryError`."""
        key = (repository.registry, namespace, repository)
        if key not in self.listed:
            client = self.clients.for_registry(repository.registry, namespace)
            self.listed[key] = False
            async for path in client.list_repositories(namespace):
                if path == repository.path:
                    self.listed[key] = True
                    break
        return self.listed[key]


class _Decided(Exception):  # noqa: N818 — no error: the rest of a rule has nothing to say
    """A rule drops the tag, and what comes after can't be looked at."""


@dataclass(slots=True, eq=False)
class RuleReader:
    """The explaining of one rule."""

    lists: ListReader
    rule: Rule
    number: int
    reference: Reference
    options: Options
    clock: Callable[[], datetime]
    said: RuleExplanation = field(init=False)

    def __post_init__(self) -> None:
        self.said = RuleExplanation(self.number, self.rule.source, str(self.reference))

    async def run(self) -> None:
        """Go through the rule, part by part."""
        pattern = self.rule.source_pattern
        try:
            self._source()
            if pattern.repository is None:
                await self._repository()
            if pattern.tags or pattern.digest:
                await self._named()
            else:
                await self._selected()
            self._destinations()
            await self._platforms()
        except _Decided:
            pass
        except TransferError as error:
            self.said.end("unknown", "listing_failed", f"the source can't be asked: {error.code}: {error.message}")
        except TimeoutError:
            self.said.end("unknown", "timeout", "the source took too long to answer")
            raise

    # --- the parts of a rule ------------------------------------------------------------------------------------------

    def _source(self) -> None:
        pattern, repository = self.rule.source_pattern, self.reference.repository
        if pattern.registry != repository.registry:
            self._drop("source", "other_registry", f"it reads {pattern.registry}, not {repository.registry}")
            raise _Decided
        below = f"{pattern.namespace}/" if pattern.namespace else ""
        is_here = pattern.repository == repository if pattern.repository else repository.path.startswith(below)
        if not is_here:
            self._drop("source", "other_repository", f"it reads {self.rule.source}, not {repository}")
            raise _Decided
        self._pass("source", f"it reads {repository}")

    async def _repository(self) -> None:
        repository, selection = self.reference.repository, self.rule.repositories
        reason = repository_reason(repository.path, selection)
        self._matchers("repositories", "include", matchers=selection.include, text=repository.path)
        self._matchers("repositories", "exclude", matchers=selection.exclude, text=repository.path)
        if reason == "not_included":
            self._drop("repositories/include", "repository_not_included", f"no include matches {repository.path}")
        elif reason == "excluded":
            self._drop("repositories/exclude", "repository_excluded", f"an exclude matches {repository.path}")
        elif await self.lists.has(self.rule.source_pattern.namespace, repository):
            self._pass("source", f"{repository.registry} lists {repository.path}")
        else:
            message = f"{repository.registry} does not list {repository.path}: is it there, and may this login see it?"
            self._drop("source", "repository_not_listed", message)

    async def _named(self) -> None:
        pattern, reference = self.rule.source_pattern, self.reference
        is_named = reference.tag in pattern.tags if pattern.tags else reference.digest == pattern.digest
        if not is_named:
            self._drop("source", "not_named", f"it names {self.rule.source}, and {reference.target} is not among that")
            raise _Decided
        self._take("source", "named", "the source names it")
        dropped: list[SelectionReason] = []
        client = self.lists.clients.for_repository(reference.repository)
        if await client.find_manifest(reference.repository.path, reference.target) is None:
            self._drop("source", "missing", f"{reference.repository} has no {reference.target}")
            raise _Decided
        images = await self._take_images([reference.target], dropped)
        self._note_image(images, dropped)

    async def _selected(self) -> None:
        tag, selection = self.reference.tag, self.rule.tags
        if tag is None:
            self._drop("source", "not_named", "it selects by tag: a digest alone is not asked for")
            raise _Decided
        tags = await self._list_tags(tag)
        is_hung = hangs_on_a_digest(tag, self.options)
        self._matchers("tags", "include", matchers=included(selection), text=tag)
        self._matchers("tags", "exclude", matchers=selection.exclude, text=tag)
        dropped: dict[Tag, SelectionReason] = {}
        matched = match_tags([one for one in tags if not hangs_on_a_digest(one, self.options)], selection)
        match_tags([tag], selection, note=dropped.__setitem__)
        if is_hung:
            self._hung(is_selected=not dropped and selection.newest is None)
            return
        if dropped.get(tag) == "not_included":
            self._drop("tags/include", "not_included", f"no include matches {tag}")
        elif dropped.get(tag) == "excluded":
            self._drop("tags/exclude", "excluded", f"an exclude matches {tag}")
        elif self.said.outcome == "takes":
            reason: SelectionReason = "include" if selection.include else "all"
            self._take("tags", reason, "it is included" if selection.include else "every tag is included")
        await self._counted(tag, matched, is_dated=saves_requests(len(matched), among=len(tags)))

    def _hung(self, *, is_selected: bool) -> None:
        if is_selected or self.options.companions != "never":
            self._take("tags", "attached", "it belongs to an image by its digest, and comes along with that image")
            if not is_selected:
                raise _Decided
        else:
            self._drop("tags", "attached", "it belongs to an image by its digest, and `companions` is `never`")
            raise _Decided

    async def _counted(self, tag: Tag, matched: Sequence[Tag], *, is_dated: bool) -> None:
        """Look at what depends on the repository's other tags, and on what the image itself says."""
        selection, notes = self.rule.tags, dict[Tag, SelectionReason]()
        if self.said.outcome == "drops" and selection.min_matches is None:
            raise _Decided
        dropped: list[SelectionReason] = []
        wants_all = selection.newest is not None or selection.min_matches is not None
        wanted = matched if wants_all else [one for one in matched if one == tag]
        images = await self._take_images(wanted, dropped, tag, is_dated=is_dated)
        self._note_image(images, dropped)
        candidates = matched if images is None else tuple(images)
        chosen = select_tags(candidates, selection, images=images, note=notes.__setitem__)
        if tag in notes and selection.newest is not None:
            self._newest(tag, notes, images)
        if selection.min_matches is not None and len(chosen) < selection.min_matches:
            message = f"{len(chosen)} tags are selected, and `min_matches` expects {selection.min_matches}"
            self._drop("tags/min_matches", "too_few_matches", message)

    def _newest(self, tag: Tag, notes: dict[Tag, SelectionReason], images: dict[Tag, ImageMetadata] | None) -> None:
        selection, count = self.rule.tags, self.rule.tags.newest or 0
        ordered = newest_first((one for one in notes if notes[one] != "always"), selection, images=images)
        if notes[tag] == "always":
            self._take("tags/always", "always", "it is kept beside the newest")
            return
        place = ordered.index(tag) + 1
        order = {"version": "version", "natural": "natural order", "created": "creation time"}[selection.newest_by]
        message = f"it is number {place} of {len(ordered)} by {order}, and the newest {count} are taken"
        if place > count:
            self._drop("tags/newest", "not_newest", f"{message}: {ordered[count - 1]} is the last of them")
        else:
            self._take("tags/newest", "newest", message)

    def _destinations(self) -> None:
        """Say where it goes."""
        if self.said.outcome != "takes":
            return
        pattern, rule = self.rule.source_pattern, self.rule
        position = pattern.tags.index(self.reference.tag) if self.reference.tag in pattern.tags else 0
        source = Reference(self.reference.repository, self.reference.tag, pattern.digest)
        try:
            places = map_source(
                source,
                rule.destination_templates,
                position=position,
                from_pattern=pattern.is_pattern,
                mapping=rule.mapping,
            )
        except InvalidRequestError as error:
            self._drop("destination", "invalid_destination", error.message)
            return
        platforms = tuple(Platform.parse(text) for text in rule.platforms)
        self.said.copy = PlannedCopy(source, places, platforms, rule.platform_mode, rule=self.number)
        self.said.destinations = tuple(map(str, places))
        self._pass("destination", f"it goes to {', '.join(map(str, places))}")

    async def _platforms(self) -> None:
        """Say which platforms of it are copied."""
        copy = self.said.copy
        if copy is None or not copy.platforms or self.said.outcome != "takes":
            return
        client, path = self.lists.clients.for_repository(copy.source.repository), copy.source.repository.path
        root = await client.get_manifest(path, copy.source.target)
        if root.media_type not in INDEX_TYPES:
            found = await read_platform(client, path, root)
            is_asked = found is None or any(wanted.selects(found) for wanted in copy.platforms)
            note = "" if is_asked else "; it is copied all the same (`platform_mismatch`)"
            self._pass("platforms", f"it is a single image for {found or 'an unknown platform'}{note}")
            return
        indexes = await read_indexes(client, path, root, platforms=copy.platforms)
        missing = missing_platforms(indexes, copy.platforms)
        for place, wanted in enumerate(copy.platforms):
            there = "it hasn't got this platform" if wanted in missing else "it has this platform"
            self._say(f"platforms/{place}", "drops" if wanted in missing else "passes", there, matcher=str(wanted))
        chosen = select_images(indexes, copy.platforms)
        left = sorted({str(one.platform) for one in select_images(indexes) if one not in chosen and one.platform})
        if left:
            self._pass("platforms", f"left out of its index: {', '.join(left)}")
        if not chosen:
            self._drop("platforms", "no_platform", "it has none of the platforms asked for")

    # --- below --------------------------------------------------------------------------------------------------------

    async def _list_tags(self, tag: Tag) -> frozenset[Tag]:
        repository = self.reference.repository
        try:
            tags = await self.lists.tags_of(repository)
        except RegistryError as error:
            if error.code not in {"repository_missing", "reference_not_found"}:
                raise
            self._drop("source", "missing", f"{repository} is not there, or this login may not see it")
            raise _Decided from error
        if tag not in tags:
            self._drop("source", "missing", f"{repository} does not list {tag} among its {len(tags)} tags")
        return tags

    async def _take_images(
        self, targets: Sequence[T], dropped: list[SelectionReason], tag: Tag | None = None, *, is_dated: bool = False
    ) -> dict[T, ImageMetadata] | None:
        def note(target: T, reason: SelectionReason) -> None:
            if tag is None or target == tag:
                dropped.append(reason)

        return await take_images(
            self.lists.clients,
            self.rule,
            self.reference.repository,
            targets=targets,
            now=self.clock(),
            note=note,
            notes=self.lists.notes,
            is_dated=is_dated,
            reads_all=True,
        )

    def _note_image(
        self,
        images: Mapping[Tag, ImageMetadata] | Mapping[Tag | Digest, ImageMetadata] | None,
        dropped: Iterable[SelectionReason],
    ) -> None:
        if images is None:
            return
        for reason in dropped:
            pointer = {"artifact_type": "artifact_types", "missing": "source"}.get(reason, str(reason))
            wanted = {"created_since": self.rule.created_since, "min_age": self.rule.min_age}.get(reason)
            self._drop(pointer, reason, f"{_IMAGE_REASONS[reason]}{f' ({wanted})' if wanted else ''}")
        image = images.get(self.reference.target) if isinstance(self.reference.target, Tag) else None
        if image is not None:
            self._pass(
                "source", f"created {image.creation or 'at no known time'}, type {image.artifact_type or 'none'}"
            )

    def _matchers(self, where: str, which: str, *, matchers: Sequence[Matcher], text: str) -> None:
        for place, matcher in enumerate(matchers):
            has_match = matches_of(matcher)(text)
            effect: Effect = "passes" if not has_match else "takes" if which == "include" else "drops"
            own = len(getattr(getattr(self.rule, where), which))
            pointer = f"{where}/{which}/{place}" if place < own else f"{where}/always/{place - own}"
            shown = matcher if isinstance(matcher, str) else " and ".join(matcher.all)
            self._say(pointer, effect, f"{'matches' if has_match else 'does not match'} {text}", matcher=shown)

    def _say(self, pointer: str, effect: Effect, message: str, *, matcher: str | None = None) -> None:
        self.said.steps.append(ExplanationStep(f"/rules/{self.number}/{pointer}", effect, message, matcher))

    def _pass(self, pointer: str, message: str) -> None:
        self._say(pointer, "passes", message)

    def _take(self, pointer: str, reason: ExplanationReason, message: str) -> None:
        self._say(pointer, "takes", message)
        if self.said.outcome == "takes":
            self.said.reason, self.said.message = reason, message

    def _drop(self, pointer: str, reason: ExplanationReason, message: str) -> None:
        self._say(pointer, "drops", message)
        if self.said.outcome == "takes":
            self.said.end("drops", reason, message)


_IMAGE_REASONS = {
    "created_since": "its image is older, or says no time",
    "min_age": "its image is younger, or says no time and was not seen here so long ago",
    "artifact_type": "its type is not taken",
    "missing": "it was listed, and is not there",
}
