"""Check a registry along the way a copy goes: reach it, log in, list, read a byte of a blob, open an upload.

And say who the registry takes the login for, how long that lasts, and what it may do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeVar, cast

from app.domain.access import Caller
from app.domain.errors import RegistryError, TransferError
from app.domain.manifest import EMPTY_DESCRIPTOR_DIGEST, INDEX_TYPES, Descriptor
from app.domain.reference import Repository, Tag
from app.domain.registry import BasicAuth, BearerAuth, DockerConfigAuth, IdentityTokenAuth, NoAuth
from app.domain.report import ExecutionError
from app.registry.client import ClientPool, RegistryClient
from app.registry.permissions import Permission, find_identity, granted_actions, may_create
from app.registry.quirks import quirks_of
from app.security import Sealer
from app.services.admission import check_holds_registry
from app.services.check_requests import CheckRequest, namespace_of, repository_of
from app.store.db.database import Database
from app.store.registries import RegistryStore
from app.store.registry_states import RegistryStateStore

T = TypeVar("T")
STEP_SECONDS = 20.0
"""A person waits for the answer; what takes longer is a job."""
RECORDED_AS = "check"
"""What how a registry stood at its last check is written under, beside what each worker writes."""
MAX_AT_ONCE = 4
"""Checks at once in this process: they are no means to scan a network."""
_MAX_DEPTH = 3
"""Indexes within indexes that are looked into for a blob to read."""
_BLOB = Descriptor(media_type="application/octet-stream", digest=EMPTY_DESCRIPTOR_DIGEST, size=2)
_ENTERED = (NoAuth, BasicAuth, BearerAuth, IdentityTokenAuth, DockerConfigAuth)
"""Logins as they were entered."""
_REFUSALS = frozenset({"unauthorized", "denied"})
_NOT_FOUND = 404
"""As a registry answers for a repository that a push would make; a missing project is a 401 or 403."""

StepName = Literal["reach", "log_in", "list", "read", "push"]


@dataclass(frozen=True, slots=True)
class CheckStep:
    """One thing tried."""

    name: StepName
    ok: bool
    detail: str
    error: ExecutionError | None = None
    is_needed: bool = True
    """False for a list of all repositories that a login may not have: it can copy what rules name all the same."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the login may do, as far as it was tried or asked."""

    list: Permission
    pull: Permission
    push: Permission
    create: Permission


@dataclass(frozen=True, slots=True)
class Check:
    """What was tried, and how it went; who the login is and may do is None where it was not got to."""

    steps: tuple[CheckStep, ...]
    identity: str | None = None
    valid_until: datetime | None = None
    may: Permissions | None = None

    @property
    def ok(self) -> bool:
        """Whether everything works that a copy needs."""
        return all(step.ok or not step.is_needed for step in self.steps)


