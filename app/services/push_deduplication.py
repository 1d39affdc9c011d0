"""The push event log: stored for good, each once (duplicate ones are recognised), many deliveries in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from app.domain.hook_event import HookEvent, HookEventState
from app.jobs.push_jobs import PushMatcher
from app.store.db.database import Database, GroupCommit, Session, after_commit
from app.store.hook_events import HookEventStore

SAME_WITHIN = timedelta(minutes=1)
"""Senders that give events neither an id nor a time repeat them within this, if at all."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event, and what is the same for each delivery of it; None where the sender gives nothing to know it by."""

    event: HookEvent
    dedupe_key: str | None = None


class PushEventLog:
    """Stores push events, each once, by group commit.

    - `matcher`: is woken after the commit, to make their jobs
    """

    def __init__(self, database: Database, matcher: PushMatcher) -> None:
        self._matcher = matcher
        self._deliveries = GroupCommit[Sequence[Arrival], tuple[HookEvent, ...]](database, self._write)

    async def add(self, arrivals: Sequence[Arrival]) -> tuple[HookEvent, ...]:
        """Store the events of a delivery and return them as stored: what came before is a duplicate.

        Raise `UnavailableError`.
        """
        return await self._deliveries.add(arrivals)

    async def _write(
        self, session: Session, deliveries: Sequence[Sequence[Arrival]]
    ) -> list[tuple[HookEvent, ...] | Exception]:
        stored = await _store(HookEventStore(session), [one for arrivals in deliveries for one in arrivals])
        if any(event.state is HookEventState.RECEIVED for event in stored.values()):
            after_commit(session, self._announce)
        return [tuple(stored[one.event.id] for one in arrivals) for arrivals in deliveries]

    async def _announce(self) -> None:
        self._matcher.announce()


async def _store(events: HookEventStore, arrivals: Sequence[Arrival]) -> dict[str, HookEvent]:
    """Store events and return them by their ids."""
    keys = {one.event.id: one.dedupe_key for one in arrivals if one.dedupe_key is not None}
    first = await events.claim([one.event for one in arrivals if one.event.id in keys], keys)
    stored = {}
    for event in (one.event for one in arrivals):
        before = first[event.id] if event.id in keys else await _find_duplicate(events, event) or event.id
        is_again = before != event.id
        if is_again:
            detail = f"the same as {before}"
            stored[event.id] = replace(event, state=HookEventState.DUPLICATE, reason="duplicate", detail=detail)
        else:
            stored[event.id] = event
        if is_again or event.id not in keys:
            await events.add(stored[event.id])
    return stored


async def _find_duplicate(events: HookEventStore, event: HookEvent) -> str | None:
    """Find the event that one without an id repeats.

    A tag that was moved away in between shows in the latest event, so only what changes nothing is dropped.
    """
    if not (event.tag and event.digest):
        return None
    last = await events.find_last_push(event, since=event.received_at - SAME_WITHIN)
    return last.id if last is not None and last.digest == event.digest else None
