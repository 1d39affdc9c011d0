"""A plan: the copies a request comes to, before any byte moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.manifest import Platform
from app.domain.reference import Digest, Reference


@dataclass(frozen=True, slots=True)
class PlannedCopy:
    """One source reference and every destination it goes to; it is read once for all of them."""

    source: Reference
    destinations: tuple[Reference, ...]
    platforms: tuple[Platform, ...] = ()
    platform_mode: Literal["sparse", "rewrite"] = "sparse"


@dataclass(frozen=True, slots=True)
class CopyPreview:
    """What a planned copy would do to one destination, found by asking both registries."""

    source: Reference
    destination: Reference
    action: Literal["copy", "update", "up_to_date", "refuse"]
    digest: Digest | None = None
    previous_digest: Digest | None = None
    media_type: str | None = None
    reason: str | None = None
