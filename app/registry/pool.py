"""What one process holds about registries: connections, tokens and pressure, one of each for an entry."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from app.domain.reference import Registry, Repository
from app.domain.registry import RegistryEntry, entry_for
from app.registry.auth import Authenticator
from app.registry.client import RegistryClient
from app.registry.exchange import Exchange
from app.registry.habits import UploadHabits
from app.registry.limits import MAX_IDLE_REGISTRIES, RoadSettings
from app.registry.pressure import Pressure, PressureState, Slots
from app.registry.referrers import Referrers
from app.registry.transport import RegistryTransport
from app.registry.trust import Trust
from app.registry.wire import Wire
from app.security import AddressRules


@dataclass(frozen=True, slots=True)
class _Kept:
    """The live parts of one entry, as it was entered at one time."""

    transport: RegistryTransport
    auth: Authenticator
    exchange: Exchange
    referrers: Referrers
    habits: UploadHabits

    def client(self, *, writing: bool) -> RegistryClient:
        return RegistryClient(self.exchange, self.referrers, self.habits, writing=writing)

    async def aclose(self) -> None:
        await self.auth.aclose()
        await self.transport.aclose()


class ClientPool:
    """Owns all connections to registries of one process; close it at the end."""

    def __init__(
        self,
        *,
        settings: RoadSettings | None = None,
        clock: Callable[[], datetime],
        rules: AddressRules | None = None,
    ) -> None:
        self._settings = settings or RoadSettings()
        self._clock = clock
        self._rules = rules or AddressRules()
        self._kept: OrderedDict[RegistryEntry, _Kept] = OrderedDict()
        self._pressures: dict[str, Pressure] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def clients(self, entries: tuple[RegistryEntry, ...]) -> RegistryClients:
        """Take the entries as they are now; a client made from older ones goes on with what it has."""
        current = {entry.name: entry for entry in entries}
        for entry in [entry for entry in self._kept if current.get(entry.name, entry) != entry]:
            self._retire(entry)
        return RegistryClients(self, entries)

    def slots(self, *clients: RegistryClient) -> AbstractAsyncContextManager[None]:
        """Take the slots a transfer needs, of all its registries together; a registry named twice gives two."""
        return Slots(client.exchange.pressure for client in clients)

    def pressure_states(self) -> Mapping[str, PressureState]:
        """Return, by entry name, what other processes should know."""
        return {name: pressure.state for name, pressure in self._pressures.items()}

    def adopt_pressure(self, states: Mapping[str, PressureState]) -> None:
        """Take in what other processes know, for entries in use here."""
        for name, state in states.items():
            if name in self._pressures:
                self._pressures[name].adopt(state)

    async def aclose(self) -> None:
        """Close every connection."""
        for kept in self._kept.values():
            await kept.aclose()
        self._kept.clear()
        for pressure in self._pressures.values():
            pressure.close()
        await asyncio.gather(*self._closing)

    def client(self, entry: RegistryEntry, *, writing: bool) -> RegistryClient:
        """Return a client of an entry, with the connections the process has to it."""
        kept = self._kept.get(entry)
        if kept is None:
            kept = self._kept[entry] = self._make(entry)
        self._kept.move_to_end(entry)
        while len(self._kept) > MAX_IDLE_REGISTRIES:
            self._retire(next(iter(self._kept)))
        return kept.client(writing=writing)

    def _make(self, entry: RegistryEntry) -> _Kept:
        trust = Trust(entry)
        transport = RegistryTransport(entry, trust, self._rules)
        wire = Wire(transport, trust, self._settings)
        auth = Authenticator(entry, wire, clock=self._clock)
        exchange = Exchange(entry, wire, auth, pressure=self._pressure(entry), clock=self._clock)
        habits = UploadHabits.of(entry, self._settings.chunk_bytes)
        return _Kept(transport, auth, exchange, Referrers(exchange), habits)

    def _pressure(self, entry: RegistryEntry) -> Pressure:
        """Keep the pressure when an entry changes: the registry behind it is as tired as before."""
        pressure = self._pressures.get(entry.name)
        if pressure is None:
            pause = self._settings.pause_max_seconds
            pressure = self._pressures[entry.name] = Pressure(entry.limits, clock=self._clock, pause_max_seconds=pause)
        else:
            pressure.limit(entry.limits)
        return pressure

    def _retire(self, entry: RegistryEntry) -> None:
        kept = self._kept.pop(entry)
        if entry.name not in {other.name for other in self._kept}:
            pressure = self._pressures.get(entry.name)
            if pressure is not None and not entry.is_registered:
                del self._pressures[entry.name]
        task = asyncio.create_task(kept.transport.retire())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class RegistryClients:
    """Clients for the registries of one moment's entries; a host that nobody entered gets an anonymous one."""

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

    def slots(self, *clients: RegistryClient) -> AbstractAsyncContextManager[None]:
        """Take the slots a transfer needs, see `ClientPool.slots`."""
        return self._pool.slots(*clients)

    def _client(self, entry: RegistryEntry, *, writing: bool) -> RegistryClient:
        key = (entry, writing)
        if key not in self._made:
            self._made[key] = self._pool.client(entry, writing=writing)
        return self._made[key]
