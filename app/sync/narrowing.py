"""What one pushed tag comes to in a policy: each rule that takes it, narrowed to that tag alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.errors import InvalidRequestError
from app.domain.reference import Reference, is_digest_tag, is_fallback_tag
from app.domain.request import Options, Rule, TagSelection
from app.domain.trigger import Policy
from app.sync.mapping import map_source
from app.sync.selection import select_tags, takes_repository


@dataclass(frozen=True, slots=True)
class NarrowedRule:
    """A rule about one tag, and which of its policy's rules it comes from."""

    index: int
    rule: Rule

    @property
    def destinations(self) -> tuple[str, ...]:
        """Where the tag goes."""
        return self.rule.destination


def narrow(policy: Policy, pushed: Reference) -> tuple[NarrowedRule, ...]:
    """List the rules that take a pushed tag, each made one for this tag; a place that two rules name goes to the first.

    `newest` can't be told without asking for all tags: a tag that was pushed just now counts as new.
    """
    taken: set[str] = set()
    found = []
    for index, rule in enumerate(policy.rules):
        places = [place for place in _places(rule, pushed, policy.options) if place not in taken]
        if places:
            taken.update(places)
            narrowed = {"source": str(pushed), "destination": places}
            kept = rule.model_dump(include={"platforms", "platform_mode"})
            found.append(NarrowedRule(index, Rule.model_validate({**narrowed, **kept})))
    return tuple(found)


def _places(rule: Rule, pushed: Reference, options: Options) -> tuple[str, ...]:
    position = _position(rule, pushed, options)
    if position is None:
        return ()
    from_pattern = rule.source_pattern.is_pattern
    try:
        mapped = map_source(pushed, rule.destination_templates, position=position, from_pattern=from_pattern)
    except InvalidRequestError:
        return ()  # a whole run says so; for a push there is no place to go to
    return tuple(str(place) for place in mapped)


def _position(rule: Rule, pushed: Reference, options: Options) -> int | None:
    """Say which of the tags listed it is, 0 where none are listed, None where the rule does not take it."""
    pattern = rule.source_pattern
    if pattern.registry != pushed.repository.registry or pattern.digest or pushed.tag is None:
        return None
    if pattern.repository is None:
        below = f"{pattern.namespace}/" if pattern.namespace else ""
        path = pushed.repository.path
        if not path.startswith(below) or not takes_repository(path, rule.repositories):
            return None
    elif pattern.repository != pushed.repository:
        return None
    if pattern.tags:
        return pattern.tags.index(pushed.tag) if pushed.tag in pattern.tags else None
    return 0 if _takes_tag(rule, pushed, options) else None


def _takes_tag(rule: Rule, pushed: Reference, options: Options) -> bool:
    if pushed.tag is None or is_fallback_tag(pushed.tag):
        return False  # the registry's own list of referrers: each side keeps its own
    if is_digest_tag(pushed.tag) and options.digest_tags:
        return True  # cosign hangs it on an image that was pushed before
    selection = TagSelection(include=rule.tags.include, exclude=rule.tags.exclude)
    return bool(select_tags((pushed.tag,), selection))
