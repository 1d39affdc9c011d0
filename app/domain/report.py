"""What there is to say of a job: what rules took, results of copies, execution errors, warnings, and their counts.

All of them are data, never HTTP statuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from msgspec import Struct, structs

from app.domain.errors import CopyError, RegistryError, RegistrySyncError, Side
from app.domain.reference import Digest, Reference, Repository, Tag

EXISTS_DIFFERENT = "exists_different_digest"
"""The reason of an image whose destination tag points to something else and was left (`overwrite: never`)."""
CHANGED_SINCE_PLAN = "changed_since_plan"
"""The reason, and the code, of a copy by a plan whose source or destination is not what the plan saw any more."""
RowKind = Literal["image", "listing", "refused"]
"""What a row among a job's images stands for: a copy; a list that could not be had; a copy that planning refused."""


MAX_FIRST = 5
"""Names that a warning, a count of failures or of companions gives; the rest is a number."""
PlanAction = Literal["copy", "update", "up_to_date", "refused", "failed"]
"""What comparing both sides says of a row: `refused` is not copied whatever the registries say, `failed` is unknown."""


class CompanionNames(Struct, frozen=True, gc=False):
    """Referrers and digest tags that come along with an image: how many, and the first of their tags or digests."""

    count: int = 0
    first: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> CompanionNames:
        """Count names, and keep the first in alphabetical order."""
        ordered = sorted(names)
        return cls(len(ordered), tuple(ordered[:MAX_FIRST]))


class ActionCounts(Struct, frozen=True, gc=False):
    """What the rows of a job come to that have ended: how many by what was to be done, and companions beside them."""

    copy: int = 0
    update: int = 0
    up_to_date: int = 0
    refused: int = 0
    failed: int = 0
    companions: int = 0

    def counting(self, action: PlanAction | None, *, companions: int = 0, rows: int = 1) -> ActionCounts:
        """Return the totals with more rows; one without an action (cancelled, superseded) counts for nothing."""
        if action is None:
            return self
        counted = {action: getattr(self, action) + rows, "companions": self.companions + companions}
        return structs.replace(self, **counted)


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many rows of a job failed alike, and the first of them."""

    kind: RowKind
    code: str
    side: Side | None
    count: int
    source: str
    destination: str
    message: str


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an image or a whole job failed; `code` is one of the contract's codes."""

    code: str
    message: str
    side: Side | None = None
    registry: str | None = None
    operation: str | None = None
    status: int | None = None
    temporary: bool = False
    failures: tuple[FailureCount, ...] = ()
    """Of a job that failed because images did (`images_failed`): what they failed for, the most frequent first."""

    @classmethod
    def of(cls, error: RegistrySyncError) -> ExecutionError:
        """Describe an exception of ours."""
        cause = error.cause if isinstance(error, CopyError) else error
        wire = cause if isinstance(cause, RegistryError) else None
        return cls(
            code=error.code,
            message=error.message,
            side=error.side if isinstance(error, CopyError) else None,
            registry=wire.registry if wire else None,
            operation=wire.operation if wire else None,
            status=wire.status if wire else None,
            temporary=bool(getattr(error, "temporary", False)),
        )

    @classmethod
    def of_failures(cls, failures: tuple[FailureCount, ...]) -> ExecutionError:
        """Sum up why a job failed whose images did."""
        ordered = tuple(sorted(failures, key=lambda failure: -failure.count))
        if not ordered:
            return cls("images_failed", "images failed; each says why")
        counts = ", ".join(f"{failure.count} for {_failure_text(failure)}" for failure in ordered)
        number = sum(failure.count for failure in ordered)
        message = f"{number} failed, {counts}; the first: {ordered[0].message}"
        return cls("images_failed", message, failures=ordered)


WARNINGS = {
    "no_match": "nothing matches this rule",
    "repository_unusable": "the list of repositories names some that this service can't use",
    "repository_gone": "the list of repositories names some that are not there; emptied ones often stay in it",
    "tag_unusable": "the list of tags names some that this service can't use",
    "page_without_link": "a list came in pages that were cut short without a Link header; it was read on by `last`",
    "fallback_list_ignored": "a fallback tag of referrers holds something else, so the referrers there are not copied",
    "referrer_skipped": "what is listed as a referrer is not one, or is not there",
    "digest_list_wrong": "a registry's list of digests is not what it answers for its tags; each tag was asked for",
    "companions_unreadable": "what belongs to some images can't be read, so what was hung on them since is not copied",
    "parts_not_asked_for": "some indexes have so many images that what was hung on these since is left to `force`",
    "platform_missing": "some images do not have a platform that was asked for",
    "plan_incomplete": "the plan ends before all of it was seen; plan fewer repositories or tags at a time to see all",
}