class RegistryCheckService:
    """Check registry entries: reach, log in, list, push.

    - `sealer`: opens the credentials
    - `pool`: clients to ask them with
    - `now`: the clock, in UTC

    At most `MAX_AT_ONCE` (4) at once in a process, `STEP_SECONDS` (20 s) a step.
    """

    def __init__(self, database: Database, *, sealer: Sealer, pool: ClientPool, now: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._pool = pool
        self._now = now
        self._permits = asyncio.Semaphore(MAX_AT_ONCE)

    async def check(self, name: str, target: CheckRequest, *, caller: Caller) -> Check:
        """Check one registry; raise `NotFoundError`, or `InvalidRequestError` for a name of a repository that is none.

        A caller that may not copy from and to all of the entry may not check it (`not_granted`).

        It ends where nothing further could work: not reached, or not logged in.
        """
        async with self._database.reading() as session:
            store = RegistryStore(session, self._sealer)
            entry = (await store.get_stored(name)).entry  # its secrets closed; the client has them open
            check_holds_registry(entry, caller)
            entries = await store.list()
        wanted = repository_of(entry, target)
        namespace = namespace_of(entry, target)
        clients = self._pool.clients(entries)
        reader = clients.for_repository(wanted) if wanted else clients.for_registry(entry.registry, namespace)
        writer = clients.for_repository(wanted, writing=True) if target.is_pushing and wanted else None
        async with self._permits:
            found = await _tried_out(_Walk(reader, wanted, namespace), writer=writer)
        await self._record(reader.entry.name)
        return found

    async def _record(self, name: str) -> None:
        """Write how the registry stands, as workers do of what they ask: its windows here are no worker's."""
        state = self._pool.registry_states().get(name)
        if state is not None:
            async with self._database.transaction() as session:
                states = {name: replace(state, window=0, in_flight=0)}
                await RegistryStateStore(session).put(states, worker=RECORDED_AS, now=self._now())


async def _tried_out(walk: _Walk, *, writer: RegistryClient | None) -> Check:
    reader = walk.client
    steps = list(await _greet(reader))
    if not all(step.ok for step in steps):
        return Check(tuple(steps))
    wanted = walk.repository
    steps += await walk.steps()
    if writer is not None and wanted is not None:
        steps.append(await _try("push", lambda: _push(writer, wanted)))
    may = await _permissions(walk, steps)
    identity = await _in_time(find_identity(reader.executor), None)
    ends = [moment for moment in (reader.executor.login_ends_at, reader.entry.login_expires_at) if moment]
    return Check(tuple(steps), identity, min(ends, default=None), may)


async def _greet(client: RegistryClient) -> tuple[CheckStep, ...]:
    """Reach the registry, then log in to it: what its token server says is not about whether it is there."""
    reached = await _try("reach", lambda: _reach(client))
    if not reached.ok:
        return (reached,)
    anonymous = isinstance(client.entry.auth, NoAuth)
    logged_in = await _try("log_in", lambda: _log_in(client))
    if logged_in.error is None:
        return (reached,) if anonymous or not logged_in.detail else (reached, logged_in)
    if anonymous and logged_in.error.code in _REFUSALS:
        return (reached,)
    # What a password has to look like is no advice for an identity of a cloud; its error says what to do.
    is_identity = not isinstance(client.entry.auth, _ENTERED)
    advice = quirks_of(client.entry).login_advice if logged_in.error.code in _REFUSALS and not is_identity else ""
    detail = f"{logged_in.detail}; {advice}" if advice else logged_in.detail
    return reached, CheckStep("log_in", ok=False, detail=detail, error=logged_in.error)


async def _permissions(walk: _Walk, steps: Sequence[CheckStep]) -> Permissions:
    """Say what is allowed by what was tried, else by what a token allows, else by an API that may be asked."""
    executor = walk.client.executor
    tried = {step.name: _tried(step) for step in steps}
    path = walk.repository.path if walk.repository else ""
    granted = await _in_time(granted_actions(executor, path), None) if path else None
    listed = tried["list"] if walk.has_list else Permission(None, "it has no such list")
    if walk.is_missing:
        listed = Permission(None, tried["list"].detail)  # many say so of what a login may not see
    pull = tried.get("read") or _granted("pull", granted, "there was nothing to read: name a repository with tags")
    push = tried.get("push") or _granted("push", granted, "it was not tried: name a repository, with push")
    is_opened = "push" in tried and tried["push"].allowed is True
    if quirks_of(executor.entry).creates_by == "nothing" and is_opened:
        create = Permission(True, f"a repository comes with the first push here: {push.detail}")
    elif quirks_of(executor.entry).creates_by == "first_push":
        create = Permission(push.allowed, f"a repository comes with the first push: {push.detail}")
    else:
        unanswered = Permission(None, f"no answer within {STEP_SECONDS:.0f} s")
        create = await _in_time(may_create(executor, path or walk.namespace), unanswered)
    return Permissions(listed, pull, push, create)


def _tried(step: CheckStep) -> Permission:
    is_refused = step.error is not None and step.error.code in _REFUSALS
    return Permission(True if step.ok else False if is_refused else None, step.detail)


def _granted(action: str, granted: Collection[str] | None, otherwise: str) -> Permission:
    if granted is None:
        return Permission(None, otherwise)
    is_allowed = action in granted
    return Permission(is_allowed, f"its token {'allows' if is_allowed else 'does not allow'} {action}")


async def _in_time(answer: Awaitable[T], otherwise: T) -> T:
    """Return an answer that is good to have; what is in its way is no fault of the registry's."""
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await answer
    except (TransferError, TimeoutError):
        return otherwise


class _Walk:
    """What there is to read, found on the way: a repository, a tag of it, a blob."""

    def __init__(self, client: RegistryClient, repository: Repository | None, namespace: str) -> None:
        self.client = client
        self.repository = repository
        self.namespace = namespace
        self.has_list = True
        """Whether there is a list at all, of what was asked for."""
        self.is_missing = False
        """Whether the repository that was named is not there."""
        self._is_named = repository is not None
        self._tag: Tag | None = None

    async def steps(self) -> list[CheckStep]:
        """List, and read one byte of what is listed."""
        listed = await _try("list", self._list)
        entry = self.client.entry
        is_optional = not self._is_named and self.namespace == entry.prefix and not isinstance(entry.auth, NoAuth)
        if is_optional and listed.error is not None and listed.error.code in _REFUSALS:
            listed = CheckStep("list", ok=False, detail=listed.detail, error=listed.error, is_needed=False)
        if self.repository is None or self._tag is None:
            return [listed]
        repository, tag = self.repository, self._tag
        return [listed, await _try("read", lambda: _read(self.client, repository, tag))]

    async def _list(self) -> str:
        if self.repository is None:
            return await self._list_repositories()
        return await self._list_tags(self.repository)

    async def _list_repositories(self) -> str:
        """List as jobs do; a registry known to have no such list was not asked for it, and is well all the same."""
        client = self.client
        try:
            first = await _first(client.list_repositories(self.namespace))
        except RegistryError as error:
            if error.code != "listing_unsupported":
                raise
            self.has_list = False
            if error.status is not None:
                raise
            return error.message
        if first is None:
            return f"lists no repository{f' below {self.namespace}' if self.namespace else ''}"
        self.repository = Repository(client.entry.registry, first)
        await self._list_tags(self.repository)
        return f"has repositories, such as {first}"

    async def _list_tags(self, repository: Repository) -> str:
        try:
            first = await _first(self.client.list_tags(repository.path))
        except RegistryError as error:
            if error.code != "repository_missing" or error.status != _NOT_FOUND:
                raise
            self.is_missing = self._is_named
            return f"{repository.path} is not there yet"
        self._tag = Tag(first) if first else None
        return f"{repository.path} has tags, such as {first}" if first else f"{repository.path} has no tag"


async def _try(name: StepName, action: Callable[[], Awaitable[str]]) -> CheckStep:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return CheckStep(name, ok=True, detail=await action())
    except TransferError as error:
        return CheckStep(name, ok=False, detail=error.message, error=ExecutionError.of(error))
    except TimeoutError:
        detail = f"no answer within {STEP_SECONDS:.0f} s"
        return CheckStep(name, ok=False, detail=detail, error=ExecutionError("timeout", detail, temporary=True))


async def _reach(client: RegistryClient) -> str:
    status = await client.reach()
    return f"{client.entry.base_url} answers ({status})"


async def _log_in(client: RegistryClient) -> str:
    """Say that the login is taken; nothing where `/v2/` answers so that nothing can be said of it."""
    try:
        await client.ping()
    except RegistryError as error:
        if error.code in _REFUSALS or error.status is None or error.temporary:
            raise
        return ""
    ends_at = client.executor.login_ends_at
    if ends_at is None:
        return "the credentials are taken"
    until = ends_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"the identity is taken; what it was given for a login lasts until {until}, and is renewed before"


async def _read(client: RegistryClient, repository: Repository, tag: Tag) -> str:
    """Read the first byte of an image's smallest blob: the way that leads to storage, redirects and all."""
    manifest = await client.get_manifest(repository.path, tag)
    for _ in range(_MAX_DEPTH):
        if manifest.media_type not in INDEX_TYPES or not manifest.children:
            break
        manifest = await client.get_manifest(repository.path, manifest.children[0].digest)
    blobs = [blob for blob in manifest.blobs if blob.size and not blob.is_foreign]
    if not blobs:
        return f"{repository.path}:{tag} can be read; it has no blob"
    host = await client.read_byte(repository.path, min(blobs, key=lambda blob: blob.size))
    return f"{repository.path}:{tag} can be read; its blobs come from {host}"


async def _push(client: RegistryClient, repository: Repository) -> str:
    session = await client.start_upload(repository.path, _BLOB)
    await session.cancel()
    return f"an upload to {repository.path} was opened, and taken back"


async def _first(items: AsyncIterator[str]) -> str | None:
    async with aclosing(cast("AsyncGenerator[str]", items)) as listed:
        async for item in listed:
            return item
    return None
