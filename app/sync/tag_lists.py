"""Lists of tags: of all repositories that a rule's source stands for, several asked for at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.domain.errors import CopyError, RegistryError, TransferError
from app.domain.pattern import AS_IT_IS, DestinationTemplate
from app.domain.plan import Listing
from app.domain.reference import DOCKER_HUB, Repository, Tag
from app.domain.report import TAKING, SelectionTally
from app.domain.request import Rule
from app.registry.client import RegistryClients
from app.registry.listing.pages import ListWarnings
from app.sync.selection import repository_reason

LISTS_AT_ONCE = 8
"""Repositories whose tags are listed at the same time; the registry's own window may be narrower."""


@dataclass(frozen=True, slots=True)
class ListScope:
    """Which lists of a request are to be had."""

    only: frozenset[Listing] | None = None
    """The lists to be had again, and nothing else; None plans the whole request."""
    without: frozenset[Listing] = frozenset()
    """Lists that failed in an earlier attempt at the same planning, and have a row that says so."""

    def wants_rule(self, rule: int) -> bool:
        """Say whether anything of a rule is to be planned."""
        return self.only is None or any(listing.rule == rule for listing in self.only)

    def wants(self, listing: Listing) -> bool:
        """Say whether a list is to be had."""
        return listing not in self.without and (self.only is None or listing in self.only)

    def repositories_of(self, rule: int) -> tuple[str, ...]:
        """Name the repositories of a rule whose tags are to be listed, in order."""
        wanted = (self.only or frozenset()) - self.without
        return tuple(sorted(listing.source for listing in wanted if listing.rule == rule))


@dataclass(slots=True)
class TagList:
    """A repository's tags, or why they, or the repositories, can't be had."""

    source: str
    """The repository, or what the rule says where these could not be listed."""
    tags: tuple[Tag, ...] = ()
    error: CopyError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TagLists:
    """The lists that one rule asks for.

    - `scope`: which of them are to be had
    - `list_warnings`: takes what lists hold that can't be used
    - `tally`: takes which repositories are taken and dropped, and why
    """

    clients: RegistryClients
    rule: Rule
    number: int
    scope: ListScope
    list_warnings: ListWarnings
    tally: SelectionTally

    async def read(self) -> AsyncGenerator[TagList]:
        """List the tags of several repositories at once, and yield them in the order of the repositories."""
        waiting: deque[asyncio.Task[TagList]] = deque()
        try:
            async with aclosing(self._list_repositories()) as repositories:
                async for repository in repositories:
                    if isinstance(repository, TagList):
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

    async def _list_repositories(self) -> AsyncGenerator[Repository | TagList]:
        """Yield repositories, and at the end why there are no more where a list could not be had."""
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
            yield TagList(self.rule.source, error=CopyError(error, side="source", step="list repositories"))

    async def _list_tags(self, repository: Repository) -> TagList:
        client, source = self.clients.for_repository(repository), str(repository)
        step = f"list the tags of {repository}"
        try:
            tags = tuple([tag async for tag in client.list_tags(repository.path, list_warnings=self.list_warnings)])
        except RegistryError as error:
            # Distribution's catalog names repositories that were emptied, which it calls unknown here.
            may_be_missing = self.rule.source_pattern.is_pattern
            if may_be_missing and error.code in {"repository_missing", "reference_not_found"}:
                self.list_warnings.add("repository_gone", source)
                return TagList(source)
            return TagList(source, error=CopyError(error, side="source", step=step))
        except TransferError as error:
            return TagList(source, error=CopyError(error, side="source", step=step))
        return TagList(source, tags)


MAX_RULES_LOOKED_AT = 50
"""Rules after one that are asked whether they may go to a repository, for each repository."""


def released_by(rule: Rule, later: Sequence[Rule], places: Iterable[Repository]) -> list[Repository]:
    """List the destinations of one of a rule's repositories that, when it is planned, nothing else can go to.

    So a plan of any number of tags holds the claims of one repository at a time: where a rule keeps the names of its
    repositories, which no two then share, and no rule after it goes to the same place.
    """
    if len(later) > MAX_RULES_LOOKED_AT or not _keeps_apart(rule):
        return []
    templates = [template for other in later for template in other.destination_templates]
    return [place for place in places if not any(_may_fill(template, place) for template in templates)]


def _keeps_apart(rule: Rule) -> bool:
    templates = rule.destination_templates
    has_own_places = len({template.registry for template in templates}) == len(templates)
    keeps_names = all(_keeps_name(template, is_listed=rule.source_pattern.is_pattern) for template in templates)
    return rule.mapping == AS_IT_IS and has_own_places and keeps_names


def _keeps_name(template: DestinationTemplate, *, is_listed: bool) -> bool:
    if template.registry == DOCKER_HUB:  # where a path of one part is one of library/, too
        return False
    words = template.words
    return words <= {"registry", "repository"} if "repository" in words else is_listed and not words


def _may_fill(template: DestinationTemplate, place: Repository) -> bool:
    """Return whether a template may come to a place; where its words come to nothing, their slash goes, too."""
    return template.registry == place.registry and f"{place.path}/".startswith(template.path.partition("{")[0])
