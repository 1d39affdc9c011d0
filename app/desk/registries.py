"""Registry entries: enter, change, remove; and whether a request's hosts may be spoken to at all.

A stored secret goes only where its owner sent it: to another host, or over plain http, it has to be sent again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import datetime

from cachetools import TTLCache
from pydantic import SecretStr

from app.domain.access import Caller
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError, FieldError, InvalidRequestError
from app.domain.reference import Registry
from app.domain.registry import CLOSED, Auth, BasicAuth, BearerAuth, IdentityTokenAuth, KeptRegistry, RegistryEntry
from app.domain.request import SyncRequest
from app.domain.trigger import GoogleProof, HookSettings
from app.observability import get_logger
from app.security import AddressRules, HostRefusedError, Sealer
from app.store.audit import AuditStore
from app.store.database import Database
from app.store.registries import RegistryStore

RECENT_SECONDS = 1.0
"""Registered hosts are read once in this time, not for every request; who has them removed elsewhere waits as long."""
_HOSTS = "hosts"

log = get_logger(__name__)


class RegistryService:
    """Enter, change, list and remove registries."""

    def __init__(self, database: Database, *, sealer: Sealer, rules: AddressRules, now: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._rules = rules
        self._now = now
        self._recent: TTLCache[str, frozenset[Registry]] = TTLCache(1, RECENT_SECONDS)

    async def list(self) -> tuple[KeptRegistry, ...]:
        """List all registries by name, their secrets closed."""
        async with self._database.reading() as session:
            return await RegistryStore(session, self._sealer).list_kept()

    async def get(self, name: str) -> KeptRegistry:
        """Read a registry, its secrets closed; raise `NotFoundError`."""
        async with self._database.reading() as session:
            return await RegistryStore(session, self._sealer).get_kept(name)

    async def put(
        self, entry: RegistryEntry, *, expected_version: int | None, caller: Caller
    ) -> tuple[KeptRegistry, bool]:
        """Enter or replace a registry; an empty secret stands for the one kept. Return it, and whether it is new.

        Raise `InvalidRequestError` (`secret_required`, `host_not_allowed`), `ConflictError` (`host_taken`,
        `precondition_failed`).
        """
        if refusal := self.refusal(entry.registry, is_registered=True):
            raise _refused([FieldError("/host", "host_not_allowed", refusal)])
        async with self._database.transaction() as session:
            store = RegistryStore(session, self._sealer)
            kept = await store.find_kept(entry.name, is_held=True)
            _check_version(kept, expected_version)
            if missing := missing_secrets(entry, kept.entry if kept else None):
                raise _secrets_required(missing)
            opened = await store.find(entry.name) if kept and _lacks_secrets(entry) else None
            is_new = await store.put(with_kept_secrets(entry, opened), now=self._now())
            stored = await store.get_kept(entry.name)
            details = changes(kept.entry if kept else None, stored.entry, sent=entry)
            action = AuditAction.REGISTRY_CREATED if is_new else AuditAction.REGISTRY_CHANGED
            await AuditStore(session).add(AuditEntry(self._now(), caller.name, action, entry.name, details))
        log.info("registry_entered", registry=entry.name, host=entry.host, is_new=is_new, by=caller.name)
        return stored, is_new

    async def delete(self, name: str, *, expected_version: int | None, caller: Caller) -> None:
        """Remove a registry; raise `NotFoundError`, `ConflictError` (`precondition_failed`)."""
        async with self._database.transaction() as session:
            store = RegistryStore(session, self._sealer)
            kept = await store.get_kept(name, is_held=True)
            _check_version(kept, expected_version)
            await store.delete(name)
            details = changes(kept.entry, None)
            entry = AuditEntry(self._now(), caller.name, AuditAction.REGISTRY_DELETED, name, details)
            await AuditStore(session).add(entry)
        self._recent.clear()
        log.info("registry_removed", registry=name, by=caller.name)

    async def check_hosts(self, request: SyncRequest) -> None:
        """Refuse hosts that can be known to be out of bounds without asking anyone; raise `InvalidRequestError`.

        Names are not resolved here: what they resolve to is checked before each connection.
        """
        wanted = _hosts(request)
        doubtful = {registry for _, registry in wanted if self.refusal(registry, is_registered=False)}
        registered = await self._registered(doubtful) if doubtful else frozenset()
        problems = [
            FieldError(pointer, "host_not_allowed", refusal)
            for pointer, registry in wanted
            if (refusal := self.refusal(registry, is_registered=registry in registered))
        ]
        if problems:
            raise _refused(problems)

    async def _registered(self, wanted: AbstractSet[Registry]) -> AbstractSet[Registry]:
        """Read which hosts are registered, anew where the wanted ones were not a moment ago."""
        known = self._recent.get(_HOSTS)
        if known is None or not wanted <= known:
            known = self._recent[_HOSTS] = frozenset(kept.entry.registry for kept in await self.list())
        return known

    def refusal(self, registry: Registry, *, is_registered: bool) -> str | None:
        """Say why a host can be known to be out of bounds without asking anyone; None when it can't."""
        host = registry.hostname
        try:
            self._rules.check_host(host)
            if _is_address(host):
                self._rules.check(host, host, is_registered=is_registered)
        except HostRefusedError as error:
            return error.message
        if not is_registered and (host == "localhost" or host.endswith(".localhost")):
            return f"{host} is not a public address; register the host to allow it"
        return None


