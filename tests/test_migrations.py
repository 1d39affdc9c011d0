"""The schema: from nothing to the newest, exactly what the tables say, down and up again, beside older processes."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from app.domain.errors import UnavailableError
from app.store.db.database import Database
from app.store.db.migrate import migrate
from app.store.db.schema import migration_config
from app.store.tables.queue import queue_settings


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a database without any tables."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


async def run(url: str, do: Callable[[Config], object]) -> None:
    """Run one of Alembic's commands on a database."""

    def with_connection(connection: Connection) -> None:
        config = migration_config()
        config.attributes["connection"] = connection
        do(config)

    database = Database(url)
    async with database.transaction() as session:
        await (await session.connection()).run_sync(with_connection)
    await database.aclose()


async def tables(url: str) -> set[str]:
    database = Database(url)
    async with database.reading() as session:
        names = await (await session.connection()).run_sync(lambda connection: inspect(connection).get_table_names())
    await database.aclose()
    return set(names)


async def test_an_empty_database_comes_to_exactly_what_the_tables_say(empty_url: str) -> None:
    await migrate(empty_url)
    await run(empty_url, command.check)


async def test_there_is_one_newest_revision() -> None:
    assert len(ScriptDirectory.from_config(migration_config()).get_heads()) == 1


async def test_down_leaves_nothing_and_up_brings_everything_back(empty_url: str) -> None:
    await migrate(empty_url)
    before = await tables(empty_url)
    await run(empty_url, lambda config: command.downgrade(config, "base"))
    assert await tables(empty_url) == {"alembic_version"}
    await migrate(empty_url)
    assert await tables(empty_url) == before
    await run(empty_url, command.check)


async def test_every_single_step_can_be_taken_back(empty_url: str) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(migration_config()).walk_revisions()]
    for revision in reversed(revisions):
        await migrate(empty_url, revision=revision)
        await run(empty_url, lambda config: command.downgrade(config, "-1"))
        await migrate(empty_url, revision=revision)


async def test_migrating_twice_is_migrating_once(empty_url: str) -> None:
    await migrate(empty_url)
    before = await tables(empty_url)
    await migrate(empty_url)
    assert await tables(empty_url) == before


async def test_processes_that_migrate_at_once_take_turns(empty_url: str) -> None:
    await asyncio.gather(*(migrate(empty_url) for _ in range(4)))
    database = Database(empty_url)
    await database.check_schema()
    await database.aclose()


async def test_an_empty_and_an_older_schema_are_refused_with_what_to_run(empty_url: str) -> None:
    database = Database(empty_url)
    with pytest.raises(UnavailableError, match="no tables yet; run `registry-sync migrate`") as refused:
        await database.check_schema()
    assert refused.value.code == "schema_outdated"
    await migrate(empty_url, revision="0001")
    with pytest.raises(UnavailableError, match="at revision 0001; run `registry-sync migrate`"):
        await database.check_schema()
    await migrate(empty_url)
    await database.check_schema()
    await database.aclose()


async def test_a_newer_schema_is_accepted_for_processes_one_release_older(empty_url: str) -> None:
    await migrate(empty_url)
    database = Database(empty_url)
    async with database.transaction() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.check_schema()
    await migrate(empty_url)
    await database.check_schema()
    await database.aclose()


async def test_the_engine_finds_its_tables_on_postgresql_and_sqlite_has_none(empty_url: str) -> None:
    await migrate(empty_url)
    names = queue_settings()
    expected = {names.queue_table, names.queue_table_log, names.statistics_table, names.schedules_table}
    found = {name for name in await tables(empty_url) if name.startswith("engine_")}
    assert found == (set() if empty_url.startswith("sqlite") else expected)


async def test_files_that_are_made_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = Database(f"sqlite+aiosqlite:///{tmp_path}/new.db")
        async with database.transaction() as session:
            await session.execute(text("CREATE TABLE one (number INTEGER)"))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in os.scandir(tmp_path)}
        await database.aclose()
    finally:
        os.umask(before)
    assert modes == {"new.db": 0o600, "new.db-wal": 0o600, "new.db-shm": 0o600}
