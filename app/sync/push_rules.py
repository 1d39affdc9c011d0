"""Push rules: the rules of a policy that select one pushed tag, each reduced to that tag. Pure.

The tag of a list of referrers (`sha256-<hex>`) stands for the image the list is about: that is what its rules copy, by
its digest, and its referrers come along.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.errors import InvalidRequestError
from app.domain.pattern import map_source
from app.domain.policy import Policy
from app.domain.reference import (
    Digest,
    InvalidReferenceError,
    Reference,
    Repository,
    Tag,
    is_digest_tag,
    is_fallback_tag,
)
from app.domain.request import Options, Rule
from app.sync.selection import match_tags, takes_repository

_FOR_EVERY_TAG = {"platforms", "platform_mode", "artifact_types", "created_since", "min_age"}
"""Fields that hold for one tag as for all; names are matched and mapped already."""
_FOR_SUBJECTS = {"platforms", "platform_mode"}
_ANY_TAG = Tag("latest")
"""Stands for a tag where only the repository of what it maps to is looked at."""


@dataclass(frozen=True, slots=True)
class PushRule:
    """A rule about one tag, and which of its policy's rules it comes from."""

    index: int
    rule: Rule

    @property
    def destinations(self) -> tuple[str, ...]:
        """Where the tag goes."""
        return self.rule.destination


def rules_for_push(policy: Policy, pushed: Reference) -> tuple[PushRule, ...]:
    """List the rules that take a pushed tag, each made one for this tag; a place that two rules name goes to the first.

    `newest` can't be known without asking for all tags: a tag that was pushed just now counts as new.
    """
    if pushed.tag is None:
        return ()
    subject = _subject(pushed, policy.options)
    wanted = pushed if subject is None else Reference(pushed.repository, None, subject)
    taken: set[str] = set()
    found = []
    for index, rule in enumerate(policy.rules):
        places = [place for place in _places(rule, wanted, policy.options) if place not in taken]
        if places:
            taken.update(places)
            selected = {"source": str(wanted), "destination": places}
            existing = rule.model_dump(include=_FOR_EVERY_TAG if subject is None else _FOR_SUBJECTS)
            found.append(PushRule(index, Rule.model_validate({**selected, **existing})))
    return tuple(found)


def _places(rule: Rule, pushed: Reference, options: Options) -> tuple[str, ...]:
    position = _position(rule, pushed, options)
    if position is None:
        return ()
    from_pattern = rule.source_pattern.is_pattern
    if pushed.tag is None:
        return _repositories(rule, pushed.repository)
    try:
        mapped = map_source(
            pushed, rule.destination_templates, position=position, from_pattern=from_pattern, mapping=rule.mapping
        )
    except InvalidRequestError:
        return ()  # a whole run says so; for a push there is no place to go to
    return tuple(str(place) for place in mapped)


def _repositories(rule: Rule, repository: Repository) -> tuple[str, ...]:
    """List where a rule copies an image by its digest: under no tag, whatever its tags are renamed to."""
    try:
        mapped = map_source(
            Reference(repository, _ANY_TAG),
            rule.destination_templates,
            position=0,
            from_pattern=rule.source_pattern.is_pattern,
            mapping=rule.mapping,
        )
    except InvalidRequestError:
        return ()
    return tuple(dict.fromkeys(str(place.repository) for place in mapped))


def _subject(pushed: Reference, options: Options) -> Digest | None:
    """Return what a pushed list of referrers is about; None for any other tag, and where referrers are not wanted."""
    tag, wanted = pushed.tag, options.referrers and options.companions != "never"
    if tag is None or not wanted or not is_fallback_tag(tag):
        return None
    try:
        return Digest(tag.replace("-", ":", 1))
    except InvalidReferenceError:
        return None  # cut off, as of sha512


def _position(rule: Rule, pushed: Reference, options: Options) -> int | None:
    """Return the position of the tag in the rule's list, 0 where none are listed, None where it is not selected."""
    pattern = rule.source_pattern
    if pattern.registry != pushed.repository.registry or pattern.digest:
        return None
    if pattern.repository is None:
        below = f"{pattern.namespace}/" if pattern.namespace else ""
        path = pushed.repository.path
        if not path.startswith(below) or not takes_repository(path, rule.repositories):
            return None
    elif pattern.repository != pushed.repository:
        return None
    if pushed.tag is None:
        return 0
    if pattern.tags:
        return pattern.tags.index(pushed.tag) if pushed.tag in pattern.tags else None
    return 0 if _takes_tag(rule, pushed, options) else None


def _takes_tag(rule: Rule, pushed: Reference, options: Options) -> bool:
    if pushed.tag is None or is_fallback_tag(pushed.tag):
        return False  # a list of referrers that are not wanted
    if is_digest_tag(pushed.tag) and options.digest_tags:
        return True  # cosign hangs it on an image that was pushed before
    return bool(match_tags((pushed.tag,), rule.tags))
