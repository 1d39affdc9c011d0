"""The audit log: entries are added in the transaction of the change they describe, links of its chain after it.

The chain: each entry is linked to those before it by a keyed hash, so that a changed one shows. Entries of many
transactions at once are linked a little later, many at once, by one process at a time: nothing that changes something
waits for the chain (docs/decisions/0024).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Row, Select, func, insert, select, text

from app.domain.access import AuditContext
from app.domain.audit import AuditAction, AuditEntry, AuditFilter, AuditLink
from app.domain.errors import RegistrySyncError
from app.domain.page import Page, PageRequest, cursor_after
from app.security import Sealer
from app.store.db.database import Database, Session
from app.store.tables.access import AuditLinkRow, AuditRow
from app.store.tables.declarative import table_of

log = structlog.get_logger()

_log, _links = table_of(AuditRow), table_of(AuditLinkRow)
LINK_SECONDS = 2.0
"""How often what is new is linked."""
MAX_AT_ONCE = 500
"""Links that are read at once to be verified."""
LINKED_AT_ONCE = 100
"""Links that one transaction adds; on SQLite other writers wait for it."""
MAX_FINDINGS = 100
"""What is wrong is listed up to so many times; where one is, that is all there is to know."""
_LONGEST_TRANSACTION = timedelta(minutes=10)
"""A number given longer ago is written or never will be; PostgreSQL ends transactions that idle for a minute."""
_LOCK = 7_202_153_040_918
"""An advisory lock's number: one process at a time adds links."""


class AuditStore:
    """The log in the transaction of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, *entries: AuditEntry) -> None:
        """Write down that something was changed."""
        rows = [
            {
                "at": entry.at,
                "actor": entry.actor,
                "action": entry.action,
                "target": entry.target,
                "details": dict(entry.details),
                "peer": entry.context.peer,
                "key_id": entry.context.key_id,
                "request_id": entry.context.request_id,
            }
            for entry in entries
        ]
        await self._session.execute(insert(_log), rows)

    async def list(self, wanted: AuditFilter, page: PageRequest) -> Page[AuditEntry]:
        """Read a page of the log, newest first."""
        bound_to = repr(wanted)
        statement = _matching(wanted).order_by(_log.c.number.desc()).limit(page.limit + 1)
        if (after := page.after(bound_to)) is not None:
            statement = statement.where(_log.c.number < int(after[0]))
        rows = (await self._session.execute(statement)).all()
        items = tuple(_entry(row) for row in rows[: page.limit])
        is_last = len(rows) <= page.limit
        return Page(items, None if is_last else cursor_after((items[-1].number,), bound_to=bound_to))

    async def lock_chain(self) -> bool:
        """Keep others from adding links until the transaction ends; return False where another process does."""
        if self._session.get_bind().dialect.name == "sqlite":
            return True  # there is one writer at a time
        locked = await self._session.execute(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": _LOCK})
        return bool(locked.scalar_one())

    async def find_last_link(self) -> AuditLink | None:
        """Read the end of the chain; None for an empty one."""
        row = (await self._session.execute(select(_links).order_by(_links.c.position.desc()).limit(1))).one_or_none()
        return None if row is None else _link(row)

    async def list_unlinked(self, *, after: int, limit: int) -> tuple[AuditEntry, ...]:
        """List entries with numbers above one that no link is for, by number."""
        is_linked = select(_links.c.number).where(_links.c.number == _log.c.number).exists()
        statement = select(_log).where(_log.c.number > after, ~is_linked).order_by(_log.c.number).limit(limit)
        return tuple(_entry(row) for row in await self._session.execute(statement))

    async def count_unlinked(self) -> int:
        """Count the entries that no link is for."""
        is_linked = select(_links.c.number).where(_links.c.number == _log.c.number).exists()
        return int((await self._session.execute(select(func.count()).select_from(_log).where(~is_linked))).scalar_one())

    async def add_links(self, links: Sequence[AuditLink]) -> None:
        """Add links to the end of the chain."""
        await self._session.execute(insert(_links), [asdict(link) for link in links])

    async def list_linked(self, *, after: int, limit: int) -> tuple[tuple[AuditLink, AuditEntry | None], ...]:
        """List links above a position, each with its entry; None for one that is gone."""
        statement = (
            select(_links, *[column.label(f"log_{column.name}") for column in _log.c])
            .outerjoin(_log, _log.c.number == _links.c.number)
            .where(_links.c.position > after)
            .order_by(_links.c.position)
            .limit(limit)
        )
        rows = await self._session.execute(statement)
        return tuple((_link(row), None if row.log_number is None else _entry(row, "log_")) for row in rows)


def _link(row: Row[Any]) -> AuditLink:
    return AuditLink(row.position, row.number, row.hash, row.key)


def _matching(wanted: AuditFilter) -> Select[Any]:
    statement = select(_log)
    if wanted.actor is not None:
        statement = statement.where(_log.c.actor == wanted.actor)
    if wanted.action is not None:
        statement = statement.where(_log.c.action == wanted.action)
    if wanted.target is not None:
        statement = statement.where(_log.c.target == wanted.target)
    if wanted.since is not None:
        statement = statement.where(_log.c.at >= wanted.since)
    return statement


def _entry(row: Row[Any], prefix: str = "") -> AuditEntry:
    def value(name: str) -> Any:
        return getattr(row, f"{prefix}{name}")

    return AuditEntry(
        value("at"),
        value("actor"),
        AuditAction(value("action")),
        value("target"),
        value("details"),
        value("number"),
        AuditContext(value("peer"), value("key_id"), value("request_id")),
    )


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """What a look at the whole log found."""

    linked: int
    unlinked: int
    """Written just now, and not linked yet."""
    unchecked: int
    """Linked with a key that is not among the secret keys any more."""
    head: AuditLink | None
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every entry is as it was written."""
        return not self.findings


