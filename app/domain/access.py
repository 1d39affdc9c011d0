"""Who is calling, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.errors import AccessError


class Scope(StrEnum):
    """What a key allows; each scope implies those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    @property
    def implied(self) -> frozenset[Scope]:
        """This scope and all it implies."""
        order = list(Scope)
        return frozenset(order[: order.index(self) + 1])


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller: a key by its name, a hook, a policy, or the local operator while no key exists."""

    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raise `AccessError` unless this caller has the scope."""
        if scope not in self.scopes:
            message = f"this needs the scope {scope}, which the key {self.name!r} does not have"
            raise AccessError(message, code="insufficient_scope")
