"""Access: callers, API keys, their scopes and presets of scopes, and which request something is done for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.errors import AccessError
from app.domain.grants import UNBOUND, Grant


class Scope(StrEnum):
    """One thing that a key allows to do; a key has any number of them."""

    JOBS_READ = "jobs:read"
    JOBS_SUBMIT = "jobs:submit"
    JOBS_CANCEL = "jobs:cancel"
    JOBS_PRIORITY = "jobs:priority"
    """Submit with `priority: high`, in front of the jobs of all others."""
    POLICIES_READ = "policies:read"
    POLICIES_WRITE = "policies:write"
    REGISTRIES_READ = "registries:read"
    REGISTRIES_WRITE = "registries:write"
    HOOKS = "hooks"
    """Subscriptions and their deliveries: what the service tells others, and with which secret."""
    AUDIT = "audit"
    KEYS = "keys"


class ScopePreset(StrEnum):
    """Several scopes by one name; each preset implies those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    @property
    def scopes(self) -> frozenset[Scope]:
        """The scopes it stands for."""
        return _SCOPES[self]


_READ = frozenset({Scope.JOBS_READ, Scope.POLICIES_READ, Scope.REGISTRIES_READ})
_SUBMIT = _READ | {Scope.JOBS_SUBMIT, Scope.JOBS_CANCEL, Scope.POLICIES_WRITE}
_SCOPES = {
    ScopePreset.READ: _READ,
    ScopePreset.SUBMIT: _SUBMIT,
    ScopePreset.ADMIN: frozenset(Scope),
}
INDIVISIBLE_SCOPES = frozenset({Scope.HOOKS, Scope.AUDIT, Scope.KEYS})
"""What these show is about everything, so a key that is bound can't have them."""


RESERVED_KEY_NAMES = frozenset({"local", "command-line", "settings", "bootstrap", "registry-sync"})
"""What jobs and the audit log call callers without a key of their own, and the service itself: no key is called so."""


def preset_of(scopes: frozenset[Scope]) -> ScopePreset | None:
    """Return the preset that stands for exactly these scopes, or None."""
    return next((preset for preset, its in _SCOPES.items() if its == scopes), None)


@dataclass(frozen=True, slots=True)
class VisibleJobs:
    """The jobs that a caller may see: those it made, and those of policies with some names."""

    created_by: str
    policies: tuple[str, ...]
    """Names, or beginnings of names with `*`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller: a key by its name, a hook, a policy, or the local operator while no key exists.

    - `grant`: what it may touch and see; everything by default
    - `key_id`: the id of the key it came with; None for a caller without one
    - `expires_at`: when the token it came with ends; None for a caller without one
    """

    name: str
    scopes: frozenset[Scope]
    grant: Grant = UNBOUND
    key_id: str | None = None
    expires_at: datetime | None = None

    def require(self, scope: Scope) -> None:
        """Raise `AccessError` unless this caller has the scope."""
        if scope not in self.scopes:
            message = f"this needs the scope {scope}, which the key {self.name!r} does not have"
            raise AccessError(message, code="insufficient_scope")

    def require_all_of_it(self) -> None:
        """Raise `AccessError` for a caller that is bound: what is asked for is about everything."""
        if self.grant.is_bound:
            message = f"this is about everything, and the key {self.name!r} is bound to some of it"
            raise AccessError(message, code="insufficient_scope")

    @property
    def visible_jobs(self) -> VisibleJobs | None:
        """The jobs it may see, cancel, retry and delete; None for all of them."""
        return None if self.grant.sees_all_jobs else VisibleJobs(self.name, self.grant.policy_patterns)

    def sees_job(self, *, created_by: str, policy: str | None) -> bool:
        """Return whether a job is among those it may see."""
        return (
            self.grant.sees_all_jobs
            or created_by == self.name
            or (policy is not None and self.grant.sees_policy(policy))
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is known here: everything but the key itself."""

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    grant: Grant = UNBOUND

    def is_valid(self, now: datetime) -> bool:
        """Whether it is still valid."""
        return self.expires_at is None or now < self.expires_at

    @property
    def preset(self) -> ScopePreset | None:
        """The preset of its scopes, or None."""
        return preset_of(self.scopes)

    @property
    def may_do_everything(self) -> bool:
        """Whether it has all scopes, unbound and from everywhere: one such key there has to be."""
        return self.scopes == frozenset(Scope) and self.grant == UNBOUND

    @property
    def caller(self) -> Caller:
        """Who calls with this key."""
        return Caller(self.name, self.scopes, self.grant, self.id)


@dataclass(frozen=True, slots=True)
class AuditContext:
    """The request that something is done for: where it came from, with which key, and its id. Empty for none."""

    peer: str | None = None
    """The address of the peer of the connection."""
    key_id: str | None = None
    request_id: str | None = None


AUDIT_CONTEXT: ContextVar[AuditContext] = ContextVar("audit_context", default=AuditContext())  # noqa: B039 — frozen
"""The request that this task works for."""
