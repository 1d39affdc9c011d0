"""A plan: the copies a request comes to, before any byte moves, and what of it can't be planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from app.domain.errors import InvalidRequestError, TransferError
from app.domain.manifest import Platform
from app.domain.reference import Digest, Reference, Repository, Tag
from app.domain.report import MAX_FIRST, CompanionNames, CopyResult, ExecutionError, PlanAction, RowKind, Tally
from app.domain.request import PlatformMode

DigestTags = Literal["unknown", "apart", "present"]
"""What planning saw of tags that belong to images by their digest (`sha256-<hex>`, `sha256-<hex>.sig` …):

`unknown`: the repository's tags were not listed; the copier looks for those of its image.
`apart`: there are none, or they are planned as copies of their own; the copier does not look.
`present`: there are some that the selection does not take; they travel with their images, unchanged ones too.
"""


SelectionReason = Literal[
    "named",
    "all",
    "include",
    "always",
    "newest",
    "attached",
    "not_included",
    "excluded",
    "not_newest",
    "created_since",
    "min_age",
    "artifact_type",
    "missing",
    "too_few_matches",
]
"""Why a rule takes a tag or a repository, or drops it:

`named`: its source lists it. `all`: it includes everything. `include`, `always`: a matcher there matches.
`newest`: it is one of the newest. `attached`: it belongs to an image by its digest, and comes along with it.
`not_included`: no include matches. `excluded`: an exclude matches. `not_newest`: others are newer. `created_since`,
`min_age`: its image is too old, or too young. `artifact_type`: it is of another kind. `missing`: it was listed, or
named, and is not there. `too_few_matches`: its repository holds fewer than `min_matches`.
"""
TAKING: frozenset[SelectionReason] = frozenset({"named", "all", "include", "always", "newest", "attached"})
"""The reasons for which something is taken; for all others it is dropped."""
MAX_COUNTS_WITH_NAMES = 500
"""Counts of one job that say the first names; a request may have thousands of rules."""


@dataclass(frozen=True, slots=True)
class SelectionCount:
    """How many tags or repositories a rule takes or drops for one reason, and the first of them."""

    rule: int
    kind: Literal["repository", "tag"]
    reason: SelectionReason
    count: int
    first: tuple[str, ...] = ()

    @property
    def taken(self) -> bool:
        """Whether they are taken."""
        return self.reason in TAKING


class SelectionTally:
    """Counts what one rule takes and drops, and why."""

    def __init__(self, rule: int) -> None:
        self._rule = rule
        self._counts: dict[tuple[Literal["repository", "tag"], SelectionReason], SelectionCount] = {}

    @property
    def counts(self) -> tuple[SelectionCount, ...]:
        """What was counted, in the order in which each reason came up first."""
        return tuple(self._counts.values())

    def add_tag(self, repository: Repository, tag: Tag | Digest, reason: SelectionReason) -> None:
        """Count a tag, or a digest that a rule names."""
        self._add("tag", reason, Reference(repository, tag) if isinstance(tag, Tag) else repository)

    def add_repository(self, repository: Repository, reason: SelectionReason) -> None:
        """Count a repository."""
        self._add("repository", reason, repository)

    def take_in(self, other: SelectionTally, *, instead: SelectionReason | None = None) -> None:
        """Add another tally of the rule; `instead` is why nothing is taken of what that one has taken."""
        for each in other.counts:
            new = replace(each, reason=instead) if instead is not None and each.taken else each
            known = self._counts.get((new.kind, new.reason))
            self._counts[new.kind, new.reason] = new if known is None else _sum(known, new)

    def _add(self, kind: Literal["repository", "tag"], reason: SelectionReason, name: Reference | Repository) -> None:
        known = self._counts.get((kind, reason))
        if known is None:
            self._counts[kind, reason] = SelectionCount(self._rule, kind, reason, 1, (str(name),))
        else:
            first = known.first if len(known.first) >= MAX_FIRST else (*known.first, str(name))
            self._counts[kind, reason] = replace(known, count=known.count + 1, first=first)


def merged_counts(existing: Iterable[SelectionCount], new: Iterable[SelectionCount]) -> tuple[SelectionCount, ...]:
    """Add counts up: one for each rule, kind and reason; beyond `MAX_COUNTS_WITH_NAMES` (500) without names."""
    merged: dict[tuple[int, str, str], SelectionCount] = {}
    for each in (*existing, *new):
        key = (each.rule, each.kind, each.reason)
        known = merged.get(key)
        if known is not None:
            merged[key] = _sum(known, each)
        else:
            merged[key] = each if len(merged) < MAX_COUNTS_WITH_NAMES else replace(each, first=())
    return tuple(merged.values())


def _sum(one: SelectionCount, other: SelectionCount) -> SelectionCount:
    first = tuple(dict.fromkeys((*one.first, *other.first)))[:MAX_FIRST]
    return replace(one, count=one.count + other.count, first=first)


@dataclass(frozen=True, slots=True)
class SeenDigests:
    """What a plan saw on both sides of one copy; None is a destination that was not there."""

    source: Digest
    destination: Digest | None


@dataclass(frozen=True, slots=True)
class PlannedCopy:
    """One source reference and every destination it goes to; it is read once for all of them."""

    source: Reference
    destinations: tuple[Reference, ...]
    platforms: tuple[Platform, ...] = ()
    platform_mode: PlatformMode = "auto"
    digest_tags: DigestTags = "unknown"
    many: bool = False
    """Whether so many of the repository's tags are copied that a list of all their digests saves requests."""
    rule: int | None = None
    """Which of the request's rules takes it, counted from 0."""
    seen: Mapping[Reference, SeenDigests] = field(default_factory=dict)
    """By destination, what an earlier plan saw: it is copied only where that still is so."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list that planning asks a registry for: the repositories of a pattern, or the tags of one repository."""

    rule: int
    """Which of the request's rules, counted from 0."""
    source: str
    """The rule's own source (`host/ns/**`), or the repository (`host/ns/app`)."""


