"""Moving in: what other tools were told becomes policies and registries of ours, all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.desk.policies import keep
from app.desk.registries import RegistryService
from app.domain.access import Caller
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError
from app.domain.registry import RegistryEntry
from app.imports.result import ImportResult, Note
from app.observability import get_logger
from app.security import Sealer
from app.store.audit import AuditStore
from app.store.database import Database, Session
from app.store.policies import PolicyStore
from app.store.registries import RegistryStore

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Import:
    """What an import made, or would make."""

    result: ImportResult
    is_made: bool


class ImportService:
    """Takes over other tools' configurations."""

    def __init__(
        self, database: Database, registries: RegistryService, *, sealer: Sealer, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._registries = registries
        self._sealer = sealer
        self._now = now

    async def take_over(self, read: Callable[[], ImportResult], *, dry_run: bool, caller: Caller) -> Import:
        """Read what a tool was told and make it, or say what would be made.

        `read` runs in a thread: a file may hold ten thousand rules. A registry whose host is entered already stays as
        it is. Raise `InvalidRequestError` for what can't be read, `ConflictError` (`name_conflict`) for a policy's name
        that is taken.
        """
        found = await asyncio.to_thread(read)
        if dry_run:
            async with self._database.reading() as session:
                return Import(await self._fitted(session, found), is_made=False)
        async with self._database.transaction() as session:
            result = await self._fitted(session, found)
            await self._make(session, result, caller=caller)
        log.info("imported", policies=len(result.policies), registries=len(result.registries), by=caller.name)
        return Import(result, is_made=True)

    async def _fitted(self, session: Session, found: ImportResult) -> ImportResult:
        """Fit what was read to what is there already."""
        taken = [policy.name for policy in found.policies if await PolicyStore(session).find(policy.name) is not None]
        if taken:
            message = f"there is a policy {taken[0]!r} already; choose another `name`"
            raise ConflictError(message, code="name_conflict")
        known = {kept.entry.name: kept.entry for kept in await RegistryStore(session, self._sealer).list_kept()}
        hosts = {entry.host: entry.name for entry in known.values()}
        entries, notes = [], []
        for entry in found.registries:
            note = self._note(entry, hosts)
            if note is not None:
                notes.append(note)
                continue
            entries.append(entry.model_copy(update={"name": _free_name(entry.name, known)}))
            known[entries[-1].name] = entries[-1]
        return ImportResult(found.policies, tuple(entries), (*found.notes, *notes))

    def _note(self, entry: RegistryEntry, hosts: Mapping[str, str]) -> Note | None:
        if entry.host in hosts:
            reason = f"{entry.host} is entered already, as {hosts[entry.host]!r}, and stays as it is there"
            return Note("differs", "registry_kept", "", "", None, reason)
        if refusal := self._registries.refusal(entry.registry, is_registered=True):
            return Note("left_out", "host_not_allowed", "", "", None, refusal)
        return None

    async def _make(self, session: Session, result: ImportResult, *, caller: Caller) -> None:
        now = self._now()
        for entry in result.registries:
            await RegistryStore(session, self._sealer).put(entry, now=now)
            details = changes(None, entry, sent=entry)
            await AuditStore(session).add(
                AuditEntry(now, caller.name, AuditAction.REGISTRY_CREATED, entry.name, details)
            )
        for policy in result.policies:
            await keep(session, policy, None, now=now, caller=caller)


def _free_name(name: str, known: Mapping[str, RegistryEntry]) -> str:
    number, free = 1, name
    while free in known:
        number += 1
        free = f"{name}-{number}"
    return free
