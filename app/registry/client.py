"""One registry as the other packages see it: a method for each operation of the distribution spec.

The pool of such clients keeps connections, tokens and a concurrency window, one of each for an entry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache, partial

import httpx

from app.domain.errors import RegistryError
from app.domain.manifest import Descriptor, Manifest
from app.domain.reference import Digest, Registry, Repository, Tag
from app.domain.registry import RegistryEntry, entry_for
from app.domain.registry_state import RegistryState
from app.net.address_guard import AddressRules
from app.registry.auth.authenticator import Authenticator
from app.registry.auth.challenge import Scopes
from app.registry.auth.token_server import TokenSiblings
from app.registry.blobs import BlobReader, has_blob, locate_upload, open_blob, read_byte
from app.registry.creation import RepositoryCreator
from app.registry.http.client import HttpClient
from app.registry.http.errors import Response
from app.registry.http.host_trust import Trust
from app.registry.limits import MAX_IDLE_REGISTRIES, ClientSettings
from app.registry.listing.digest_lists import ListedTag, has_digest_list, list_digests
from app.registry.listing.listing import list_repositories
from app.registry.listing.pages import ListWarnings, list_tags
from app.registry.manifests import PutOutcome, find_manifest, get_manifest, head_manifest, put_manifest
from app.registry.quirks import UploadStrategy
from app.registry.ratelimit.adaptive_concurrency import ConcurrencyWindow, TransferPermits, WindowState
from app.registry.referrers import Referrers
from app.registry.requests import RegistryRequest, RequestExecutor
from app.registry.uploads import UploadSession, ask_for_session, open_session

_STARTED = frozenset({202})
_MOUNTED = frozenset({201, 202})
_READS = ("pull",)
_WRITES = ("pull", "push")
"""In order, as `Scopes` has them."""


class RegistryClient:
    """Talks to one registry; methods take repository paths and raise `RegistryError` or `ContentError`.

    With `writing`, every request is made with a token that allows pushing as well: one token for each repository, and
    an answer where registries tell who may only read nothing about a repository that does not exist yet.
    """

    def __init__(
        self,
        executor: RequestExecutor,
        referrers: Referrers,
        strategy: UploadStrategy,
        *,
        creation: RepositoryCreator | None = None,
        writing: bool = False,
    ) -> None:
        self._executor = executor
        self._referrers = referrers
        self._strategy = strategy
        self._creation = creation
        self._reads = _WRITES if writing else _READS

    @property
    def entry(self) -> RegistryEntry:
        """The entry this client talks for."""
        return self._executor.entry

    @property
    def executor(self) -> RequestExecutor:
        """What requests are made with."""
        return self._executor

    async def ping(self) -> None:
        """See that the registry speaks the API and takes the credentials (distribution spec, "Determining Support")."""
        url = self._executor.home.with_target("/v2/")
        call = RegistryRequest(operation="ping", method="GET", url=url, scopes=Scopes(), expects=frozenset({200}))
        await self._executor.fetch(call)

    async def reach(self) -> int:
        """Ask `/v2/` without a login; return the status, whatever it is. Raise `RegistryError` where none comes."""
        url = self._executor.home.with_target("/v2/")
        any_answer = frozenset(range(200, 500))
        call = RegistryRequest(operation="ping", method="GET", url=url, scopes=Scopes(), expects=any_answer, login={})
        return (await self._executor.fetch(call)).status

    def list_repositories(
        self, namespace: str = "", *, list_warnings: ListWarnings | None = None
    ) -> AsyncIterator[str]:
        """Yield the paths of the registry's repositories, those below a namespace if one is given."""
        return list_repositories(self._executor, namespace, list_warnings=list_warnings or ListWarnings())

    def list_tags(self, repository: str, *, list_warnings: ListWarnings | None = None) -> AsyncIterator[Tag]:
        """Yield a repository's tags; `repository_missing` when there is no such repository."""
        scopes = self._reading(repository)
        return list_tags(self._executor, repository, scopes=scopes, list_warnings=list_warnings or ListWarnings())

    @property
    def has_digest_list(self) -> bool:
        """Whether this registry's type has a list of all tags with their digests."""
        return has_digest_list(self._executor)

    def list_digests(self, repository: str, *, dated: bool = False) -> AsyncIterator[ListedTag]:
        """Yield a repository's tags with their digests, as a list says them; `RegistryError` where there is no list.

        `dated` asks for when each was pushed too, as far as the list says it.
        """
        return list_digests(self._executor, repository, scopes=self._reading(repository), dated=dated)

    async def head_manifest(self, repository: str, target: Tag | Digest) -> Descriptor | None:
        """Ask what a tag or digest is, without a pull; None when it is not there."""
        return await head_manifest(self._executor, repository, target, scopes=self._reading(repository))

    async def find_manifest(self, repository: str, target: Tag | Digest) -> Descriptor | None:
        """Ask what a tag or digest is where something depends on its absence: GET is asked before None is returned."""
        return await find_manifest(self._executor, repository, target, scopes=self._reading(repository))

    async def get_manifest(self, repository: str, target: Tag | Digest) -> Manifest:
        """Fetch a manifest whose bytes were checked against their digest; `reference_not_found` when absent."""
        return await get_manifest(self._executor, repository, target, scopes=self._reading(repository))

    async def put_manifest(self, repository: str, target: Tag | Digest, manifest: Manifest) -> PutOutcome:
        """Push a manifest, byte for byte, under a tag or its digest."""
        scopes = _writing(repository)
        return await put_manifest(self._executor, repository, target, manifest=manifest, scopes=scopes)

    async def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """Ask whether a repository holds a blob; `ContentError` (`size_mismatch`) where it says another length."""
        return await has_blob(self._executor, repository, blob, scopes=self._reading(repository))

    async def read_byte(self, repository: str, blob: Descriptor) -> str:
        """Read the first byte of a blob the way it would be copied; return the host it came from."""
        return await read_byte(self._executor, repository, blob, scopes=self._reading(repository))

    def open_blob(
        self, repository: str, blob: Descriptor, *, offset: int = 0, is_fresh: bool = False
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob for reading, at `offset` or before it: see the reader's own `offset`.

        `is_fresh` takes a new connection, for what came damaged over another one.
        A transfer that writes elsewhere what is read here does both within one set of permits, against deadlocks.
        """
        scopes = self._reading(repository)
        return open_blob(self._executor, repository, blob, offset=offset, scopes=scopes, is_fresh=is_fresh)

    async def mount_blob(self, repository: str, digest: Digest, *, from_repository: str) -> UploadSession | None:
        """Take a blob over from another repository of this registry; None when that is done.

        A session when the registry opened one instead, or would not mount: go on in it. Who is cancelled meanwhile
        leaves none behind.
        """
        url = self._executor.home.with_target(f"/v2/{repository}/blobs/uploads/")
        url = url.with_parameter("mount", digest).with_parameter("from", from_repository)
        scopes = _writing(repository)
        if from_repository != repository:
            scopes = scopes.merge(Scopes.repository(from_repository, "pull"))
        call = RegistryRequest(operation="mount_blob", method="POST", url=url, scopes=scopes, expects=_MOUNTED)
        try:
            answer = await self._ask_for_session(repository, call)
        except RegistryError as error:
            if error.status is None or error.code == "rate_limited":
                raise
            # Mounting is a favour: whatever is wrong with it (a scope that is not granted, a feature that is off, a
            # repository that only comes with its first upload) shows again, and with the right error, if it is wrong
            # with uploads too.
            return await self._open_session(repository, digest)
        return None if answer.status == httpx.codes.CREATED else self._session(repository, answer)

    async def start_upload(self, repository: str, blob: Descriptor) -> UploadSession:
        """Open a session to write a blob in; who is cancelled meanwhile leaves none behind."""
        return await self._open_session(repository, blob.digest)

    async def resume_upload(self, repository: str, location: str) -> UploadSession:
        """Take up a session that another process left, by its `location`; its `offset` is up to date then."""
        url = locate_upload(self._executor, self._executor.home, location)
        session = UploadSession(self._executor, self._strategy, repository, location=url, scopes=_writing(repository))
        await session.settle()
        return session

    @property
    def has_referrers_api(self) -> bool:
        """Whether the registry may have the referrers API: False once it said that it has none."""
        return self._referrers.has_api is not False

    async def list_referrers(
        self, repository: str, digest: Digest, *, list_warnings: ListWarnings | None = None
    ) -> tuple[Descriptor, ...]:
        """List the manifests whose subject this is, from the API or the fallback tag."""
        scopes = self._reading(repository)
        return await self._referrers.list(
            repository, digest, scopes=scopes, list_warnings=list_warnings or ListWarnings()
        )

    async def add_referrer_fallback(self, repository: str, subject: Digest, referrer: Descriptor) -> None:
        """Add a referrer to the index under the subject's fallback tag, losing nothing others put there."""
        scopes = _writing(repository)
        await self._referrers.add_to_fallback(repository, subject, referrer=referrer, scopes=scopes)

    def creates_first(self, repository: str) -> bool:
        """Whether a repository is to be made before a push to it, see `RepositoryCreator.comes_first`."""
        return self._creation is not None and self._creation.comes_first(repository)

    async def create_repository(self, repository: str) -> bool:
        """Make a repository where the entry says so, see `RepositoryCreator.create`."""
        return self._creation is not None and await self._creation.create(repository)

    async def _open_session(self, repository: str, digest: Digest) -> UploadSession:
        url = self._executor.home.with_target(f"/v2/{repository}/blobs/uploads/")
        if digest.algorithm != "sha256":
            url = url.with_parameter("digest-algorithm", digest.algorithm)
        scopes = _writing(repository)
        call = RegistryRequest(operation="start_upload", method="POST", url=url, scopes=scopes, expects=_STARTED)
        return self._session(repository, await self._ask_for_session(repository, call))

    async def _ask_for_session(self, repository: str, call: RegistryRequest) -> Response:
        return await ask_for_session(self._executor, call, session_of=partial(self._session, repository))

    def _session(self, repository: str, answer: Response) -> UploadSession:
        return open_session(self._executor, self._strategy, repository, answer=answer, scopes=_writing(repository))

    def _reading(self, repository: str) -> Scopes:
        return _scopes(repository, self._reads)


def _writing(repository: str) -> Scopes:
    return _scopes(repository, _WRITES)


@lru_cache(maxsize=4096)
def _scopes(repository: str, actions: tuple[str, ...]) -> Scopes:
    return Scopes(((f"repository:{repository}", actions),))


IDLE_SECONDS = 120.0
"""After so long without a request a registry's connections are closed and its TLS context is let go (2 MB each, where
every entry has an authority of its own). Longer than an idle connection is kept for reuse."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The live parts of one entry, as it was entered at one time."""

    http: HttpClient
    auth: Authenticator
    executor: RequestExecutor
    referrers: Referrers
    strategy: UploadStrategy
    creation: RepositoryCreator | None

    def client(self, *, writing: bool) -> RegistryClient:
        return RegistryClient(self.executor, self.referrers, self.strategy, creation=self.creation, writing=writing)

    async def aclose(self) -> None:
        await self.auth.aclose()
        self.http.close()


class ClientPool:
    """Owns all connections to registries of one process; close it at the end.

    - `settings`: timeouts (seconds), attempts, sizes (bytes); defaults for the internet
    - `clock`: the time, in UTC, for tokens
    - `rules`: the SSRF guard; the strict one by default
    - `token_siblings`: the other processes of this host, with which tokens are shared
    """

    def __init__(
        self,
        *,
        settings: ClientSettings | None = None,
        clock: Callable[[], datetime],
        rules: AddressRules | None = None,
        token_siblings: TokenSiblings | None = None,
    ) -> None:
        self._token_siblings = token_siblings
        self._settings = settings or ClientSettings()
        self._clock = clock
        self._rules = rules or AddressRules()
        self._parts: OrderedDict[RegistryEntry, _Parts] = OrderedDict()
        self._windows: dict[str, ConcurrencyWindow] = {}

    def clients(self, entries: tuple[RegistryEntry, ...]) -> RegistryClients:
        """Take the entries as they are now; a client made from older ones goes on with what it has."""
        current = {entry.name: entry for entry in entries}
        for entry in [entry for entry in self._parts if current.get(entry.name, entry) != entry]:
            self._retire(entry)
        return RegistryClients(self, entries)

    def slots(self, *clients: RegistryClient) -> TransferPermits:
        """Take the slots a transfer needs, of all its registries together; a registry named twice gives two."""
        return TransferPermits(client.executor.window for client in clients)

    def window_states(self) -> Mapping[str, WindowState]:
        """Return, by entry name, what other processes should know."""
        return {name: window.state for name, window in self._windows.items()}

    def registry_states(self) -> Mapping[str, RegistryState]:
        """Return, by entry name, what operators are shown."""
        logins = {entry.name: parts.auth.login_state for entry, parts in self._parts.items()}
        certificates = {entry.name: parts.http.certificate_ends_at for entry, parts in self._parts.items()}
        return {
            name: replace(window.registry_state, login=logins.get(name), certificate_ends_at=certificates.get(name))
            for name, window in self._windows.items()
        }

    def login_ends(self) -> Mapping[str, datetime | None]:
        """Return, by entry name, when the logins end that were entered, as far as was said."""
        return {entry.name: entry.login_expires_at for entry in self._parts if entry.is_registered}

    def adopt_window_states(self, states: Mapping[str, WindowState]) -> None:
        """Take in what other processes know, for entries in use here."""
        for name, state in states.items():
            if name in self._windows:
                self._windows[name].adopt(state)

    async def close_idle(self, seconds: float = IDLE_SECONDS) -> None:
        """Close the connections of registries that were asked nothing for so long; their logins stay."""
        for existing in self._parts.values():
            existing.http.close_idle(seconds)

    async def aclose(self) -> None:
        """Close every connection."""
        for existing in self._parts.values():
            await existing.aclose()
        self._parts.clear()
        for window in self._windows.values():
            window.close()

    def client(self, entry: RegistryEntry, *, writing: bool) -> RegistryClient:
        """Return a client of an entry, with the connections the process has to it."""
        existing = self._parts.get(entry)
        if existing is None:
            existing = self._parts[entry] = self._make(entry)
        self._parts.move_to_end(entry)
        while len(self._parts) > MAX_IDLE_REGISTRIES:
            self._retire(next(iter(self._parts)))
        return existing.client(writing=writing)

    def _make(self, entry: RegistryEntry) -> _Parts:
        trust = Trust(entry)
        http = HttpClient(entry, trust, rules=self._rules, settings=self._settings)
        auth = Authenticator(entry, http, clock=self._clock, siblings=self._token_siblings)
        executor = RequestExecutor(entry, http, auth, window=self._window(entry), clock=self._clock)
        strategy = UploadStrategy.of(entry, self._settings.chunk_bytes)
        creator = RepositoryCreator(executor) if entry.create_missing else None
        return _Parts(http, auth, executor, Referrers(executor), strategy, creator)

    def _window(self, entry: RegistryEntry) -> ConcurrencyWindow:
        """Keep the window when an entry changes: the registry behind it has the same limits as before."""
        window = self._windows.get(entry.name)
        if window is None:
            pause = self._settings.retry_policy.max_pause
            window = self._windows[entry.name] = ConcurrencyWindow(
                entry.limits, clock=self._clock, pause_max_seconds=pause, registry=entry.registry
            )
        else:
            window.limit(entry.limits)
        return window

    def _retire(self, entry: RegistryEntry) -> None:
        existing = self._parts.pop(entry)
        if entry.name not in {other.name for other in self._parts}:
            window = self._windows.get(entry.name)
            if window is not None and not entry.is_registered:
                del self._windows[entry.name]
        existing.http.retire()


MAX_REPOSITORIES_KNOWN = 1_024
"""Repositories whose client is remembered: a plan goes through any number of them."""


class RegistryClients:
    """Clients for the registries of one moment's entries; a host without an entry gets an anonymous one."""

    def __init__(self, pool: ClientPool, entries: tuple[RegistryEntry, ...]) -> None:
        self._pool = pool
        self._entries: dict[Registry, tuple[RegistryEntry, ...]] = {}
        for entry in entries:
            self._entries[entry.registry] = (*self._entries.get(entry.registry, ()), entry)
        self._made: dict[tuple[RegistryEntry, bool], RegistryClient] = {}
        self._known: dict[tuple[Repository, bool], RegistryClient] = {}

    def for_repository(self, repository: Repository, *, writing: bool = False) -> RegistryClient:
        """Return the client whose entry has the longest `host[/prefix]` that holds the repository."""
        known = self._known.get((repository, writing))
        if known is None:
            if len(self._known) >= MAX_REPOSITORIES_KNOWN:
                self._known.clear()
            entry = entry_for(self._entries.get(repository.registry, ()), repository)
            known = self._known[repository, writing] = self._client(entry, writing=writing)
        return known

    def for_registry(self, registry: Registry, namespace: str = "") -> RegistryClient:
        """Return the client to list a registry with, or what lies below a namespace of it."""
        fitting = [
            entry
            for entry in self._entries.get(registry, ())
            if not entry.prefix or f"{namespace}/".startswith(f"{entry.prefix}/")
        ]
        entry = max(fitting, key=lambda entry: len(entry.prefix), default=RegistryEntry.unregistered(registry))
        return self._client(entry, writing=False)

    def slots(self, *clients: RegistryClient) -> TransferPermits:
        """Take the slots a transfer needs, see `ClientPool.slots`."""
        return self._pool.slots(*clients)

    def _client(self, entry: RegistryEntry, *, writing: bool) -> RegistryClient:
        key = (entry, writing)
        if key not in self._made:
            self._made[key] = self._pool.client(entry, writing=writing)
        return self._made[key]
