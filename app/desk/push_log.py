"""What arrived at the hooks, stored for good: what waits for the database at the same time goes into one commit.

A sender waits for this commit, and on SQLite all commits take turns: so many senders at once would wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from app.domain.errors import UnavailableError
from app.domain.hook_event import HookEvent, HookEventState
from app.jobs.push_matching import PushMatcher
from app.store.announcements import after_commit
from app.store.database import Database
from app.store.hook_events import HookEventStore

SAME_WITHIN = timedelta(minutes=1)
"""Senders that give events neither an id nor a time repeat them within this, if at all."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event, and what is the same for each delivery of it; None where the sender gives nothing to know it by."""

    event: HookEvent
    dedupe_key: str | None = None


@dataclass(slots=True)
class _Entry:
    arrivals: Sequence[Arrival]
    stored: tuple[HookEvent, ...] = ()
    error: UnavailableError | None = None
    is_through: bool = False


class PushLog:
    """Stores events, each once."""

    def __init__(self, database: Database, matcher: PushMatcher) -> None:
        self._database = database
        self._matcher = matcher
        self._turn = asyncio.Lock()
        self._waiting: list[_Entry] = []

    async def add(self, arrivals: Sequence[Arrival]) -> tuple[HookEvent, ...]:
        """Store the events of a delivery and return them as stored: what came before is a duplicate.

        Whoever has the turn stores what all the others brought as well. Raise `UnavailableError`.
        """
        mine = _Entry(arrivals)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if not mine.is_through:
                    await self._store_waiting(mine)
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return mine.stored

    async def _store_waiting(self, mine: _Entry) -> None:
        entries: list[_Entry] = []
        try:
            async with self._database.transaction(is_urgent=True) as session:
                entries, self._waiting = self._waiting, []
                stored = await _store(HookEventStore(session), [one for entry in entries for one in entry.arrivals])
                if any(event.state is HookEventState.RECEIVED for event in stored.values()):
                    after_commit(session, self._wake)
        except UnavailableError as error:
            for entry in (mine, *entries):
                entry.error, entry.is_through = error, True
            self._waiting = [entry for entry in self._waiting if entry is not mine]
            return
        except BaseException:
            others = [entry for entry in (*entries, *self._waiting) if entry is not mine]
            self._waiting = others  # the next has the turn
            raise
        for entry in entries:
            entry.stored = tuple(stored[arrival.event.id] for arrival in entry.arrivals)
            entry.is_through = True

    async def _wake(self) -> None:
        self._matcher.wake()


async def _store(events: HookEventStore, arrivals: Sequence[Arrival]) -> dict[str, HookEvent]:
    """Store events and return them by their ids."""
    keys = {one.event.id: one.dedupe_key for one in arrivals if one.dedupe_key is not None}
    first = await events.claim([one.event for one in arrivals if one.event.id in keys], keys)
    stored = {}
    for event in (one.event for one in arrivals):
        before = first[event.id] if event.id in keys else await _told_before(events, event) or event.id
        is_again = before != event.id
        if is_again:
            detail = f"the same as {before}"
            stored[event.id] = replace(event, state=HookEventState.DUPLICATE, reason="duplicate", detail=detail)
        else:
            stored[event.id] = event
        if is_again or event.id not in keys:
            await events.add(stored[event.id])
    return stored


async def _told_before(events: HookEventStore, event: HookEvent) -> str | None:
    """Find the event that one without an id repeats.

    A tag that was moved away in between shows in the latest event, so only what changes nothing is dropped.
    """
    if not (event.tag and event.digest):
        return None
    last = await events.find_last_push(event, since=event.received_at - SAME_WITHIN)
    return last.id if last is not None and last.digest == event.digest else None
