"""Try a registry out: reach it, log in, list, push."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, cast

from app.domain.errors import FieldError, InvalidRequestError, RegistryError, TransferError
from app.domain.manifest import EMPTY_DESCRIPTOR_DIGEST, Descriptor
from app.domain.reference import InvalidReferenceError, Repository
from app.domain.registry import NoAuth, RegistryEntry
from app.domain.report import ExecutionError
from app.registry.client import RegistryClient
from app.registry.pool import ClientPool
from app.registry.quirks import quirks_of
from app.security import Sealer
from app.store.database import Database
from app.store.registries import RegistryStore

STEP_SECONDS = 20.0
"""A person waits for the answer; whoever wants patience submits a job."""
MAX_AT_ONCE = 4
"""Checks in this process: nobody shall scan a network with them."""
_BLOB = Descriptor(media_type="application/octet-stream", digest=EMPTY_DESCRIPTOR_DIGEST, size=2)
_REFUSALS = frozenset({"unauthorized", "denied"})

StepName = Literal["reach", "log_in", "list", "push"]


@dataclass(frozen=True, slots=True)
class CheckStep:
    """One thing tried."""

    name: StepName
    ok: bool
    detail: str
    error: ExecutionError | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What was tried, and how it went."""

    steps: tuple[CheckStep, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was tried works."""
        return all(step.ok for step in self.steps)


class CheckService:
    """Try registries out, as they are entered."""

    def __init__(self, database: Database, *, sealer: Sealer, pool: ClientPool) -> None:
        self._database = database
        self._sealer = sealer
        self._pool = pool
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def check(self, name: str, *, repository: str | None, is_pushing: bool) -> Check:
        """Try one registry; raise `NotFoundError`, or `InvalidRequestError` for a repository that is none."""
        async with self._database.reading() as session:
            store = RegistryStore(session, self._sealer)
            entry, entries = await store.get(name), await store.list()
        wanted = _repository(entry, repository, is_pushing=is_pushing)
        clients = self._pool.clients(entries)
        reader = clients.for_repository(wanted) if wanted else clients.for_registry(entry.registry, entry.prefix)
        async with self._turns:
            steps = list(await _greet(reader))
            if all(step.ok for step in steps):
                steps.append(await _try("list", lambda: _list(reader, wanted)))
            if is_pushing and wanted and steps[-1].name == "list":
                writer = clients.for_repository(wanted, writing=True)
                steps.append(await _try("push", lambda: _push(writer, wanted)))
        return Check(tuple(steps))


async def _greet(client: RegistryClient) -> tuple[CheckStep, ...]:
    anonymous = isinstance(client.entry.auth, NoAuth)
    step = await _try("reach", lambda: _ping(client))
    if step.error is not None and step.error.code in _REFUSALS:
        reached = CheckStep("reach", ok=True, detail=f"{client.entry.base_url} answers")
        if anonymous:
            return (reached,)
        advice = quirks_of(client.entry).login_advice
        detail = f"{step.detail}; {advice}" if advice else step.detail
        return reached, CheckStep("log_in", ok=False, detail=detail, error=step.error)
    if not step.ok or anonymous:
        return (step,)
    return step, CheckStep("log_in", ok=True, detail="the credentials are taken")


async def _try(name: StepName, action: Callable[[], Awaitable[str]]) -> CheckStep:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return CheckStep(name, ok=True, detail=await action())
    except TransferError as error:
        return CheckStep(name, ok=False, detail=error.message, error=ExecutionError.of(error))
    except TimeoutError:
        detail = f"no answer within {STEP_SECONDS:.0f} s"
        return CheckStep(name, ok=False, detail=detail, error=ExecutionError("timeout", detail, temporary=True))


async def _ping(client: RegistryClient) -> str:
    await client.ping()
    return f"{client.entry.base_url} answers"


async def _list(client: RegistryClient, repository: Repository | None) -> str:
    return await (_list_repositories(client) if repository is None else _list_tags(client, repository))


async def _list_repositories(client: RegistryClient) -> str:
    """List as jobs do; a registry known to have no such list was not asked for it, and is well all the same."""
    try:
        first = await _first(client.list_repositories(client.entry.prefix))
    except RegistryError as error:
        if error.code != "listing_unsupported" or error.status is not None:
            raise
        return error.message
    return f"has repositories, such as {first}" if first else "lists no repository"


async def _list_tags(client: RegistryClient, repository: Repository) -> str:
    try:
        first = await _first(client.list_tags(repository.path))
    except RegistryError as error:
        if error.code != "repository_missing":
            raise
        return f"{repository.path} is not there yet"
    return f"{repository.path} has tags, such as {first}" if first else f"{repository.path} has no tag"


async def _push(client: RegistryClient, repository: Repository) -> str:
    session = await client.start_upload(repository.path, _BLOB)
    await session.cancel()
    return f"an upload to {repository.path} was opened, and taken back"


async def _first(items: AsyncIterator[str]) -> str | None:
    async with aclosing(cast("AsyncGenerator[str]", items)) as listed:
        async for item in listed:
            return item
    return None


def _repository(entry: RegistryEntry, path: str | None, *, is_pushing: bool) -> Repository | None:
    if path is None and is_pushing:
        raise _wrong("missing", "name a repository to push to")
    if path is None:
        return None
    try:
        repository = Repository(entry.registry, path)
    except InvalidReferenceError as error:
        raise _wrong(error.code, str(error)) from error
    if not entry.covers(repository):
        raise _wrong("invalid_repository", f"{path!r} is not below {entry.host}")
    return repository


def _wrong(code: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(detail, errors=(FieldError("/repository", code, detail),))
