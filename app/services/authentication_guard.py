"""Failed authentication: slowed, counted, and in the audit log as one entry for many.

A key is random, so guessing finds none; what is bounded is what guessing costs others, and that it goes unseen. Only
what has failed is slowed, and never a key that is right: else a guess at a key's id, or a neighbour behind the same
proxy, would shut its owner out.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from cachetools import TTLCache

from app.domain.access import AuditContext
from app.domain.audit import AuditAction, AuditEntry
from app.domain.errors import TooManyError, UnavailableError
from app.observability import AUTHENTICATION_FAILURES, get_logger
from app.store.audit import AuditStore
from app.store.db.database import Database

Kind = Literal["api_key", "token", "hook"]
ACTOR = "unauthenticated"
FREE_FAILURES = 5
"""Of one peer, or for one key or hook, within `FORGET_SECONDS`: a key that is typed wrong is no attack."""
FORGET_SECONDS = 60.0
FIRST_DELAY, MOST_DELAY = 0.25, 4.0
"""Seconds; doubled with each failure."""
MOST_SLOWED = 64
"""Answers that are held back at once; what fails beside them is answered 429."""
RETRY_SECONDS = 5
MOST_COUNTED = 10_000
MOST_GROUPS = 20
"""Audit entries that are written at once, each of one peer; the last is of all other peers."""
MOST_TARGETS = 10
SOON_SECONDS, AUDIT_SECONDS = 1.0, 60.0
"""How soon a failure is written down, and how long after that all those that followed."""
OTHERS = "(others)"

log = get_logger(__name__)


@dataclass(slots=True)
class _Group:
    """Failures of one peer that are not in the audit log yet."""

    first_at: datetime
    last_at: datetime
    reasons: Counter[str] = field(default_factory=Counter)
    targets: set[str] = field(default_factory=set)


class AuthenticationGuard:
    """Slows, counts and writes down failed authentication.

    - `now`: the clock, in UTC
    - `sleep`: waits so many seconds
    """

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._now = now
        self._sleep = sleep
        self._failures: TTLCache[tuple[str, str], int] = TTLCache(MOST_COUNTED, FORGET_SECONDS)
        self._slowed = 0
        self._groups: dict[tuple[Kind, str], _Group] = {}
        self._written_at: datetime | None = None
        self._writing: asyncio.Task[None] | None = None

    async def refuse(self, kind: Kind, *, peer: str | None, target: str, reason: str) -> None:
        """Take in one failure and wait as long as its answer is to be held back; raise `TooManyError` for too many.

        - `peer`: the address of the connection's other end
        - `target`: the id of the key, or the name of the hook's registry; foreign text is cut
        - `reason`: what was wrong, one of a few words
        """
        AUTHENTICATION_FAILURES.labels(kind, reason).inc()
        place, target = _network(peer), target[:64] if target.isprintable() else "?"
        self._note(kind, place, target, reason=reason)
        count = max(self._count("peer", place), self._count(kind, target))
        if count <= FREE_FAILURES:
            return
        if self._slowed >= MOST_SLOWED:
            raise TooManyError("too many wrong keys and secrets arrive here; try again", retry_seconds=RETRY_SECONDS)
        self._slowed += 1
        try:
            await self._sleep(min(MOST_DELAY, FIRST_DELAY * 2 ** min(16, count - FREE_FAILURES - 1)))
        finally:
            self._slowed -= 1

    async def write(self) -> None:
        """Write down what has failed since this was done the last time."""
        groups, self._groups = self._groups, {}
        if not groups:
            return
        self._written_at = self._now()
        entries = [_entry(kind, peer, group) for (kind, peer), group in groups.items()]
        try:
            async with self._database.transaction() as session:
                await AuditStore(session).add(*entries)
        except UnavailableError as error:
            log.warning("authentication_failures_not_written", code=error.code, entries=len(entries))

    async def aclose(self) -> None:
        """Write down what is left."""
        if self._writing is not None:
            self._writing.cancel()
        await self.write()

    def _count(self, what: str, which: str) -> int:
        count = self._failures[what, which] = self._failures.get((what, which), 0) + 1
        return count

    def _note(self, kind: Kind, peer: str, target: str, *, reason: str) -> None:
        now = self._now()
        if (kind, peer) not in self._groups and len(self._groups) >= MOST_GROUPS - 1:
            peer = OTHERS
        group = self._groups.setdefault((kind, peer), _Group(now, now))
        group.last_at = now
        group.reasons[reason] += 1
        if len(group.targets) < MOST_TARGETS:
            group.targets.add(target)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_later(), name="authentication failures")

    async def _write_later(self) -> None:
        """Write down what comes within a moment, or a minute where something was written just now."""
        since = timedelta.max if self._written_at is None else self._now() - self._written_at
        await asyncio.sleep(SOON_SECONDS if since.total_seconds() >= AUDIT_SECONDS else AUDIT_SECONDS)
        self._writing = None
        await self.write()


def _network(peer: str | None) -> str:
    """Return who a peer is: its address, and of IPv6 the network that one customer has."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return "?"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _entry(kind: Kind, peer: str, group: _Group) -> AuditEntry:
    details = {
        "kind": kind,
        "failures": group.reasons.total(),
        "reasons": dict(group.reasons),
        "targets": sorted(group.targets),
        "first_at": group.first_at.isoformat(),
        "last_at": group.last_at.isoformat(),
    }
    # Of many requests, not of the first one, whose task goes on to write them all down.
    context = AuditContext(peer=peer if peer != OTHERS else None)
    return AuditEntry(group.last_at, ACTOR, AuditAction.ACCESS_REFUSED, peer, details, context=context)