def missing_secrets(new: RegistryEntry, kept: RegistryEntry | None) -> tuple[str, ...]:
    """Tell which secrets a change has to bring along, as JSON pointers: those not kept, or kept for another place."""
    same_place = kept is not None and (kept.host, kept.insecure) == (new.host, new.insecure)
    missing = []
    place = _secret_place(new.auth)
    if place and _is_empty(new.auth) and not (same_place and kept and _same_login(new.auth, kept.auth)):
        missing.append(place)
    if new.tls.client_certificate and not new.tls.client_key:
        same_certificate = kept is not None and kept.tls.client_certificate == new.tls.client_certificate
        if not (same_place and same_certificate):
            missing.append("/tls/client_key")
    if _hook_secret(new.hook) == CLOSED and not _same_hook(new.hook, kept.hook if kept else None):
        missing.append("/hook/auth/secret")  # it goes nowhere from here, so another host does not matter
    return tuple(missing)


def with_kept_secrets(new: RegistryEntry, kept: RegistryEntry | None) -> RegistryEntry:
    """Fill in the secrets that were not sent, from the entry as kept."""
    if kept is None:
        return new
    auth, tls = new.auth, new.tls
    if _is_empty(auth):
        auth = kept.auth
    if tls.client_certificate and not tls.client_key:
        tls = tls.model_copy(update={"client_key": kept.tls.client_key})
    hook = kept.hook if _hook_secret(new.hook) == CLOSED and new.hook and kept.hook else None
    if hook is not None and new.hook is not None:
        proof = new.hook.auth.model_copy(update={"secret": _hook_secret(hook)})
        hook = new.hook.model_copy(update={"auth": proof})
    return new.model_copy(update={"auth": auth, "tls": tls, "hook": hook or new.hook})


def _lacks_secrets(entry: RegistryEntry) -> bool:
    has_closed_hook = _hook_secret(entry.hook) == CLOSED
    return _is_empty(entry.auth) or has_closed_hook or bool(entry.tls.client_certificate and not entry.tls.client_key)


def _secret(auth: Auth) -> SecretStr | None:
    match auth:
        case BasicAuth():
            return auth.password
        case BearerAuth() | IdentityTokenAuth():
            return auth.token
        case _:
            return None


def _secret_place(auth: Auth) -> str:
    return "/auth/password" if isinstance(auth, BasicAuth) else "/auth/token" if _secret(auth) is not None else ""


def _is_empty(auth: Auth) -> bool:
    secret = _secret(auth)
    return secret is not None and not secret.get_secret_value()


def _same_login(new: Auth, kept: Auth) -> bool:
    return new.type == kept.type and getattr(new, "username", None) == getattr(kept, "username", None)


def _hook_secret(hook: HookSettings | None) -> SecretStr | None:
    return None if hook is None or isinstance(hook.auth, GoogleProof) else hook.auth.secret


def _same_hook(new: HookSettings | None, kept: HookSettings | None) -> bool:
    return new is not None and kept is not None and new.auth.type == kept.auth.type


def _secrets_required(places: tuple[str, ...]) -> InvalidRequestError:
    detail = "this has to be sent (again): it is not kept for this host, scheme and user"
    errors = tuple(FieldError(place, "secret_required", detail) for place in places)
    return InvalidRequestError(detail, errors=errors, code="secret_required")


def _refused(problems: list[FieldError]) -> InvalidRequestError:
    return InvalidRequestError(problems[0].detail, errors=tuple(problems), code="host_not_allowed")


def _check_version(kept: KeptRegistry | None, expected: int | None) -> None:
    if expected is not None and (kept is None or kept.version != expected):
        state = f"it is at version {kept.version} now" if kept else "there is none now"
        raise ConflictError(f"{state}; read it again", code="precondition_failed")


def _hosts(request: SyncRequest) -> list[tuple[str, Registry]]:
    found = []
    for index, rule in enumerate(request.rules):
        found.append((f"/rules/{index}/source", rule.source_pattern.registry))
        for place, template in enumerate(rule.destination_templates):
            found.append((f"/rules/{index}/destination/{place}", template.registry))
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
