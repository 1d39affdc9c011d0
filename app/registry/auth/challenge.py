"""`WWW-Authenticate` challenges (RFC 9110 11.6.1), and the scopes of registry tokens in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 — RFC 9110's word for a bare word
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=\s|,|$)[ \t]*")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})[ \t]*=(?!=)[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}(?=\s|,|$)|[^\s,"]*))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(,|$))")
_MAX_HEADER_LENGTH = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in: the scheme, lower case, and its parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """Where a token is to be had; empty when not said."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """What the token server calls the registry."""
        return self.parameters.get("service", "")

    @property
    def error(self) -> str:
        """Why a token that was sent would not do, such as `insufficient_scope`."""
        return self.parameters.get("error", "")

    @property
    def scopes(self) -> Scopes:
        """What the token has to allow."""
        return Scopes.parse(self.parameters.get("scope", ""))


@dataclass(frozen=True, slots=True)
class Scopes:
    """What a token allows: for each resource (`repository:team/app`) its actions, sorted; one entry a resource.

    Token servers of GitLab let a second entry of one resource replace the first, so they are always merged.
    """

    resources: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def of(cls, grants: Iterable[tuple[str, Iterable[str]]]) -> Self:
        """Merge grants; the order of the resources is kept, since some servers look at the first one only."""
        merged: dict[str, set[str]] = {}
        for resource, actions in grants:
            merged.setdefault(resource, set()).update(actions)
        return cls(tuple((resource, tuple(sorted(actions))) for resource, actions in merged.items()))

    @classmethod
    def repository(cls, path: str, *actions: str) -> Self:
        """Allow actions on one repository."""
        return cls.of([(f"repository:{path}", actions)])

    @classmethod
    def catalog(cls) -> Self:
        """Allow listing the registry's repositories."""
        return cls.of([("registry:catalog", ["*"])])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a challenge's `scope`: several scopes with blanks between; what is none is left out."""
        grants = []
        for scope in text.split():
            resource, colon, actions = scope.rpartition(":")
            if colon and ":" in resource:
                grants.append((resource, [action for action in actions.split(",") if action]))
        return cls.of(grants)

    def merge(self, other: Scopes) -> Scopes:
        """Allow what either allows, our resources first."""
        return Scopes.of([*self.resources, *other.resources])

    def restricted_to(self, wanted: Scopes) -> Scopes:
        """Keep resources that `wanted` names too, and never `delete`: Quay grants nothing to who asks for it."""
        names = {resource for resource, _ in wanted.resources}
        existing = ((name, [action for action in actions if action != "delete"]) for name, actions in self.resources)
        return Scopes.of((name, actions) for name, actions in existing if name in names)

    def __contains__(self, other: Scopes) -> bool:
        granted = {resource: set(actions) for resource, actions in self.resources}
        return all(set(actions) <= granted.get(resource, set()) for resource, actions in other.resources)

    def texts(self) -> tuple[str, ...]:
        """Write each resource the way token servers read it."""
        return tuple(f"{resource}:{','.join(actions)}" for resource, actions in self.resources)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read every challenge of every `WWW-Authenticate` header; what can't be read ends its header."""
    return tuple(challenge for header in headers for challenge in _parse(header[:_MAX_HEADER_LENGTH]))


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while scheme := _SCHEME.match(header, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters.setdefault(name.lower(), value)
            position = parameter.end()
        if not parameters and (token := _TOKEN68.match(header, position)) and "=" in token[0]:
            position = token.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found
