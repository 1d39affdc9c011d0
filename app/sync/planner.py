"""Request → planned copies: list, select, map; streamed as found. Catalogs and tag lists only, never manifests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.domain.errors import CopyError, RegistryError, TransferError
from app.domain.manifest import Platform
from app.domain.plan import CopyPreview, DigestTags, PlannedCopy
from app.domain.reference import Reference, Repository, Tag, is_digest_tag, is_fallback_tag
from app.domain.report import JobWarning
from app.domain.request import Options, Rule, SyncRequest, TagSelection
from app.registry.pool import RegistryClients
from app.sync.compare import compare
from app.sync.mapping import Destinations, map_source
from app.sync.selection import select_tags, takes_repository

LISTS_AT_ONCE = 8
"""Repositories whose tags are listed at the same time; the registry's own window may be narrower."""


class Planner:
    """Works out what a request comes to."""

    def __init__(self, clients: RegistryClients) -> None:
        self._clients = clients

    async def plan(self, request: SyncRequest) -> AsyncGenerator[PlannedCopy | JobWarning]:
        """Yield copies and warnings in an order that the request and the registries' lists decide.

        Raises `CopyError` when a list can't be had, and `InvalidRequestError` (`destination_conflict`,
        `invalid_destination`) when what the lists came to can't be mapped. Close it when leaving early.
        """
        destinations = Destinations()
        for number, rule in enumerate(request.rules, start=1):
            found = 0
            async with aclosing(self._plan_rule(rule, request.options)) as copies:
                async for copy in copies:
                    found += 1
                    if (new := destinations.claim(copy)) is not None:
                        yield new
            if not found:
                yield JobWarning("no_match", f"rule {number}, {rule.source}, matches nothing")

    async def preview(self, copy: PlannedCopy, options: Options) -> tuple[CopyPreview, ...]:
        """Ask both sides what a copy would do to each destination; raise `CopyError`."""
        comparison = await compare(self._clients, copy, options)
        return tuple(comparison.preview(destination) for destination in copy.destinations)

    async def _plan_rule(self, rule: Rule, options: Options) -> AsyncGenerator[PlannedCopy]:
        pattern = rule.source_pattern
        if pattern.repository is not None and (pattern.tags or pattern.digest):
            tags: tuple[Tag | None, ...] = pattern.tags or (None,)
            for copy in _copies(rule, [Reference(pattern.repository, tag, pattern.digest) for tag in tags]):
                yield copy
            return
        async with aclosing(self._list_all_tags(rule)) as listed:
            async for repository, found in listed:
                selected = _select(found, rule.tags, options)
                sources = [Reference(repository, tag) for tag in selected.tags]
                for copy in _copies(rule, sources, digest_tags=selected.digest_tags):
                    yield copy

    async def _list_all_tags(self, rule: Rule) -> AsyncGenerator[tuple[Repository, tuple[Tag, ...]]]:
        """List the tags of several repositories at once, and yield them in the order of the repositories."""
        waiting: deque[tuple[Repository, asyncio.Task[tuple[Tag, ...]]]] = deque()
        is_pattern = rule.source_pattern.is_pattern
        try:
            async with aclosing(self._list_repositories(rule)) as repositories:
                async for repository in repositories:
                    if len(waiting) >= LISTS_AT_ONCE:
                        first, tags = waiting.popleft()
                        yield first, await tags
                    task = asyncio.create_task(self._list_tags(repository, may_be_missing=is_pattern))
                    waiting.append((repository, task))
            while waiting:
                first, tags = waiting.popleft()
                yield first, await tags
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _list_repositories(self, rule: Rule) -> AsyncGenerator[Repository]:
        pattern = rule.source_pattern
        if pattern.repository is not None:
            yield pattern.repository
            return
        client = self._clients.for_registry(pattern.registry, pattern.namespace)
        try:
            async for path in client.list_repositories(pattern.namespace):
                if takes_repository(path, rule.repositories):
                    yield Repository(pattern.registry, path)
        except TransferError as error:
            raise CopyError(error, side="source", step="list repositories") from error

    async def _list_tags(self, repository: Repository, *, may_be_missing: bool) -> tuple[Tag, ...]:
        client = self._clients.for_repository(repository)
        try:
            return tuple([tag async for tag in client.list_tags(repository.path)])
        except RegistryError as error:
            # Distribution lists repositories in its catalog that have no tag left, and calls them unknown here.
            if may_be_missing and error.code in {"repository_missing", "reference_not_found"}:
                return ()
            raise CopyError(error, side="source", step=f"list the tags of {repository}") from error
        except TransferError as error:
            raise CopyError(error, side="source", step=f"list the tags of {repository}") from error


@dataclass(frozen=True, slots=True)
class _Selected:
    tags: tuple[Tag, ...]
    digest_tags: DigestTags


def _select(tags: Sequence[Tag], selection: TagSelection, options: Options) -> _Selected:
    """Choose tags; those that belong to an image by its digest are no images of their own, as far as options say so.

    What the selection takes of them is planned all the same: the tags of the destination are then those of the source,
    with what hangs on digests no tag points at any more, and what was hung on an image after it was copied. They count
    for nothing in `newest`, and what is not taken travels with its image.
    """
    hung = [tag for tag in tags if _hangs_on_a_digest(tag, options)]
    images = select_tags(set(tags).difference(hung), selection)
    taken = select_tags(hung, selection) if selection.newest is None else ()
    return _Selected((*images, *taken), "apart" if len(taken) == len(hung) else "present")


def _hangs_on_a_digest(tag: Tag, options: Options) -> bool:
    return (options.digest_tags and is_digest_tag(tag)) or (options.referrers and is_fallback_tag(tag))


def _copies(rule: Rule, sources: Sequence[Reference], *, digest_tags: DigestTags = "unknown") -> Iterator[PlannedCopy]:
    templates, is_pattern = rule.destination_templates, rule.source_pattern.is_pattern
    platforms = tuple(Platform.parse(text) for text in rule.platforms)
    for position, source in enumerate(sources):
        yield PlannedCopy(
            source=source,
            destinations=map_source(source, templates, position=position, from_pattern=is_pattern),
            platforms=platforms,
            platform_mode=rule.platform_mode,
            digest_tags=digest_tags,
        )
