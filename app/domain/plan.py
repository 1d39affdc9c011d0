"""A plan: the copies a request comes to, before any byte moves, and what of it can't be planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from app.domain.errors import InvalidRequestError, TransferError
from app.domain.manifest import Platform
from app.domain.reference import Digest, Reference
from app.domain.report import CompanionNames, CopyResult, ExecutionError, PlanAction, RowKind, Tally
from app.domain.request import PlatformMode

DigestTags = Literal["unknown", "none", "apart", "present"]
"""What planning saw of tags that belong to images by their digest (`sha256-<hex>`, `sha256-<hex>.sig` …):

`unknown`: the repository's tags were not listed; the copier looks for those of its image.
`none`: the repository has none; the copier does not look, and where there is no referrers API it asks for none either.
`apart`: they are planned as copies of their own; the copier does not look.
`present`: there are some that the selection does not take; they travel with their images, unchanged ones too.
"""


@dataclass(frozen=True, slots=True)
class SeenDigests:
    """What a plan saw on both sides of one copy; None is a destination that was not there."""

    source: Digest
    destination: Digest | None


class PlannedCopy(Struct, frozen=True, gc=False):
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
    seen: Mapping[Reference, SeenDigests] = {}
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
    rule: int | None = None
    """Which of the request's rules it is of, counted from 0."""


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
            to, rule = failed.destination, failed.rule
            return cls(failed.source, to, "refused", "refused", rule, error=error)
        listing, to = failed.listing, failed.destination
        return cls(listing.source, to, "failed", "listing", listing.rule, error=error)

    @classmethod
    def of_result(cls, copy: PlannedCopy, result: CopyResult) -> PlanResult:
        """Say what a dry run of a copy came to at one of its destinations."""
        return cls(
            str(copy.source),
            str(result.destination),
            result.action,
            rule=copy.rule,
            reason=result.reason,
            digest=result.digest,
            destination_digest=result.destination_digest,
            previous_digest=result.previous_digest,
            media_type=result.media_type,
            platforms=result.platforms,
            companions=result.companions,
            tally=result.tally,
            error=result.error,
        )
