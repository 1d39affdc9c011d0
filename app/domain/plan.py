"""A plan: the copies a request comes to, before any byte moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.manifest import Platform
from app.domain.reference import Digest, Reference

DigestTags = Literal["unknown", "apart", "present"]
"""What planning saw of tags that belong to images by their digest (`sha256-<hex>`, `sha256-<hex>.sig` …):

`unknown`: the repository's tags were not listed; whoever copies an image looks for its own.
`apart`: there are none, or they are planned as copies of their own; nobody needs to look.
`present`: there are some that the selection does not take; they travel with their images, unchanged ones too.
"""


@dataclass(frozen=True, slots=True)
class PlannedCopy:
    """One source reference and every destination it goes to; it is read once for all of them."""

    source: Reference
    destinations: tuple[Reference, ...]
    platforms: tuple[Platform, ...] = ()
    platform_mode: Literal["sparse", "rewrite"] = "sparse"
    digest_tags: DigestTags = "unknown"


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
