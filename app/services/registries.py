"""Registry entries: create, change, delete.

A stored secret goes only where its owner sent it: with another host, plain http, another proxy, other rules for
certificates, more trusted hosts or another type it has to be sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from pydantic import SecretStr

from app.domain.access import Caller
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError, FieldError, InvalidRequestError
from app.domain.push_event import GoogleProof, HookSettings
from app.domain.registry import CLOSED, Auth, RegistryEntry, StoredRegistry
from app.domain.registry_logins import NOTHING, SECRET_FIELDS, LoginRules
from app.domain.registry_state import RegistryState
from app.observability import get_logger
from app.registry.auth.identities import refusal_of_login
from app.registry.creation import refusal_of_creation
from app.security import Sealer
from app.services.admission import Admission, check_holds_registry, check_sees_registry
from app.services.versions import check_version
from app.store.audit import AuditStore
from app.store.db.database import Database, Session
from app.store.policies import PolicyStore
from app.store.registries import RegistryStore
from app.store.registry_states import RegistryStateStore

log = get_logger(__name__)

_PRINCIPALS = (
    "username",
    "access_key_id",
    "tenant_id",
    "client_id",
    "service_account",
    "token_url",
    "exchange_url",
    "app_id",
    "installation_id",
    "api_url",
    "instance_id",
    "secret_id",
    "registry_id",
)
"""Fields of logins that say whose they are, and where they are shown: a stored secret stays with them."""
_SECRET_PLACES = {
    "basic": ("password", "username"),
    "bearer": ("token", "type"),
    "identity_token": ("token", "type"),
    "aws": ("secret_access_key", "access_key_id"),
    "azure": ("client_secret", "tenant_id"),
    "google": ("service_account_key", "service_account"),
    "oidc": ("client_secret", "client_id"),
    "github_app": ("private_key", "app_id"),
    "alibaba": ("access_key_secret", "access_key_id"),
    "tencent": ("secret_key", "secret_id"),
}
"""Which secret a login has, and the field without which it has none."""
MAX_NAMED = 5
"""Policies that an error names; the rest is a number."""


class RegistryService:
    """Create, change, list and delete registry entries.

    - `sealer`: encrypts and opens their secrets
    - `admission`: the SSRF guard, for hosts that can be refused without resolving them
    - `logins`: what of this machine may be used to log in
    - `now`: the clock, in UTC
    """

    def __init__(
        self,
        database: Database,
        *,
        sealer: Sealer,
        admission: Admission,
        now: Callable[[], datetime],
        logins: LoginRules = NOTHING,
    ) -> None:
        self._logins = logins
        self._database = database
        self._sealer = sealer
        self._admission = admission
        self._now = now

    async def list(self, *, caller: Caller) -> tuple[StoredRegistry, ...]:
        """List the registries that the caller may see, by name, their secrets closed."""
        async with self._database.reading() as session:
            stored = await RegistryStore(session, self._sealer).list_stored()
        return tuple(one for one in stored if caller.grant.sees_registry(one.entry.registry, one.entry.prefix))

    async def get(self, name: str, *, caller: Caller) -> StoredRegistry:
        """Read a registry, its secrets closed; raise `NotFoundError`, also for one that the caller may not see."""
        async with self._database.reading() as session:
            stored = await RegistryStore(session, self._sealer).get_stored(name)
        check_sees_registry(stored.entry, caller)
        return stored

    async def get_states(self) -> dict[str, RegistryState]:
        """Read how the workers stand with registries, by name; those they asked nothing of lately are not in it."""
        async with self._database.reading() as session:
            return await RegistryStateStore(session).list_combined(now=self._now())

    async def put(
        self, entry: RegistryEntry, *, expected_version: int | None, caller: Caller
    ) -> tuple[StoredRegistry, bool]:
        """Create or replace a registry; an empty secret stands for the stored one. Return it, and whether it is new.

        Raise `InvalidRequestError` (`not_granted`, `secret_required`, `host_not_allowed`, `login_not_allowed`),
        `NotFoundError` for a name that an entry has which the caller may not see, `ConflictError` (`host_taken`,
        `precondition_failed`).
        """
        self._admission.check_entry(entry, caller=caller)
        _check_login(entry, self._logins)
        _check_creation(entry)
        async with self._database.transaction() as session:
            store = RegistryStore(session, self._sealer)
            existing = await store.find_stored(entry.name, for_update=True)
            if existing is not None:
                check_holds_registry(existing.entry, caller)
            check_version(existing, expected_version)
            if missing := missing_secrets(entry, existing.entry if existing else None):
                raise _secrets_required(missing, entry, existing.entry if existing else None)
            opened = await store.find(entry.name) if existing and _lacks_secrets(entry) else None
            is_new = await store.put(with_stored_secrets(entry, opened), now=self._now())
            stored = await store.get_stored(entry.name)
            details = changes(existing.entry if existing else None, stored.entry, sent=entry)
            action = AuditAction.REGISTRY_CREATED if is_new else AuditAction.REGISTRY_CHANGED
            await AuditStore(session).add(AuditEntry(self._now(), caller.name, action, entry.name, details))
        log.info("registry_entered", registry=entry.name, host=entry.host, is_new=is_new, by=caller.name)
        return stored, is_new

    async def delete(self, name: str, *, expected_version: int | None, caller: Caller, is_forced: bool = False) -> None:
        """Delete a registry; raise `NotFoundError`, `ConflictError` (`precondition_failed`, `registry_in_use`).

        One that policies copy from or to stays, unless it is forced: their next runs would ask it anonymously.
        """
        async with self._database.transaction() as session:
            store = RegistryStore(session, self._sealer)
            existing = await store.get_stored(name, for_update=True)
            check_holds_registry(existing.entry, caller)
            check_version(existing, expected_version)
            if not is_forced:
                await _check_unused(session, existing.entry, await store.list_stored())
            await store.delete(name)
            details = changes(existing.entry, None)
            entry = AuditEntry(self._now(), caller.name, AuditAction.REGISTRY_DELETED, name, details)
            await AuditStore(session).add(entry)
        self._admission.forget_hosts()
        log.info("registry_removed", registry=name, by=caller.name)


async def _check_unused(session: Session, entry: RegistryEntry, stored: Sequence[StoredRegistry]) -> None:
    if any(one.entry.registry == entry.registry and one.entry.name != entry.name for one in stored):
        return  # another entry goes on serving that host
    users = await PolicyStore(session).list_naming(entry.registry)
    if users:
        more = f" and {len(users) - MAX_NAMED} more" if len(users) > MAX_NAMED else ""
        message = (
            f"{entry.registry} is used by the policies {', '.join(users[:MAX_NAMED])}{more}; ?force=true removes it"
        )
        raise ConflictError(message, code="registry_in_use")


def _check_login(entry: RegistryEntry, rules: LoginRules) -> None:
    if refusal := refusal_of_login(entry, rules):
        raise InvalidRequestError(refusal.detail, errors=(refusal,), code="login_not_allowed")


def _check_creation(entry: RegistryEntry) -> None:
    if (refusal := refusal_of_creation(entry)) is not None:
        field, reason = refusal
        raise InvalidRequestError(reason, errors=(FieldError(field, "creation_unsupported", reason),))


def missing_secrets(new: RegistryEntry, existing: RegistryEntry | None) -> tuple[str, ...]:
    """Return which secrets a change has to bring along, as JSON pointers: not stored, or stored for another place."""
    same_place = existing is not None and not changed_place(new, existing)
    missing = []
    place = _secret_place(new.auth)
    if place and _is_empty(new.auth) and not (same_place and existing and _same_login(new.auth, existing.auth)):
        missing.append(place)
    if new.tls.client_certificate and not new.tls.client_key:
        same_certificate = existing is not None and existing.tls.client_certificate == new.tls.client_certificate
        if not (same_place and same_certificate):
            missing.append("/tls/client_key")
    if _hook_secret(new.hook) == CLOSED and not _same_hook(new.hook, existing.hook if existing else None):
        missing.append("/hook/auth/secret")  # it goes nowhere from here, so another host does not matter
    return tuple(missing)


def changed_place(new: RegistryEntry, existing: RegistryEntry) -> tuple[str, ...]:
    """Return the fields, as JSON pointers, by whose change a stored secret could reach another than before.

    A proxy reads what passes it, or is let in where certificates are not checked or are another authority's; a trusted
    host may be a token server, and a type may say that neighbours are. What only becomes stricter is no change.
    """
    changed = {
        "/host": new.host != existing.host,
        "/insecure": new.insecure != existing.insecure,
        "/type": new.type != existing.type,
        "/proxy": new.proxy != existing.proxy,
        "/tls/ca": new.tls.ca != existing.tls.ca,
        "/tls/verify": existing.tls.verify and not new.tls.verify,
        "/trusted_hosts": not set(new.trusted_hosts) <= set(existing.trusted_hosts),
    }
    return tuple(field for field, is_changed in changed.items() if is_changed)


def with_stored_secrets(new: RegistryEntry, existing: RegistryEntry | None) -> RegistryEntry:
    """Fill in the secrets that were not sent, from the entry as kept."""
    if existing is None:
        return new
    auth, tls = new.auth, new.tls
    if _is_empty(auth):
        auth = _with_secrets(auth, existing.auth)
    if tls.client_certificate and not tls.client_key:
        tls = tls.model_copy(update={"client_key": existing.tls.client_key})
    hook = existing.hook if _hook_secret(new.hook) == CLOSED and new.hook and existing.hook else None
    if hook is not None and new.hook is not None:
        proof = new.hook.auth.model_copy(update={"secret": _hook_secret(hook)})
        hook = new.hook.model_copy(update={"auth": proof})
    return new.model_copy(update={"auth": auth, "tls": tls, "hook": hook or new.hook})


def _lacks_secrets(entry: RegistryEntry) -> bool:
    has_closed_hook = _hook_secret(entry.hook) == CLOSED
    return _is_empty(entry.auth) or has_closed_hook or bool(entry.tls.client_certificate and not entry.tls.client_key)


def _secret(auth: Auth) -> SecretStr | None:
    found: Iterator[SecretStr | None] = (getattr(auth, name, None) for name in SECRET_FIELDS)
    return next((secret for secret in found if secret is not None), None)


def _secret_place(auth: Auth) -> str:
    field, owner = _SECRET_PLACES.get(auth.type, ("", ""))
    return f"/auth/{field}" if field and getattr(auth, owner) is not None else ""


def _is_empty(auth: Auth) -> bool:
    secret = _secret(auth)
    return secret is not None and not secret.get_secret_value()


def _same_login(new: Auth, existing: Auth) -> bool:
    return new.type == existing.type and all(
        getattr(new, name, None) == getattr(existing, name, None) for name in _PRINCIPALS
    )


def _with_secrets(new: Auth, existing: Auth) -> Auth:
    """Take the stored secrets of the same login, and what was sent with it: a role, a region."""
    return new.model_copy(update={name: getattr(existing, name) for name in SECRET_FIELDS if hasattr(existing, name)})


def _hook_secret(hook: HookSettings | None) -> SecretStr | None:
    return None if hook is None or isinstance(hook.auth, GoogleProof) else hook.auth.secret


def _same_hook(new: HookSettings | None, existing: HookSettings | None) -> bool:
    return new is not None and existing is not None and new.auth.type == existing.auth.type


def _secrets_required(
    places: tuple[str, ...], new: RegistryEntry, existing: RegistryEntry | None
) -> InvalidRequestError:
    if existing is None:
        detail = "this has to be sent: the entry is new, so there is none stored"
    elif changed := changed_place(new, existing):
        detail = f"this has to be sent again: {', '.join(changed)} may not lead a stored secret to another place"
    else:
        detail = "this has to be sent again: what is stored is for another user or kind of login"
    errors = tuple(FieldError(place, "secret_required", detail) for place in places)
    return InvalidRequestError(detail, errors=errors, code="secret_required")