@dataclass(frozen=True, slots=True)
class JobWarning:
    """Something the caller should know that stopped nothing: how often it came up, and the first names."""

    code: str
    first: tuple[str, ...] = ()
    count: int = 1
    rule: int | None = None
    """Which of the request's rules, counted from 0, where it is about one."""

    @property
    def message(self) -> str:
        """What it means, in a sentence."""
        names = f": {', '.join(self.first)}" if self.first else ""
        more = f" and {self.count - len(self.first)} more" if self.first and self.count > len(self.first) else ""
        return f"{WARNINGS.get(self.code, self.code)}{names}{more}"


def merged_warnings(existing: tuple[JobWarning, ...], new: Iterable[JobWarning]) -> tuple[JobWarning, ...]:
    """Add warnings up: one for each code and rule, with the first names of all."""
    merged = {(warning.code, warning.rule): warning for warning in existing}
    for warning in new:
        key = (warning.code, warning.rule)
        before = merged.get(key)
        if before is None:
            merged[key] = replace(warning, first=warning.first[:MAX_FIRST])
        else:
            first = tuple(dict.fromkeys((*before.first, *warning.first)))[:MAX_FIRST]
            merged[key] = replace(before, first=first, count=before.count + warning.count)
    return tuple(merged.values())


class Tally(Struct, frozen=True, gc=False):
    """What became of the blobs of one copy so far."""

    blobs_present: int = 0
    blobs_mounted: int = 0
    blobs_transferred: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_transferred: int = 0


def counted_failures(failures: tuple[FailureCount, ...], new: Iterable[FailureCount]) -> tuple[FailureCount, ...]:
    """Add failures up: one count for each kind, code and side, which keeps its first text."""
    counted = {(failure.kind, failure.code, failure.side): failure for failure in failures}
    for failure in new:
        key = (failure.kind, failure.code, failure.side)
        before = counted.get(key)
        counted[key] = failure if before is None else replace(before, count=before.count + failure.count)
    return tuple(counted.values())


def _failure_text(failure: FailureCount) -> str:
    side = f" ({failure.side})" if failure.side else ""
    return f"{failure.code}{side}{'' if failure.kind == 'image' else f' of a {_KIND_TEXTS[failure.kind]}'}"


_KIND_TEXTS = {"listing": "list", "refused": "refused copy"}


class CopyStep(Struct, frozen=True, gc=False):
    """One step of a copy to one destination, for the image's log."""

    at: datetime
    event: str
    """What happened: `compared`, `blob_present`, `blob_mounted`, `blob_transferred`, `upload_resumed`, …"""
    details: Mapping[str, str | int | None]


class CopyResult(Struct, frozen=True, gc=False):
    """How one copy to one destination ended."""

    destination: Reference
    outcome: Literal["copied", "planned", "up_to_date", "failed"]
    action: PlanAction
    reason: str | None = None
    digest: Digest | None = None
    destination_digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    platforms: tuple[str, ...] = ()
    companions: CompanionNames = CompanionNames()
    tally: Tally = Tally()
    error: ExecutionError | None = None
    warnings: tuple[JobWarning, ...] = ()
    attempts: int = 1
    steps: tuple[CopyStep, ...] = ()
    """What was done, the first steps and the last; those between are left out of a long log."""
    retry_after: float | None = None
    """It failed because a registry asked to be left alone so many seconds: no failure, but to be made again then."""
    retry_later: bool = False
    """Retries are exhausted at a registry that had responded before: worth another attempt later."""


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


class SelectionCount(Struct, frozen=True, gc=False):
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
            new = structs.replace(each, reason=instead) if instead is not None and each.taken else each
            known = self._counts.get((new.kind, new.reason))
            self._counts[new.kind, new.reason] = new if known is None else _sum(known, new)

    def _add(self, kind: Literal["repository", "tag"], reason: SelectionReason, name: Reference | Repository) -> None:
        known = self._counts.get((kind, reason))
        if known is None:
            self._counts[kind, reason] = SelectionCount(self._rule, kind, reason, 1, (str(name),))
        else:
            first = known.first if len(known.first) >= MAX_FIRST else (*known.first, str(name))
            self._counts[kind, reason] = structs.replace(known, count=known.count + 1, first=first)


def merged_counts(existing: Iterable[SelectionCount], new: Iterable[SelectionCount]) -> tuple[SelectionCount, ...]:
    """Add counts up: one for each rule, kind and reason; beyond `MAX_COUNTS_WITH_NAMES` (500) without names."""
    merged: dict[tuple[int, str, str], SelectionCount] = {}
    for each in (*existing, *new):
        key = (each.rule, each.kind, each.reason)
        known = merged.get(key)
        if known is not None:
            merged[key] = _sum(known, each)
        else:
            merged[key] = each if len(merged) < MAX_COUNTS_WITH_NAMES else structs.replace(each, first=())
    return tuple(merged.values())


def _sum(one: SelectionCount, other: SelectionCount) -> SelectionCount:
    first = tuple(dict.fromkeys((*one.first, *other.first)))[:MAX_FIRST]
    return structs.replace(one, count=one.count + other.count, first=first)
