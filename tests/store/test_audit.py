"""The chain of the audit log, on both databases: what was changed, removed or cut off shows, and all else is linked."""

import asyncio
import re
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.domain.audit import AuditAction, AuditEntry
from app.security import Sealer
from app.store.audit import MAX_AT_ONCE, AuditChain, AuditStore
from app.store.db.database import Database
from tests.support.clock import SettableClock

SEALER = Sealer([Sealer.make_key()])
SQLITE_TRIGGERS = ("audit_log_is_kept_from_UPDATE", "audit_log_is_kept_from_DELETE", "audit_links_are_kept_from_DELETE")


@pytest.fixture
def chain(database: Database, clock: SettableClock) -> AuditChain:
    return AuditChain(database, SEALER, now=clock)


def entry(number: int, clock: SettableClock) -> AuditEntry:
    return AuditEntry(clock(), "ops", AuditAction.REGISTRY_CHANGED, f"hub-{number}", {"changes": {"n": number}})


async def write(database: Database, clock: SettableClock, *, number: int) -> None:
    async with database.transaction() as session:
        await AuditStore(session).add(*(entry(n, clock) for n in range(number)))


async def tamper(database: Database, statement: str) -> None:
    """Do what the owner of a database can: take the triggers away first."""
    off = [f"DROP TRIGGER {name}" for name in SQLITE_TRIGGERS]
    if not database.is_sqlite:
        off = [f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in ("audit_log", "audit_links")]
    await do(database, *off, statement)


async def do(database: Database, *statements: str) -> None:
    async with database.transaction() as session:
        for one in statements:
            await session.execute(text(one))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit_log SET actor = 'eve' WHERE number = 3", "entry 3 (link 3) is not as it was written"),
        ("UPDATE audit_log SET details = '{}' WHERE number = 3", "entry 3 (link 3) is not as it was written"),
        ("UPDATE audit_log SET key_id = 'x' WHERE number = 3", "entry 3 (link 3) is not as it was written"),
        ("DELETE FROM audit_log WHERE number = 3", "entry 3 (link 3) is gone"),
        ("DELETE FROM audit_links WHERE number = 3", "links 3 to 3 are gone"),
    ],
)
async def test_what_was_changed_or_removed_shows(
    database: Database, chain: AuditChain, clock: SettableClock, *, statement: str, said: str
) -> None:
    await write(database, clock, number=5)
    await chain.link()
    assert (await chain.verify()).findings == ()
    await tamper(database, statement)
    assert (await chain.verify()).findings == (said,)


async def test_an_end_that_was_cut_off_shows_to_who_saw_it(
    database: Database, chain: AuditChain, clock: SettableClock
) -> None:
    await write(database, clock, number=5)
    await chain.link()
    head = (await chain.verify()).head
    assert head is not None
    await tamper(database, "DELETE FROM audit_links WHERE position > 3")
    await do(database, "DELETE FROM audit_log WHERE number > 3")
    assert (await chain.verify()).ok
    assert not (await chain.verify(expected=(head.position, head.hash))).ok
    await write(database, clock, number=1)
    await chain.link()  # which remembers its end, and does not go on from another
    assert (await chain.verify()).linked == 3


async def test_a_chain_made_without_the_key_is_none(
    database: Database, chain: AuditChain, clock: SettableClock
) -> None:
    await write(database, clock, number=2)
    stranger = AuditChain(database, Sealer([Sealer.make_key()]), now=clock)
    await stranger.link()
    check = await chain.verify()
    assert (check.linked, check.unchecked) == (2, 2)


async def test_several_processes_make_one_chain(database: Database, chain: AuditChain, clock: SettableClock) -> None:
    number = MAX_AT_ONCE + 10
    await write(database, clock, number=number)
    others = [AuditChain(database, SEALER, now=clock) for _ in range(3)]
    await asyncio.gather(*(one.link() for one in (chain, *others)))
    await chain.link()
    check = await chain.verify()
    assert (check.ok, check.linked, check.unlinked) == (True, number, 0)


async def test_what_is_committed_late_is_linked_late(
    database: Database, chain: AuditChain, clock: SettableClock
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    async with database.transaction() as session:
        await AuditStore(session).add(entry(1, clock))
        await write(database, clock, number=1)
        await chain.link()
    clock.advance(3_600)
    await chain.link()
    check = await chain.verify()
    assert (check.ok, check.linked, check.unlinked) == (True, 2, 0)


@pytest.mark.parametrize("table", ["audit_log", "audit_links"])
async def test_the_database_itself_refuses_to_change_the_log(
    database: Database, chain: AuditChain, clock: SettableClock, table: str
) -> None:
    await write(database, clock, number=2)
    await chain.link()
    statements = [f"UPDATE {table} SET number = 7", f"DELETE FROM {table}"]  # noqa: S608 — names from above
    if database.is_sqlite:
        statements += [f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"]  # noqa: S608 — names from above
    else:
        statements += [f"TRUNCATE {table}", f"SET LOCAL session_replication_role = replica; DELETE FROM {table}"]  # noqa: S608 — the names are this test's
    for statement in statements:
        with pytest.raises(DBAPIError, match="only added to"):
            await do(database, *statement.split("; "))
    assert (await chain.verify()).linked == 2


async def test_the_role_of_the_running_service_as_documented_cant_touch_the_log(
    database: Database, chain: AuditChain, clock: SettableClock, project: Path
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has no roles")
    [script] = re.findall(r"```sql\n(.*?)```", (project / "docs/operations.md").read_text(), re.DOTALL)
    url = make_url(database.url)
    role = f"service_{url.database}"
    script = script.replace("sync_service", role).replace("registry_sync", f'"{url.database}"')
    await do(database, *filter(None, map(str.strip, script.replace("'…'", "'password'").split(";"))))
    limited = Database(url.set(username=role, password="password").render_as_string(hide_password=False))
    try:
        await write(limited, clock, number=1)
        await AuditChain(limited, SEALER, now=clock).link()
        assert (await chain.verify()).linked == 1
        for statement in (
            "TRUNCATE audit_log",
            "ALTER TABLE audit_log DISABLE TRIGGER ALL",
            "DROP TABLE audit_links",
            "UPDATE audit_log SET actor = 'eve'",
        ):
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                await do(limited, statement)
    finally:
        await limited.aclose()
        await do(database, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')