class AuditChain:
    """Links entries of the audit log, and checks links.

    - `sealer`: has the keys of the hashes, which are no part of the database
    - `now`: the clock, in UTC
    """

    def __init__(self, database: Database, sealer: Sealer, *, now: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._now = now
        self._head: AuditLink | None = None
        self._floor = 0
        """All entries up to this number are linked, or will never be written."""
        self._seen: deque[tuple[datetime, int]] = deque()

    async def link(self) -> None:
        """Link what is new; raise `UnavailableError`. A chain that lost its end is reported, and not gone on with."""
        now, highest = self._now(), 0
        while entries := await self._link_some():
            highest = max(highest, entries[-1].number)
            if len(entries) < LINKED_AT_ONCE:
                break
        if highest:
            self._seen.append((now, highest))
        # On SQLite, which has one writer, numbers are committed in order.
        longest = timedelta(0) if self._database.is_sqlite else _LONGEST_TRANSACTION
        while self._seen and self._seen[0][0] <= now - longest:
            self._floor = max(self._floor, self._seen.popleft()[1])

    async def _link_some(self) -> Sequence[AuditEntry]:
        async with self._database.reading() as session:
            if not await AuditStore(session).list_unlinked(after=self._floor, limit=1):
                return ()
        async with self._database.transaction(is_short=True) as session:
            store = AuditStore(session)
            if not await store.lock_chain():
                return ()
            head = await store.find_last_link()
            if self._head is not None and (head is None or head.position < self._head.position):
                log.error("audit_chain_broken", position=self._head.position, head=self._head.hash)
                return ()
            entries = await store.list_unlinked(after=self._floor, limit=LINKED_AT_ONCE)
            links: list[AuditLink] = []
            for entry in entries:
                before = links[-1] if links else head
                links.append(self._linked(before, entry))
            if links:
                await store.add_links(links)
        if links:
            self._head = links[-1]
            log.info("audit_linked", entries=len(links), position=self._head.position, head=self._head.hash)
        return entries

    def _linked(self, before: AuditLink | None, entry: AuditEntry) -> AuditLink:
        position, key = (before.position if before else 0) + 1, self._sealer.chain_key
        made = self._sealer.chain(_text(before.hash if before else "", position, entry), key=key)
        assert made is not None  # noqa: S101 — the newest key is always there
        return AuditLink(position, entry.number, made, key)

    async def verify(self, *, expected: tuple[int, str] | None = None) -> AuditCheck:
        """Look at every entry and link; raise `UnavailableError`.

        - `expected`: position and hash of a link as they were seen once; a chain whose end was cut off lacks it
        """
        findings: list[str] = []
        head, linked, unchecked = None, 0, 0
        async with self._database.reading() as session:
            store = AuditStore(session)
            while found := await store.list_linked(after=head.position if head else 0, limit=MAX_AT_ONCE):
                for link, entry in found:
                    made = self._finding(head, link, entry)
                    unchecked += link.key not in self._sealer.chain_keys
                    if made is not None:
                        findings.append(made)
                    if expected is not None and link.position == expected[0] and link.hash == expected[1]:
                        expected = None
                    head, linked = link, linked + 1
            unlinked = await store.count_unlinked()
        if expected is not None:
            findings.append(f"link {expected[0]} is not there as it was seen")
        return AuditCheck(linked, unlinked, unchecked, head, tuple(findings[:MAX_FINDINGS]))

    def _finding(self, before: AuditLink | None, link: AuditLink, entry: AuditEntry | None) -> str | None:
        position = (before.position if before else 0) + 1
        if link.position != position:
            return f"links {position} to {link.position - 1} are gone"
        if entry is None:
            return f"entry {link.number} (link {link.position}) is gone"
        made = self._sealer.chain(_text(before.hash if before else "", position, entry), key=link.key)
        if made is not None and made != link.hash:
            return f"entry {link.number} (link {link.position}) is not as it was written"
        return None


def _text(before: str, position: int, entry: AuditEntry) -> str:
    return f"{before}\n{position}\n{entry.canonical}"


def parse_head(text: str) -> tuple[int, str]:
    """Read a position and a hash, `17:4be1…`; raise `RegistrySyncError` for anything else."""
    position, _, made = text.partition(":")
    if not position.isdecimal() or not made:
        raise RegistrySyncError("the end of a chain is its position and hash, as `audit verify` shows them: 17:4be1…")
    return int(position), made
