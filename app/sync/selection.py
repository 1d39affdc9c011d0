"""Which repositories, tags and platforms a rule takes. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from natsort import natsort_keygen
from semver import Version

from app.domain.manifest import Descriptor, Manifest, Platform
from app.domain.matcher import Matches, parse_matcher
from app.domain.reference import Tag
from app.domain.request import RepositorySelection, TagSelection
from app.domain.version import parse_version

ATTESTED_DIGEST = "vnd.docker.reference.digest"
"""BuildKit's annotation of an attestation in an index: the digest of the image it is about."""
_NO_VERSION = Version(0, 0, 0, prerelease="0")
_natural_key = natsort_keygen()


def takes_repository(path: str, selection: RepositorySelection) -> bool:
    """Say whether a repository is taken; matchers look at its whole path in the registry."""
    return _takes(path, selection.include, selection.exclude)


def select_tags(tags: Iterable[Tag], selection: TagSelection) -> tuple[Tag, ...]:
    """Choose tags, in alphabetical order: any include and no exclude matches, then the newest are kept."""
    taken = {tag for tag in tags if _takes(tag, selection.include, selection.exclude)}
    if selection.newest is not None:
        taken = set(sorted(taken, key=_age, reverse=True)[: selection.newest])
    return tuple(sorted(taken))


def select_children(index: Manifest, platforms: Sequence[Platform]) -> tuple[Descriptor, ...]:
    """Choose an index's children; no platforms means all.

    What says that it is for another platform is left out, and nothing else: an entry without a platform stays (a
    nested index is looked into later), and an attestation stays with the image it is about.
    """
    if not platforms:
        return index.children
    chosen = {child.digest for child in index.children if _runs_on(child, platforms)}
    return tuple(
        child
        for child in index.children
        if child.digest in chosen or (_is_attestation(child) and dict(child.annotations)[ATTESTED_DIGEST] in chosen)
    )


def _takes(text: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    is_included = not include or any(matches(text) for matches in _parsed(include))
    return is_included and not any(matches(text) for matches in _parsed(exclude))


@functools.lru_cache(maxsize=256)
def _parsed(matchers: tuple[str, ...]) -> tuple[Matches, ...]:
    return tuple(parse_matcher(text) for text in matchers)


def _age(tag: Tag) -> tuple[bool, Version, object]:
    # Versions are newer than what is none; what is equal as a version (v1.2 and 1.2.0) goes by its spelling.
    version = parse_version(tag)
    return version is not None, version or _NO_VERSION, _natural_key(tag)


def _runs_on(child: Descriptor, platforms: Sequence[Platform]) -> bool:
    if _is_attestation(child):
        return False
    return child.platform is None or any(wanted.selects(child.platform) for wanted in platforms)


def _is_attestation(child: Descriptor) -> bool:
    return ATTESTED_DIGEST in dict(child.annotations)
