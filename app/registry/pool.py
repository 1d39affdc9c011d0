"""The pool of registry clients: connections, tokens and a concurrency window, one of each for an entry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from app.domain.reference import Registry, Repository
from app.domain.registry import RegistryEntry, entry_for
from app.domain.registry_state import RegistryState
from app.net.address_guard import AddressRules
from app.registry.auth.authenticator import Authenticator
from app.registry.client import RegistryClient
from app.registry.creation import RepositoryCreator
from app.registry.http.client import HttpClient
from app.registry.http.host_trust import Trust
from app.registry.limits import MAX_IDLE_REGISTRIES, ClientSettings
from app.registry.quirks import UploadStrategy
from app.registry.ratelimit.transfer_permits import TransferPermits
from app.registry.ratelimit.window import ConcurrencyWindow, WindowState
from app.registry.referrers import Referrers
from app.registry.requests import RequestExecutor

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
    """

    def __init__(
        self,
        *,
        settings: ClientSettings | None = None,
        clock: Callable[[], datetime],
        rules: AddressRules | None = None,
    ) -> None:
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
        auth = Authenticator(entry, http, clock=self._clock)
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
