"""What a new API key may do, and what it is bound to, as options of `create-key` say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from app.cli.api_errors import WrongArgumentError
from app.domain.access import Scope, ScopePreset
from app.domain.grants import Grant

_DIRECTIONS = ("read", "write")
_OPTION_OF = {"allow": "--allow", "policies": "--policy", "jobs": "--jobs", "addresses": "--address"}


def read_scopes(texts: Sequence[str]) -> frozenset[Scope]:
    """Return the scopes that some names stand for, of presets or of scopes; raise `WrongArgumentError`."""
    found: frozenset[Scope] = frozenset()
    for text in texts:
        if text in set(ScopePreset):
            found |= ScopePreset(text).scopes
        elif text in set(Scope):
            found |= {Scope(text)}
        else:
            raise WrongArgumentError(f"--scope {text}: say one of {', '.join([*ScopePreset, *Scope])}")
    return found


def read_grant(
    *,
    allow: Sequence[str] | None,
    policies: Sequence[str] | None,
    jobs: str | None,
    addresses: Sequence[str] | None,
) -> Grant:
    """Return what a key is bound to; raise `WrongArgumentError` naming the option."""
    given = {
        "allow": [_allowed(text) for text in allow] if allow else None,
        "policies": policies or None,
        "jobs": jobs,
        "addresses": addresses or None,
    }
    try:
        return Grant.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongArgumentError(f"{_OPTION_OF[str(first['loc'][0])]}: {first['msg']}") from None


def _allowed(text: str) -> dict[str, Any]:
    word, colon, rest = text.partition(":")
    direction, place = (word, rest) if colon and word in _DIRECTIONS else ("both", text)
    host, _, repositories = place.partition("/")
    return {"registries": [host], "repositories": [repositories or "**"], "direction": direction}
