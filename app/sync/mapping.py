"""Where each source goes, and that no two sources go to one place. Pure."""

from __future__ import annotations

from app.domain.errors import InvalidRequestError
from app.domain.pattern import DestinationTemplate
from app.domain.plan import PlannedCopy
from app.domain.reference import InvalidReferenceError, Reference, Repository


def map_source(
    source: Reference, templates: tuple[DestinationTemplate, ...], *, position: int = 0, from_pattern: bool = False
) -> tuple[Reference, ...]:
    """Fill every template for one source; raise `InvalidRequestError` where the outcome is no name."""
    try:
        filled = [template.fill(source, position=position, from_pattern=from_pattern) for template in templates]
    except InvalidReferenceError as error:
        raise InvalidRequestError(str(error), code="invalid_destination") from error
    return tuple(dict.fromkeys(filled))


class Destinations:
    """Remembers what goes where over all of a request's rules."""

    def __init__(self) -> None:
        self._taken: dict[Repository, dict[str, _Origin]] = {}

    def claim(self, copy: PlannedCopy) -> PlannedCopy | None:
        """Leave out the destinations this very copy was planned for before; None when nothing is left.

        Raises `InvalidRequestError` (`destination_conflict`) when something else goes to one of them: another source,
        or the same source with another choice of platforms, which comes to other content.
        """
        origin = (copy.source, copy.platforms, copy.platform_mode)
        new = tuple(place for place in copy.destinations if self._is_new(place, origin))
        if not new:
            return None
        return PlannedCopy(copy.source, new, copy.platforms, copy.platform_mode, copy.digest_tags)

    def _is_new(self, destination: Reference, origin: _Origin) -> bool:
        places = self._taken.setdefault(destination.repository, {})
        first = places.setdefault(str(destination.target), origin)
        if first is origin:
            return True
        if first != origin:
            raise InvalidRequestError(
                f"{_shown(first)} and {_shown(origin)} would both become {destination}", code="destination_conflict"
            )
        return False


_Origin = tuple[Reference, tuple[object, ...], str]


def _shown(origin: _Origin) -> str:
    source, platforms, mode = origin
    return f"{source} ({', '.join(map(str, platforms))}: {mode})" if platforms else str(source)