@dataclass(frozen=True, slots=True)
class FailedListing:
    """A list that could not be had: what it would have come to is not planned, all else is."""

    listing: Listing
    destination: str
    """Where it would have gone, as the rule says it."""
    error: TransferError


@dataclass(frozen=True, slots=True)
class RefusedCopy:
    """A copy that can't be made, whatever the registries say: its destination is another's, or is no name."""

    source: str
    destination: str
    error: InvalidRequestError


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What would become of one copy to one destination, found by asking both registries; or what can't be planned."""

    source: str
    destination: str
    action: PlanAction
    kind: RowKind = "image"
    rule: int | None = None
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    """What the destination would have: another digest where platforms are rewritten."""
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    companions: CompanionNames = field(default_factory=CompanionNames)
    tally: Tally = field(default_factory=Tally)
    error: ExecutionError | None = None

    @classmethod
    def of_failure(cls, failed: FailedListing | RefusedCopy) -> PlanResult:
        """Say what could not be planned."""
        error = ExecutionError.of(failed.error)
        if isinstance(failed, RefusedCopy):
            return cls(failed.source, failed.destination, "refused", "refused", reason=error.code, error=error)
        listing, to = failed.listing, failed.destination
        return cls(listing.source, to, "failed", "listing", listing.rule, reason=error.code, error=error)

    @classmethod
    def of_result(cls, copy: PlannedCopy, result: CopyResult) -> PlanResult:
        """Say what a dry run of a copy came to at one of its destinations."""
        return cls(
            str(copy.source),
            str(result.destination),
            result.action,
            rule=copy.rule,
            reason=result.error.code if result.error else result.reason,
            digest=result.digest,
            destination_digest=result.destination_digest,
            previous_digest=result.previous_digest,
            media_type=result.media_type,
            platforms=result.platforms,
            companions=result.companions,
            tally=result.tally,
            error=result.error,
        )
