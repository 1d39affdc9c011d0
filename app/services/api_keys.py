"""API keys: created once, shown once, found by their digest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cachetools import TTLCache

from app.domain.access import INDIVISIBLE_SCOPES, RESERVED_KEY_NAMES, ApiKey, Caller, Scope, ScopePreset
from app.domain.audit import AuditAction, AuditEntry
from app.domain.errors import AccessError, ConflictError, FieldError, InvalidRequestError, UnavailableError
from app.domain.grants import UNBOUND, Grant
from app.observability import get_logger
from app.security import make_api_key, read_api_key
from app.services.authentication_guard import AuthenticationGuard
from app.services.caller_tokens import CallerTokenService, is_token
from app.store.api_keys import ApiKeyStore
from app.store.audit import AuditStore
from app.store.db.database import Database

BOOTSTRAP_NAME = "bootstrap"
LOCAL_OPERATOR = Caller("local", ScopePreset.ADMIN.scopes)
SETTINGS = "settings"
"""Who made the bootstrap key, as the audit log has it."""
MAX_LIFETIME = timedelta(days=3_650)
TOUCH_INTERVAL = timedelta(minutes=1)
"""`last_used_at` is for finding unused keys; once a minute is one write a key, not one a request."""
RECENT_SECONDS = 1.0
"""A key is looked up once in this time, not for every request; so long may one that was revoked elsewhere be good."""
RECENT_KEYS = 1_000
LOOK_SECONDS = 2.0
"""How often is looked whether the key of an open event stream is still good."""
MALFORMED, TOKEN = "(malformed)", "(token)"
"""The id of a key that can be none, as failures are written down."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just created, with its text: the only time there is one."""

    key: ApiKey
    text: str = field(repr=False)


