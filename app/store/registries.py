"""Registry entries. Secrets never lie beside the rest of an entry: each is sealed for its own field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain.errors import ConflictError, NotFoundError, UnavailableError
from app.domain.registry import CLOSED, NoAuth, RegistryEntry, StoredRegistry, TlsSettings
from app.security import Sealer
from app.store.tables.declarative import table_of
from app.store.tables.registries import RegistryRow

_registries = table_of(RegistryRow)


class RegistryStore:
    """Named registries in the transaction of a session; what comes out has its secrets open, in memory."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self._sealer = sealer

    async def put(self, entry: RegistryEntry, *, now: datetime) -> bool:
        """Create or replace a registry; return whether it is new.

        Raise `ConflictError` (`host_taken`) when another entry is for the same host and prefix.
        """
        host = f"{entry.registry}/{entry.prefix}".rstrip("/")
        same_host = select(_registries.c.name).where(_registries.c.host == host, _registries.c.name != entry.name)
        if (other := (await self._session.execute(same_host)).scalar_one_or_none()) is not None:
            raise ConflictError(f"{host} is entered already, as {other!r}", code="host_taken")
        document, secrets = self._sealed(entry)
        values = {"host": host, "entry": document, "secrets": secrets or None, "updated_at": now}
        mine = update(_registries).where(_registries.c.name == entry.name)
        changed = mine.values(version=_registries.c.version + 1).returning(_registries.c.name)
        if (await self._session.execute(changed, values)).one_or_none() is not None:
            return False
        await self._session.execute(insert(_registries), {"name": entry.name, "created_at": now, **values})
        return True

    async def find(self, name: str) -> RegistryEntry | None:
        """Read an entry."""
        row = (await self._session.execute(select(_registries).where(_registries.c.name == name))).one_or_none()
        return None if row is None else self._entry(row)

    async def get(self, name: str) -> RegistryEntry:
        """Read an entry; raise `NotFoundError`."""
        entry = await self.find(name)
        if entry is None:
            raise NotFoundError(f"there is no registry {name[:64]!r}")
        return entry

    async def find_for_hook(self, name: str) -> RegistryEntry | None:
        """Read an entry with the secret of its hook alone opened; raise `UnavailableError` where that can't be."""
        row = (await self._session.execute(select(_registries).where(_registries.c.name == name))).one_or_none()
        return None if row is None else self._entry(row, opens=_is_of_hook)

    async def list(self) -> tuple[RegistryEntry, ...]:
        """Read all entries by name, with what they are logged in to with; hooks stay closed.

        One whose secrets can't be opened stops no other: it is in the list as not readable, without a login.
        """
        rows = await self._session.execute(select(_registries).order_by(_registries.c.name))
        return tuple(self._readable(row) for row in rows)

    async def list_unreadable(self) -> tuple[str, ...]:
        """List the names of entries with a secret that can't be opened, of hooks too."""
        rows = await self._session.execute(select(_registries.c.name, _registries.c.secrets))
        return tuple(sorted(row.name for row in rows if not self._opens(row.name, row.secrets or {})))

    async def list_stored(self) -> tuple[StoredRegistry, ...]:
        """Read all entries by name, without opening a secret."""
        rows = await self._session.execute(select(_registries).order_by(_registries.c.name))
        return tuple(self._stored(row) for row in rows)

    async def find_stored(self, name: str, *, for_update: bool = False) -> StoredRegistry | None:
        """Return an entry or None, secrets closed; with `for_update` it is locked against changes until the commit."""
        wanted = select(_registries).where(_registries.c.name == name)
        row = (await self._session.execute(wanted.with_for_update() if for_update else wanted)).one_or_none()
        return None if row is None else self._stored(row)

    async def get_stored(self, name: str, *, for_update: bool = False) -> StoredRegistry:
        """Read an entry without opening a secret; raise `NotFoundError`."""
        existing = await self.find_stored(name, for_update=for_update)
        if existing is None:
            raise NotFoundError(f"there is no registry {name[:64]!r}")
        return existing

    async def read_versions(self) -> tuple[object, ...]:
        """Read what is the same as long as no entry has changed."""
        columns = (_registries.c.name, _registries.c.version, _registries.c.updated_at)
        rows = await self._session.execute(select(*columns).order_by(_registries.c.name))
        return tuple(tuple(row) for row in rows)

    async def delete(self, name: str) -> None:
        """Remove an entry; raise `NotFoundError`."""
        statement = delete(_registries).where(_registries.c.name == name).returning(_registries.c.name)
        if (await self._session.execute(statement)).one_or_none() is None:
            raise NotFoundError(f"there is no registry {name[:64]!r}")

    async def rotate(self) -> int:
        """Seal all secrets anew, with the newest key; return how many entries that were."""
        sealed = _registries.c.secrets.is_not(None)
        rows = (await self._session.execute(select(_registries).where(sealed).with_for_update())).all()
        for row in rows:
            secrets = {place: self._sealer.rotate(token) for place, token in row.secrets.items()}
            mine = update(_registries).where(_registries.c.name == row.name)
            await self._session.execute(mine, {"secrets": secrets})
        return len(rows)

    def _sealed(self, entry: RegistryEntry) -> tuple[dict[str, Any], dict[str, str]]:
        document = entry.model_dump()
        ends_at = document.pop("login_expires_at")
        if ends_at is not None:  # not written where nobody said it: the release before can read such an entry
            document["login_expires_at"] = ends_at.isoformat()
        secrets = {}
        for place, holder, key in list(_secrets(document)):
            secret: SecretStr = holder.pop(key)
            secrets[place] = self._sealer.seal(secret.get_secret_value(), context=_context(entry.name, place))
        return document, secrets

    def _entry(self, row: Row[Any], *, opens: Callable[[str], bool] = lambda _: True) -> RegistryEntry:
        tokens: dict[str, str] = row.secrets or {}
        opened = {
            place: self._sealer.unseal(token, context=_context(row.name, place))
            if opens(place)
            else CLOSED.get_secret_value()
            for place, token in tokens.items()
        }
        return _with_secrets(row.entry, opened)

    def _readable(self, row: Row[Any]) -> RegistryEntry:
        try:
            return self._entry(row, opens=lambda place: not _is_of_hook(place))
        except UnavailableError:
            entry = self._stored(row).entry
            return entry.model_copy(update={"auth": NoAuth(), "tls": TlsSettings(), "is_readable": False})

    def _opens(self, name: str, tokens: dict[str, str]) -> bool:
        try:
            for place, token in tokens.items():
                self._sealer.unseal(token, context=_context(name, place))
        except UnavailableError:
            return False
        return True

    def _stored(self, row: Row[Any]) -> StoredRegistry:
        entry = _with_secrets(row.entry, dict.fromkeys(row.secrets or {}, CLOSED.get_secret_value()))
        return StoredRegistry(entry, version=row.version, created_at=row.created_at, updated_at=row.updated_at)


def _with_secrets(document: dict[str, Any], secrets: dict[str, str]) -> RegistryEntry:
    for place, secret in secrets.items():
        *path, key = place.split(".")
        holder = document
        for part in path:
            holder = holder[part]
        holder[key] = secret
    return RegistryEntry.model_validate(document)


def _secrets(document: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    for key, value in document.items():
        if isinstance(value, SecretStr):
            yield f"{path}{key}", document, key
        elif isinstance(value, dict):
            yield from _secrets(value, f"{path}{key}.")


def _is_of_hook(place: str) -> bool:
    return place.startswith("hook.")


def _context(name: str, place: str) -> str:
    return f"registry/{name}/{place}"
