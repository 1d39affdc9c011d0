"""Which repositories, tags and images a rule takes. Pure.

Names are known from lists; an image's creation time and artifact type are not: `Rule.needs_metadata` says for which
they have to be read (`sync/image_metadata.py`) before `drop_reason` and `select_tags` can decide.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from natsort import natsort_keygen
from semver import Version

from app.domain.duration import parse_duration
from app.domain.errors import ContentError
from app.domain.matcher import Matches
from app.domain.reference import Digest, Tag
from app.domain.report import TAKING, SelectionReason
from app.domain.request import Rule
from app.domain.selection import ArtifactTypeSelection, Matcher, RepositorySelection, TagSelection, matches_of
from app.domain.version import parse_version

_NO_VERSION = Version(0, 0, 0, prerelease="0")
_NEVER = datetime.min.replace(tzinfo=UTC)
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""What claims to be older has no creation time: reproducible builds write 1970 or 1980."""
_natural_key = natsort_keygen()
Note = Callable[[Tag, SelectionReason], None]
"""Gets each tag that is decided about, with the reason."""


def _ignore(_tag: Tag, _reason: SelectionReason) -> None:
    return


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What a rule may ask about an image beside its names."""

    created_at: datetime | None = None
    artifact_type: str | None = None
    digest: Digest | None = None
    first_seen_at: datetime | None = None
    """When it was first looked at here; asked for where there is no other time."""
    pushed_at: datetime | None = None
    """When it was pushed, where the registry has a list that says it."""

    @property
    def creation(self) -> datetime | None:
        """When it was created, as far as it says a time one can believe; else when it was pushed."""
        times = (self.created_at, self.pushed_at)
        return next((time for time in times if time is not None and time >= _EARLIEST), None)


_UNKNOWN = ImageMetadata()


def takes_repository(path: str, selection: RepositorySelection) -> bool:
    """Return whether a repository is taken; matchers look at its whole path in the registry."""
    return repository_reason(path, selection) in TAKING


def repository_reason(path: str, selection: RepositorySelection) -> SelectionReason:
    """Return why a repository is taken or dropped."""
    return _reason(path, selection.include, selection.exclude)


def drop_reason(image: ImageMetadata, rule: Rule, *, now: datetime) -> SelectionReason | None:
    """Return why a rule drops an image for its age or type, None where it takes it.

    An image of which no time is known is as old as it is known here for `min_age`, and older than any for
    `created_since`.
    """
    created = image.creation
    if rule.created_since is not None and (created is None or is_too_old(created, rule, now=now)):
        return "created_since"
    known_since = created or image.first_seen_at
    if known_since is not None and known_since > _latest(rule, now):
        return "min_age"
    types = rule.artifact_types
    return None if _takes(image.artifact_type or "", types.include, types.exclude) else "artifact_type"


def is_too_old(time: datetime, rule: Rule, *, now: datetime) -> bool:
    """Return whether what was created at a time, or before it, is too old for a rule."""
    return rule.created_since is not None and time < earliest(rule.created_since, now)


def is_old_enough(time: datetime, rule: Rule, *, now: datetime) -> bool:
    """Return whether a rule takes whatever was created at a time or before it, by its age alone."""
    asks_more = rule.created_since is not None or rule.tags.newest_by == "created"
    return not asks_more and rule.artifact_types == ArtifactTypeSelection() and time <= _latest(rule, now)


def _latest(rule: Rule, now: datetime) -> datetime:
    if rule.min_age is None:
        return datetime.max.replace(tzinfo=UTC)
    return now - timedelta(seconds=parse_duration(rule.min_age))


def matches_always(tag: str, selection: TagSelection) -> bool:
    """Return whether a tag is kept beside the newest."""
    return bool(selection.always) and _takes(tag, selection.always, ())


def match_tags(tags: Iterable[Tag], selection: TagSelection, *, note: Note = _ignore) -> tuple[Tag, ...]:
    """Choose the tags that a selection could take, in alphabetical order, before the newest are counted.

    `note` gets those that are dropped.
    """
    include, matched = included(selection), set[Tag]()
    for tag in tags:
        reason = _reason(tag, include, selection.exclude)
        if reason in TAKING:
            matched.add(tag)
        else:
            note(tag, reason)
    return tuple(sorted(matched))


def included(selection: TagSelection) -> tuple[Matcher, ...]:
    """Return the matchers one of which a tag has to match; none where every tag is included."""
    return (*selection.include, *selection.always) if selection.include else ()


def select_tags(
    tags: Iterable[Tag],
    selection: TagSelection,
    *,
    images: Mapping[Tag, ImageMetadata] | None = None,
    note: Note = _ignore,
) -> tuple[Tag, ...]:
    """Choose tags, in alphabetical order: any include and no exclude matches, then the newest are kept.

    `images` is needed where the newest are those created last. What `always` matches is kept beside the newest.
    `note` gets those that are taken, and those that are not among the newest.
    """
    matched = match_tags(tags, selection)
    if selection.newest is None:
        for tag in matched:
            note(tag, "include" if selection.include else "all")
        return matched
    always = {tag for tag in matched if matches_always(tag, selection)}
    ordered = newest_first(set(matched) - always, selection, images=images)
    newest = set(ordered[: selection.newest])
    for tag in matched:
        note(tag, "always" if tag in always else "newest" if tag in newest else "not_newest")
    return tuple(sorted(always | newest))


def newest_first(
    tags: Iterable[Tag], selection: TagSelection, *, images: Mapping[Tag, ImageMetadata] | None = None
) -> list[Tag]:
    """Sort tags as `newest_by` says, the newest first."""
    return sorted(tags, key=functools.partial(_age, selection.newest_by, images or {}), reverse=True)


def check_matches(count: int, selection: TagSelection) -> None:
    """Raise `ContentError` (`too_few_matches`) where a repository holds fewer images than a rule expects of it."""
    if selection.min_matches is not None and count < selection.min_matches:
        message = (
            f"{count} tags are selected and `min_matches` expects {selection.min_matches}; nothing of it is copied"
        )
        raise ContentError(message, code="too_few_matches")


def earliest(text: str, now: datetime) -> datetime:
    """Return the time that `created_since` stands for: a time or a date, or a duration before now."""
    with contextlib.suppress(ValueError):
        return now - timedelta(seconds=parse_duration(text))
    return datetime.fromisoformat(text)


def _takes(text: str, include: tuple[Matcher, ...], exclude: tuple[Matcher, ...]) -> bool:
    return _reason(text, include, exclude) in TAKING


def _reason(text: str, include: tuple[Matcher, ...], exclude: tuple[Matcher, ...]) -> SelectionReason:
    if include and not any(matches(text) for matches in _parsed(include)):
        return "not_included"
    if any(matches(text) for matches in _parsed(exclude)):
        return "excluded"
    return "include" if include else "all"


@functools.lru_cache(maxsize=256)
def _parsed(matchers: tuple[Matcher, ...]) -> tuple[Matches, ...]:
    return tuple(matches_of(matcher) for matcher in matchers)


def _age(order: str, images: Mapping[Tag, ImageMetadata], tag: Tag) -> tuple[object, ...]:
    if order == "created":
        return images.get(tag, _UNKNOWN).creation or _NEVER, _natural_key(tag)
    if order == "natural":
        return (_natural_key(tag),)
    # Versions are newer than what is none; what is equal as a version (v1.2 and 1.2.0) goes by its spelling.
    version = parse_version(tag)
    return version is not None, version or _NO_VERSION, _natural_key(tag)
