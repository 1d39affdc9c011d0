"""Import other tools' configuration: it becomes policies and registries, all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from app.domain.access import Caller, Scope
from app.domain.audit import AuditAction, AuditEntry, changes
from app.domain.errors import ConflictError, InvalidRequestError
from app.domain.job import Job, JobState
from app.domain.registry import RegistryEntry
from app.domain.request import SyncRequest, expression_budget
from app.importers.result import ImportResult, Note
from app.jobs.queue import JobQueue
from app.jobs.submission import accept
from app.observability import get_logger
from app.security import Sealer
from app.services.admission import Admission
from app.services.policies import keep
from app.store.audit import AuditStore
from app.store.db.database import Database, Session
from app.store.policies import PolicyStore
from app.store.registries import RegistryStore

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Import:
    """What an import created, or would create: policies, or jobs of the same rules."""

    result: ImportResult
    is_made: bool
    requests: tuple[SyncRequest, ...] = ()
    jobs: tuple[Job, ...] = ()
    """One for each request, once they are made."""

    @property
    def has_made_something(self) -> bool:
        """Whether there is a policy, a registry or a job that was not there before."""
        return self.is_made and bool(self.result.policies or self.result.registries or self.jobs)


class ImportingService:
    """Import other tools' configuration.

    - `queue`: where jobs are enqueued that are made of an import
    - `sealer`: encrypts their secrets
    - `admission`: the rules about hosts, which imported registries have to pass too
    - `now`: the clock, in UTC
    - `new_id`: makes the ids of jobs
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        *,
        sealer: Sealer,
        admission: Admission,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._queue = queue
        self._admission = admission
        self._sealer = sealer
        self._now = now
        self._new_id = new_id

    async def take_over(
        self, read: Callable[[], ImportResult], *, dry_run: bool, as_job: bool = False, caller: Caller
    ) -> Import:
        """Read a tool's configuration and create what it says, or return what would be created.

        `read` runs in a thread: a file may hold ten thousand rules. With `as_job` the rules become jobs at once, one
        for all that have the same options, and no policies. A registry whose host is entered already stays as it is.
        Raise `InvalidRequestError` for what can't be read and what the caller may not make, `AccessError` for a caller
        that lacks a scope for it, `ConflictError` (`name_conflict`) for a policy's name that is taken.
        """
        found, requests = await asyncio.to_thread(_read, read, as_job=as_job)
        for scope in _scopes_for(found, as_job=as_job):
            caller.require(scope)
        await self._check(found, requests, caller=caller)
        if dry_run:
            await self._admission.quota.check(caller, jobs=len(requests))
            async with self._database.reading() as session:
                return Import(await self._fitted(session, found), is_made=False, requests=requests)
        await self._admission.quota.take(caller, jobs=len(requests))
        jobs = tuple(self._job(request, caller=caller) for request in requests)
        async with self._database.transaction() as session:
            result = await self._fitted(session, found)
            await self._make(session, result, caller=caller)
            if jobs:
                await accept(session, self._queue, jobs)
        counts = {"policies": len(result.policies), "registries": len(result.registries), "jobs": len(jobs)}
        log.info("configuration_imported", **counts, by=caller.name)
        return Import(result, is_made=True, requests=requests, jobs=jobs)

    async def _check(self, found: ImportResult, requests: tuple[SyncRequest, ...], *, caller: Caller) -> None:
        """Check what is to be made; raise `InvalidRequestError`, whose fields are those of the body that was sent."""
        entered = frozenset(entry.registry for entry in found.registries)
        try:
            for entry in found.registries:
                if self._admission.refusal(entry.registry, is_registered=True) is None:
                    self._admission.check_entry(entry, caller=caller)
            for policy in found.policies:
                await self._admission.check_policy(policy, caller=caller, entered=entered)
            for request in requests:
                await self._admission.check(request, caller=caller, entered=entered)
        except InvalidRequestError as error:
            # The rules and registries that it names by their fields were made here: nobody sent them.
            sent = tuple(one if one.pointer == "/name" else replace(one, pointer="") for one in error.errors)
            raise InvalidRequestError(error.message, errors=tuple(dict.fromkeys(sent)), code=error.code) from error

    def _job(self, request: SyncRequest, *, caller: Caller) -> Job:
        return Job(
            id=self._new_id(),
            state=JobState.QUEUED,
            request=request,
            created_at=self._now(),
            created_by=caller.name,
        )

    async def _fitted(self, session: Session, found: ImportResult) -> ImportResult:
        """Fit what was read to what is there already."""
        names = [policy.name for policy in found.policies]
        if taken := await PolicyStore(session).find_names(names):
            first = min(taken, key=names.index)
            message = f"there is a policy {first!r} already; choose another `name`"
            raise ConflictError(message, code="name_conflict")
        known = {
            existing.entry.name: existing.entry for existing in await RegistryStore(session, self._sealer).list_stored()
        }
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
        if refusal := self._admission.refusal(entry.registry, is_registered=True):
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


def _read(read: Callable[[], ImportResult], *, as_job: bool) -> tuple[ImportResult, tuple[SyncRequest, ...]]:
    with expression_budget():
        found = read()
    if not as_job:
        return found, ()
    return replace(found, policies=(), notes=(*found.notes, *found.job_notes)), found.requests()


def _scopes_for(found: ImportResult, *, as_job: bool) -> Iterator[Scope]:
    yield Scope.JOBS_SUBMIT if as_job else Scope.POLICIES_WRITE
    if found.registries:
        yield Scope.REGISTRIES_WRITE


def _free_name(name: str, known: Mapping[str, RegistryEntry]) -> str:
    number, free = 1, name
    while free in known:
        number += 1
        free = f"{name}-{number}"
    return free
