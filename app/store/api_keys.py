"""API keys: their digests and scopes, never the keys themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.access import ApiKey, Scope, ScopePreset
from app.domain.errors import ConflictError, NotFoundError
from app.domain.grants import UNBOUND, Grant
from app.store.tables.access import ApiKeyRow
from app.store.tables.declarative import table_of

_keys = table_of(ApiKeyRow)


class ApiKeyStore:
    """API keys in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, key: ApiKey, *, digest: str) -> None:
        """Add a key; raise `ConflictError` (`name_conflict`) when its name, or the key itself, is there already."""
        same = (_keys.c.name == key.name) | (_keys.c.id == key.id)
        if (await self._session.execute(select(_keys.c.id).where(same))).first() is not None:
            raise ConflictError(f"there is a key {key.name!r} already", code="name_conflict")
        is_bound, preset = key.grant != UNBOUND, key.preset
        row = {
            "id": key.id,
            "name": key.name,
            "digest": digest,
            "scope": "" if is_bound or preset is None else preset,
            "scopes": None if preset is not None and not is_bound else sorted(key.scopes),
            "grants": key.grant.model_dump(mode="json") if is_bound else None,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
        }
        await self._session.execute(insert(_keys), row)

    async def find(self, key_id: str) -> tuple[ApiKey, str] | None:
        """Read a key and the digest it has to match."""
        row = (await self._session.execute(select(_keys).where(_keys.c.id == key_id))).one_or_none()
        return None if row is None else (_key(row), row.digest)

    async def list(self) -> tuple[ApiKey, ...]:
        """Read all keys, by name."""
        return tuple(_key(row) for row in await self._session.execute(select(_keys).order_by(_keys.c.name)))

    async def has_any(self) -> bool:
        """Whether there is a key at all."""
        return (await self._session.execute(select(_keys.c.id).limit(1))).first() is not None

    async def touch(self, key_id: str, *, now: datetime) -> None:
        """Note that a key was used."""
        await self._session.execute(update(_keys).where(_keys.c.id == key_id).values(last_used_at=now))

    async def delete(self, key_id: str) -> None:
        """Remove a key; raise `NotFoundError`."""
        statement = delete(_keys).where(_keys.c.id == key_id).returning(_keys.c.id)
        if (await self._session.execute(statement)).one_or_none() is None:
            raise NotFoundError(f"there is no key {key_id[:64]!r}")


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=ScopePreset(row.scope).scopes if row.scopes is None else frozenset(map(Scope, row.scopes)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        grant=UNBOUND if row.grants is None else Grant.model_validate(row.grants),
    )
