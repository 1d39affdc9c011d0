"""What of a request is still to be planned: destinations that are claimed already, and lists that are wanted or not.

A destination tag belongs to the first source that claims it, over all rules of a request and over every attempt at
planning: a planner that is started again, or the planning of a retry, begins with the claims of the rows there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from app.domain.errors import InvalidRequestError
from app.domain.manifest import Platform
from app.domain.pattern import AS_IT_IS, DestinationTemplate
from app.domain.plan import Listing, PlannedCopy, RefusedCopy
from app.domain.reference import DOCKER_HUB, Reference, Repository
from app.domain.request import Rule


@dataclass(frozen=True, slots=True)
class _Origin:
    """What goes to a destination, but for its tag or digest: one for all tags of a repository."""

    repository: Repository
    platforms: tuple[Platform, ...]
    mode: str


_Claim = _Origin | tuple[_Origin, str]
"""Where a source's tag is another one than the destination's, it stands beside the origin. Hundreds of thousands of
these are held while a large request is planned."""


class DestinationClaims:
    """Remembers which source claimed which destination first."""

    def __init__(self) -> None:
        self._origins: dict[_Origin, _Origin] = {}
        self._places: dict[Repository, dict[str, _Claim]] = {}
        self._refused: set[tuple[str, str]] = set()

    def take(self, copy: PlannedCopy) -> Iterator[PlannedCopy | RefusedCopy]:
        """Yield what is new of a copy: the destinations it claims, and a refusal for each that belongs to another.

        Nothing for a destination that this very copy was planned for before. Another choice of platforms comes to other
        content, so it is another source.
        """
        claimed: list[Reference] = []
        for destination in copy.destinations:
            first = self._claim(copy, destination)
            if first is None:
                claimed.append(destination)
            elif first != self._claim_of(copy, destination):
                yield from self.refuse(copy.source, str(destination), self._conflict(copy, destination, first))
        if claimed:
            yield replace(copy, destinations=tuple(claimed))

    def release(self, repositories: Iterable[Repository]) -> None:
        """Forget what is claimed in repositories that nothing that is still to be planned can go to."""
        for repository in repositories:
            for claim in self._places.pop(repository, {}).values():
                self._origins.pop(claim if isinstance(claim, _Origin) else claim[0], None)

    def recall(self, copy: PlannedCopy) -> None:
        """Note a copy that was planned before; where two claim one destination, the first stays."""
        for destination in copy.destinations:
            self._claim(copy, destination)

    def recall_refusal(self, source: str, destination: str) -> None:
        """Note a copy that was refused before: it is not refused a second time."""
        self._refused.add((source, destination))

    def refuse(self, source: Reference, destination: str, error: InvalidRequestError) -> Iterator[RefusedCopy]:
        """Yield a copy's refusal, unless it was refused before."""
        pair = str(source), destination
        if pair not in self._refused:
            self._refused.add(pair)
            yield RefusedCopy(*pair, error)

    def _claim(self, copy: PlannedCopy, destination: Reference) -> _Claim | None:
        places = self._places.setdefault(destination.repository, {})
        target = str(destination.target)
        first = places.get(target)
        if first is None:
            places[target] = self._claim_of(copy, destination)
        return first

    def _claim_of(self, copy: PlannedCopy, destination: Reference) -> _Claim:
        mode = copy.platform_mode if copy.platforms else ""  # says nothing where all platforms are copied
        origin = _Origin(copy.source.repository, copy.platforms, mode)
        origin = self._origins.setdefault(origin, origin)
        source_target = str(copy.source).removeprefix(str(copy.source.repository))
        is_same = source_target == str(destination).removeprefix(str(destination.repository))
        return origin if is_same else (origin, source_target)

    def _conflict(self, copy: PlannedCopy, destination: Reference, first: _Claim) -> InvalidRequestError:
        taken_by, refused = _shown(first, destination), _shown(self._claim_of(copy, destination), destination)
        message = (
            f"{taken_by} and {refused} would both become {destination}; it goes to the first. "
            "Give one of them another destination, or exclude it"
        )
        return InvalidRequestError(message, code="destination_conflict")


@dataclass(frozen=True, slots=True)
class PlanScope:
    """What of a request is to be planned."""

    claims: DestinationClaims = field(default_factory=DestinationClaims)
    only: frozenset[Listing] | None = None
    """The lists to be had again, and nothing else; None plans the whole request."""
    without: frozenset[Listing] = frozenset()
    """Lists that failed in an earlier attempt at the same planning, and have a row that says so."""

    def wants_rule(self, rule: int) -> bool:
        """Say whether anything of a rule is to be planned."""
        return self.only is None or any(listing.rule == rule for listing in self.only)

    def wants(self, listing: Listing) -> bool:
        """Say whether a list is to be had."""
        return listing not in self.without and (self.only is None or listing in self.only)

    def repositories_of(self, rule: int) -> tuple[str, ...]:
        """Name the repositories of a rule whose tags are to be listed, in order."""
        wanted = (self.only or frozenset()) - self.without
        return tuple(sorted(listing.source for listing in wanted if listing.rule == rule))


MAX_RULES_LOOKED_AT = 50
"""Rules after one that are asked whether they may go to a repository, for each repository."""


def released_by(rule: Rule, later: Sequence[Rule], places: Iterable[Repository]) -> list[Repository]:
    """List the destinations of one of a rule's repositories that, when it is planned, nothing else can go to.

    So a plan of any number of tags holds the claims of one repository at a time: where a rule keeps the names of its
    repositories, which no two then share, and no rule after it goes to the same place.
    """
    if len(later) > MAX_RULES_LOOKED_AT or not _keeps_apart(rule):
        return []
    templates = [template for other in later for template in other.destination_templates]
    return [place for place in places if not any(_may_fill(template, place) for template in templates)]


def _keeps_apart(rule: Rule) -> bool:
    templates = rule.destination_templates
    has_own_places = len({template.registry for template in templates}) == len(templates)
    keeps_names = all(
        template.registry != DOCKER_HUB  # where a path of one part is one of library/, too
        and ("{repository}" in template.path or (rule.source_pattern.is_pattern and "{" not in template.path))
        for template in templates
    )
    return rule.mapping == AS_IT_IS and has_own_places and keeps_names


def _may_fill(template: DestinationTemplate, place: Repository) -> bool:
    return template.registry == place.registry and place.path.startswith(template.path.partition("{")[0])


def _shown(claim: _Claim, destination: Reference) -> str:
    origin, target = claim if isinstance(claim, tuple) else (claim, None)
    source = f"{origin.repository}{target or str(destination).removeprefix(str(destination.repository))}"
    return f"{source} ({', '.join(map(str, origin.platforms))}: {origin.mode})" if origin.platforms else source