class ApiKeyService:
    """Create, find and revoke API keys.

    - `database`: where their SHA-256 digests are
    - `now`: the clock, in UTC
    - `make_text`: creates a key's text; 256 random bits by default
    - `is_key_required`: serve no caller without a key, not even one on this machine
    - `tokens`: knows callers by OpenID Connect tokens; None where no setting names an issuer
    """

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        make_text: Callable[[], str] = make_api_key,
        is_key_required: bool = False,
        tokens: CallerTokenService | None = None,
    ) -> None:
        self._tokens = tokens
        self._database = database
        self.guard = AuthenticationGuard(database, now=now)
        self._now = now
        self._make_text = make_text
        self._is_key_required = is_key_required
        self._recent: TTLCache[str, tuple[ApiKey, str]] = TTLCache(RECENT_KEYS, RECENT_SECONDS)

    async def create(
        self,
        *,
        name: str,
        scopes: AbstractSet[Scope],
        grant: Grant = UNBOUND,
        expires_seconds: int | None,
        caller: Caller,
    ) -> NewKey:
        """Create a key; raise `ConflictError` for a name that is taken, `InvalidRequestError`.

        The latter for too long a life, for scopes that the caller does not have, and for a key that is bound and has
        scopes about everything, and for a name that stands for others (`reserved_name`).
        """
        _check_scopes(scopes, grant, caller)
        if name.lower() in RESERVED_KEY_NAMES:
            detail = f"{name!r} is what jobs and the audit log call others; choose another name"
            raise InvalidRequestError(detail, errors=(FieldError("/name", "reserved_name", detail),))
        if expires_seconds is not None and expires_seconds > MAX_LIFETIME.total_seconds():
            detail = f"a key lasts {MAX_LIFETIME.days} days at most, or for ever"
            raise InvalidRequestError(detail, errors=(FieldError("/expires", "invalid_duration", detail),))
        text, now = self._make_text(), self._now()
        expires_at = None if expires_seconds is None else now + timedelta(seconds=expires_seconds)
        presented = read_api_key(text)
        key = ApiKey(presented.id, name, frozenset(scopes), created_at=now, expires_at=expires_at, grant=grant)
        async with self._database.transaction() as session:
            await ApiKeyStore(session).add(key, digest=presented.digest)
            await AuditStore(session).add(_entry(AuditAction.KEY_CREATED, key, actor=caller.name, now=now))
        log.info(
            "api_key_created", id=key.id, name=name, scopes=sorted(scopes), by=caller.name, expires_at=str(expires_at)
        )
        return NewKey(key, text)

    async def ensure_bootstrap(self, text: str) -> None:
        """Create or replace the key called `bootstrap` from the settings; raise `AccessError` for a weak one."""
        presented, now = read_api_key(text), self._now()
        async with self._database.transaction() as session:
            store, audit = ApiKeyStore(session), AuditStore(session)
            if await store.find(presented.id) is not None:
                return
            for key in await store.list():
                if key.name == BOOTSTRAP_NAME:
                    await store.delete(key.id)
                    await audit.add(_entry(AuditAction.KEY_REVOKED, key, actor=SETTINGS, now=now))
            key = ApiKey(presented.id, BOOTSTRAP_NAME, ScopePreset.ADMIN.scopes, created_at=now)
            await store.add(key, digest=presented.digest)
            await audit.add(_entry(AuditAction.KEY_CREATED, key, actor=SETTINGS, now=now))
        self._recent.clear()
        log.info("bootstrap_key_set", id=key.id)

    async def authenticate(self, text: str, *, address: str | None) -> Caller:
        """Return the caller with this key; raise `AccessError` for one unknown, revoked or expired, after a while.

        - `address`: where it comes from, the peer of the connection; a key may be bound to some (`address_not_allowed`)
        """
        if self._tokens is not None and is_token(text):
            return await self._authenticate_token(self._tokens, text, address=address)
        try:
            presented = read_api_key(text)
        except AccessError:
            await self.guard.refuse("api_key", peer=address, target=MALFORMED, reason="malformed")
            raise
        now = self._now()
        found = self._recent.get(presented.id) or await self._find(presented.id)
        if found is None or not presented.matches(found[1]):
            await self.guard.refuse("api_key", peer=address, target=presented.id, reason="unknown")
            raise AccessError("this API key is not known here, or was revoked")
        key, digest = found
        if not key.is_valid(now):
            await self.guard.refuse("api_key", peer=address, target=key.id, reason="expired")
            raise AccessError("this API key has expired")
        if not key.grant.admits(address):
            await self.guard.refuse("api_key", peer=address, target=key.id, reason="address")
            raise AccessError(f"this API key may not be used from {address}", code="address_not_allowed")
        if key.last_used_at is None or now - key.last_used_at >= TOUCH_INTERVAL:
            async with self._database.transaction() as session:
                await ApiKeyStore(session).touch(key.id, now=now)
            self._recent[key.id] = (replace(key, last_used_at=now), digest)
        return key.caller

    async def _authenticate_token(self, tokens: CallerTokenService, text: str, *, address: str | None) -> Caller:
        try:
            return await tokens.authenticate(text, address=address)
        except AccessError:
            await self.guard.refuse("token", peer=address, target=TOKEN, reason="token")
            raise

    async def admit_without_key(self, *, is_local: bool) -> Caller:
        """Let a caller on this machine do everything while no API key exists; raise `AccessError` for all others."""
        if self._is_key_required or await self.any_exists():
            raise AccessError("an API key is needed: Authorization: Bearer <key>")
        if not is_local:
            message = (
                "no API key exists yet, so only callers on this machine are served; make one: registry-sync create-key"
            )
            raise AccessError(message, code="local_callers_only")
        return LOCAL_OPERATOR

    async def wait_until_ended(self, key_id: str) -> None:
        """Wait until a key is revoked, by whichever process, or has expired."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                found = self._recent.get(key_id) or await self._find(key_id)
            except UnavailableError:
                continue
            if found is None or not found[0].is_valid(self._now()):
                return

    async def _find(self, key_id: str) -> tuple[ApiKey, str] | None:
        async with self._database.reading() as session:
            found = await ApiKeyStore(session).find(key_id)
        if found is not None:
            self._recent[key_id] = found
        return found

    async def any_exists(self) -> bool:
        """Return whether there is a key at all, even an expired one: then no caller is served without."""
        async with self._database.reading() as session:
            return await ApiKeyStore(session).has_any()

    async def list(self) -> tuple[ApiKey, ...]:
        """List all keys, by name."""
        async with self._database.reading() as session:
            return await ApiKeyStore(session).list()

    async def revoke(self, key_id: str, *, caller: Caller) -> None:
        """Revoke a key; raise `NotFoundError`, `ConflictError` (`last_admin_key`): once keyed, always keyed."""
        async with self._database.transaction() as session:
            store = ApiKeyStore(session)
            found = await store.find(key_id)
            now = self._now()
            others = [key for key in await store.list() if key.id != key_id and key.is_valid(now)]
            is_admin = found is not None and found[0].may_do_everything
            if is_admin and not any(key.may_do_everything for key in others):
                message = "this is the last key that may do everything; make another one first"
                raise ConflictError(message, code="last_admin_key")
            await store.delete(key_id)
            if found is not None:
                entry = _entry(AuditAction.KEY_REVOKED, found[0], actor=caller.name, now=self._now())
                await AuditStore(session).add(entry)
        self._recent.pop(key_id, None)
        log.info("api_key_revoked", id=key_id, by=caller.name)


def _check_scopes(scopes: AbstractSet[Scope], grant: Grant, caller: Caller) -> None:
    if beyond := sorted(scopes - caller.scopes):
        detail = f"{caller.name!r} does not have {', '.join(beyond)} itself"
        raise InvalidRequestError(detail, errors=(FieldError("/scopes", "not_granted", detail),), code="not_granted")
    if grant.is_bound and (whole := sorted(scopes & INDIVISIBLE_SCOPES)):
        detail = (
            f"{', '.join(whole)}: these are about everything, so a key that is bound to some of it has none of them"
        )
        raise InvalidRequestError(detail, errors=(FieldError("/scopes", "indivisible_scope", detail),))


def _entry(action: AuditAction, key: ApiKey, *, actor: str, now: datetime) -> AuditEntry:
    expires_at = key.expires_at.isoformat() if key.expires_at else None
    details = {"name": key.name, "scopes": sorted(key.scopes), "expires_at": expires_at}
    bounds = key.grant.model_dump(mode="json", exclude_none=True)
    return AuditEntry(now, actor, action, key.id, {**details, "grant": bounds} if bounds else details)
