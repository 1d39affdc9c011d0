"""Who is calling, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
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


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is known here: everything but the key itself."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it still opens doors."""
        return self.expires_at is None or now < self.expires_at

    @property
    def caller(self) -> Caller:
        """Who calls with this key."""
        return Caller(self.name, self.scope.implied)
