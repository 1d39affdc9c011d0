"""Choose images by what their names don't say: their age and their type.

An image is made no later than it is pushed. Where a list of the registry says when its tags were pushed, images that
are too old for `created_since`, old enough for `min_age`, or made before the newest ones need not be read; and an image
that says no time was made when it was pushed, for all that is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

import structlog

from app.concurrency import run_limited
from app.domain.errors import CopyError, TransferError
from app.domain.reference import Digest, Repository, Tag
from app.domain.report import SelectionReason
from app.domain.request import Rule
from app.registry.client import RegistryClient, RegistryClients
from app.registry.listing.digest_lists import ListedTag
from app.sync.destination import DestinationNotes
from app.sync.image_metadata import FirstSeenNotes, read_metadata
from app.sync.selection import ImageMetadata, drop_reason, is_old_enough, is_too_old, matches_always

T = TypeVar("T", bound=Tag | Digest)
_log = structlog.get_logger(__name__)
_ASKED_AT_ONCE = 8
_ALWAYS = datetime.max.replace(tzinfo=UTC)
_NEVER = datetime.min.replace(tzinfo=UTC)


async def take_images(
    clients: RegistryClients,
    rule: Rule,
    repository: Repository,
    *,
    targets: Sequence[T],
    now: datetime,
    note: Callable[[T, SelectionReason], None],
    notes: DestinationNotes,
    is_dated: bool = False,
    reads_all: bool = False,
) -> dict[T, ImageMetadata] | None:
    """Read what a rule asks about images beside their names and keep those it takes; None where it asks nothing.

    - `note`: gets those that it drops
    - `is_dated`: whether the registry's list of push dates, if it has one, costs less than it may save
    - `reads_all`: whether each image is read all the same

    Raise `CopyError`.
    """
    if not rule.needs_metadata:
        return None
    reading = _Reading(clients.for_repository(repository), rule, repository, targets=targets, now=now, notes=notes)
    try:
        found = await reading.read(is_dated=is_dated, reads_all=reads_all)
    except TransferError as error:
        raise CopyError(error, side="source", step=f"read the images of {repository}") from error
    taken = {}
    for target in targets:
        image = found[target]
        if isinstance(image, ImageMetadata):
            taken[target] = image
        else:
            note(target, image)
    return taken


class _Reading(Generic[T]):
    """Reads images of one repository, as few as a rule can be decided by."""

    def __init__(
        self,
        client: RegistryClient,
        rule: Rule,
        repository: Repository,
        *,
        targets: Sequence[T],
        now: datetime,
        notes: DestinationNotes,
    ) -> None:
        self._client = client
        self._rule = rule
        self._repository = repository
        self._targets = targets
        self._now = now
        self._first_seen = FirstSeenNotes(notes)
        self._listed: dict[Tag, ListedTag] = {}
        self._found: dict[T, ImageMetadata | SelectionReason] = {}

    async def read(self, *, is_dated: bool, reads_all: bool) -> dict[T, ImageMetadata | SelectionReason]:
        """Return of each target what it is, or why it is dropped."""
        rule = self._rule
        by_time = rule.tags.newest is not None and rule.tags.newest_by == "created"
        if is_dated and (by_time or rule.created_since is not None or rule.min_age is not None):
            await self._list_dates()
        undecided = list(self._targets) if reads_all else [one for one in self._targets if not self._decide(one)]
        if by_time and self._listed and not reads_all:
            await self._read_newest(undecided)
        else:
            await self._read(undecided)
        return self._found

    async def _list_dates(self) -> None:
        if not self._client.has_digest_list:
            return
        wanted, path = set[Tag | Digest](self._targets), self._repository.path
        try:
            async for listed in self._client.list_digests(path, dated=True):
                if listed.tag in wanted and ImageMetadata(pushed_at=listed.pushed_at).creation is not None:
                    self._listed[listed.tag] = listed
        except TransferError as error:
            self._listed.clear()
            _log.info("push_dates_not_used", registry=self._repository.registry, path=path, code=error.code)

    def _pushed_at(self, target: T) -> datetime | None:
        listed = self._listed.get(target) if isinstance(target, Tag) else None
        return listed.pushed_at if listed is not None else None

    def _decide(self, target: T) -> bool:
        """Decide by the push date alone; return whether that could be."""
        pushed_at = self._pushed_at(target)
        if pushed_at is None:
            return False
        if is_too_old(pushed_at, self._rule, now=self._now):
            self._found[target] = "created_since"
        elif is_old_enough(pushed_at, self._rule, now=self._now):
            self._found[target] = ImageMetadata(pushed_at=pushed_at)
        return target in self._found

    async def _read(self, targets: Sequence[T]) -> None:
        reading = [read_metadata(self._client, self._repository.path, target) for target in targets]
        for target, image in zip(targets, await run_limited(reading, at_once=_ASKED_AT_ONCE), strict=True):
            self._found[target] = await self._judge(target, image)

    async def _judge(self, target: T, image: ImageMetadata | None) -> ImageMetadata | SelectionReason:
        if image is None:
            return "missing"
        listed = self._listed.get(target) if isinstance(target, Tag) else None
        if listed is not None and listed.digest == image.digest:
            image = replace(image, pushed_at=listed.pushed_at)
        if self._rule.min_age is not None:
            image = await self._first_seen.date(self._repository, image, now=self._now) or image
        return drop_reason(image, self._rule, now=self._now) or image

    async def _read_newest(self, targets: Sequence[T]) -> None:
        """Read from the one pushed last on, until all others were pushed before the newest ones were made."""
        selection, made = self._rule.tags, list[datetime]()
        await self._read([target for target in targets if matches_always(target, selection)])
        left = [target for target in targets if target not in self._found]
        left.sort(key=lambda target: self._pushed_at(target) or _ALWAYS, reverse=True)
        while left:
            if len(made) == selection.newest and made[0] > (self._pushed_at(left[0]) or _ALWAYS):
                self._found |= dict.fromkeys(left, ImageMetadata())
                return
            group, left = left[:_ASKED_AT_ONCE], left[_ASKED_AT_ONCE:]
            await self._read(group)
            taken = [image for target in group if isinstance(image := self._found[target], ImageMetadata)]
            made = heapq.nlargest(selection.newest or 0, [*made, *(image.creation or _NEVER for image in taken)])[::-1]
