"""API keys: made once, shown once, told by their digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cachetools import TTLCache

from app.domain.access import ApiKey, Caller, Scope
from app.domain.audit import AuditAction, AuditEntry
from app.domain.errors import AccessError, FieldError, InvalidRequestError
from app.observability import get_logger
from app.security import make_api_key, read_api_key
from app.store.api_keys import ApiKeyStore
from app.store.audit import AuditStore
from app.store.database import Database

BOOTSTRAP_NAME = "bootstrap"
SETTINGS = "settings"
"""Who made the bootstrap key, as the audit log has it."""
MAX_LIFETIME = timedelta(days=3_650)
TOUCH_INTERVAL = timedelta(minutes=1)
"""`last_used_at` is for people who tidy up; once a minute is one write a key, not one a request."""
RECENT_SECONDS = 1.0
"""A key is looked up once in this time, not for every request; so long may one that was revoked elsewhere be good."""
RECENT_KEYS = 1_000

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with its text: the only time there is one."""

    key: ApiKey
    text: str = field(repr=False)


class KeyService:
    """Make, tell and revoke API keys."""

    def __init__(
        self, database: Database, *, now: Callable[[], datetime], make_text: Callable[[], str] = make_api_key
    ) -> None:
        self._database = database
        self._now = now
        self._make_text = make_text
        self._recent: TTLCache[str, tuple[ApiKey, str]] = TTLCache(RECENT_KEYS, RECENT_SECONDS)

    async def create(self, *, name: str, scope: Scope, expires_seconds: int | None, caller: Caller) -> NewKey:
        """Make a key; raise `ConflictError` for a name that is taken, `InvalidRequestError` for too long a life."""
        if expires_seconds is not None and expires_seconds > MAX_LIFETIME.total_seconds():
            detail = f"a key lasts {MAX_LIFETIME.days} days at most, or for ever"
            raise InvalidRequestError(detail, errors=(FieldError("/expires", "invalid_duration", detail),))
        text, now = self._make_text(), self._now()
        expires_at = None if expires_seconds is None else now + timedelta(seconds=expires_seconds)
        presented = read_api_key(text)
        key = ApiKey(id=presented.id, name=name, scope=scope, created_at=now, expires_at=expires_at)
        async with self._database.transaction() as session:
            await ApiKeyStore(session).add(key, digest=presented.digest)
            await AuditStore(session).add(_entry(AuditAction.KEY_CREATED, key, actor=caller.name, now=now))
        log.info("api_key_created", id=key.id, name=name, scope=scope, by=caller.name, expires_at=str(expires_at))
        return NewKey(key, text)

    async def ensure_bootstrap(self, text: str) -> None:
        """See to it that the settings' key is the one called `bootstrap`; raise `AccessError` for a weak one."""
        presented, now = read_api_key(text), self._now()
        async with self._database.transaction() as session:
            store, audit = ApiKeyStore(session), AuditStore(session)
            if await store.find(presented.id) is not None:
                return
            for key in await store.list():
                if key.name == BOOTSTRAP_NAME:
                    await store.delete(key.id)
                    await audit.add(_entry(AuditAction.KEY_REVOKED, key, actor=SETTINGS, now=now))
            key = ApiKey(id=presented.id, name=BOOTSTRAP_NAME, scope=Scope.ADMIN, created_at=now)
            await store.add(key, digest=presented.digest)
            await audit.add(_entry(AuditAction.KEY_CREATED, key, actor=SETTINGS, now=now))
        self._recent.clear()
        log.info("bootstrap_key_set", id=key.id)

    async def authenticate(self, text: str) -> Caller:
        """Tell whose key this is; raise `AccessError` for one unknown, revoked or expired."""
        presented, now = read_api_key(text), self._now()
        found = self._recent.get(presented.id) or await self._find(presented.id)
        if found is None or not presented.matches(found[1]):
            raise AccessError("this API key is not known here, or was revoked")
        key, digest = found
        if not key.is_valid(now):
            raise AccessError("this API key has expired")
        if key.last_used_at is None or now - key.last_used_at >= TOUCH_INTERVAL:
            async with self._database.transaction() as session:
                await ApiKeyStore(session).touch(key.id, now=now)
            self._recent[key.id] = (replace(key, last_used_at=now), digest)
        return key.caller

    async def _find(self, key_id: str) -> tuple[ApiKey, str] | None:
        async with self._database.reading() as session:
            found = await ApiKeyStore(session).find(key_id)
        if found is not None:
            self._recent[key_id] = found
        return found

    async def any_exists(self) -> bool:
        """Whether there is a key at all, even an expired one: then nobody is served without."""
        async with self._database.reading() as session:
            return await ApiKeyStore(session).has_any()

    async def list(self) -> tuple[ApiKey, ...]:
        """List all keys, by name."""
        async with self._database.reading() as session:
            return await ApiKeyStore(session).list()

    async def revoke(self, key_id: str, *, caller: Caller) -> None:
        """Revoke a key; raise `NotFoundError`."""
        async with self._database.transaction() as session:
            store = ApiKeyStore(session)
            found = await store.find(key_id)
            await store.delete(key_id)
            if found is not None:
                entry = _entry(AuditAction.KEY_REVOKED, found[0], actor=caller.name, now=self._now())
                await AuditStore(session).add(entry)
        self._recent.pop(key_id, None)
        log.info("api_key_revoked", id=key_id, by=caller.name)


def _entry(action: AuditAction, key: ApiKey, *, actor: str, now: datetime) -> AuditEntry:
    expires_at = key.expires_at.isoformat() if key.expires_at else None
    return AuditEntry(now, actor, action, key.id, {"name": key.name, "scope": key.scope, "expires_at": expires_at})
