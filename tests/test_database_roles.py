"""The roles that compose makes in PostgreSQL: one migrates, one serves and copies and can't touch the audit log."""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.security import Sealer
from app.store.db.database import Database
from app.store.db.migrate import migrate
from tests.conftest import PROJECT, Namespace
from tests.support.images import oci_image
from tests.support.postgres import USER, PostgresDatabase, PostgresServer, find_programs
from tests.support.service import ServiceProcess

ROLES = PROJECT / "deploy/postgres/roles.sql"
PASSWORDS = {"sync_owner": "owner's", "sync_service": "service's"}


def make_roles(database: PostgresDatabase, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as the image of PostgreSQL does, with secrets that lie in a folder of the test's."""
    connection = f"host={database.host} port={database.port} user={USER} dbname={database.name}"
    command = [str(find_programs() / "psql"), connection, "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--no-password"]
    return subprocess.run(  # noqa: S603 — psql, with this test's own words
        [*command, "--set", f"secrets={folder}", "--file", str(ROLES)],
        env={**os.environ, "PGPASSWORD": database.password},
        check=False,
        capture_output=True,
        text=True,
    )


def url_of(database: PostgresDatabase, role: str) -> str:
    url = make_url(database.url).set(username=role, password=PASSWORDS[role])
    return url.render_as_string(hide_password=False)


async def do(url: str, statement: str) -> None:
    database = Database(url)
    try:
        async with database.transaction() as session:
            await session.execute(text(statement))
    finally:
        await database.aclose()


@pytest.mark.parametrize("is_upgrade", [False, True], ids=["new", "made as the superuser before"])
def test_one_role_migrates_and_the_other_serves_and_copies(
    tmp_path: Path, source: Namespace, destination: Namespace, *, is_upgrade: bool
) -> None:
    for role, password in PASSWORDS.items():
        (tmp_path / f"{role}_password").write_text(f"{password}\n")
    with PostgresServer() as server:
        database = server.create_database()
        if is_upgrade:
            asyncio.run(migrate(database.url))
        for _ in range(2):
            made = make_roles(database, tmp_path)
            assert made.returncode == 0, made.stderr
        asyncio.run(migrate(url_of(database, "sync_owner")))
        limited = url_of(database, "sync_service")

        with ServiceProcess(tmp_path, settings={"DATABASE_URL": limited, "SECRET_KEYS": Sealer.make_key()}) as service:
            service.enter("source", source.registry)
            service.enter("destination", destination.registry)
            image = oci_image("roles")
            source.push("app", image, "1")
            request = {"source": source.reference("app", "1"), "destination": destination.reference("app", "1")}
            assert service.run_job(request)["state"] == "succeeded"
            assert destination.tags("app") == {"1": image.digest}
            assert service.client.get("/v1/audit").json()["items"]

        for statement in (
            "TRUNCATE audit_log",
            "DELETE FROM audit_log",
            "UPDATE audit_log SET actor = 'eve'",
            "DELETE FROM audit_links",
            "ALTER TABLE audit_log DISABLE TRIGGER ALL",
            "DROP TABLE audit_log",
            "DROP EVENT TRIGGER audit_log_is_kept",
            "CREATE TABLE another (number integer)",
            "SET ROLE sync_owner",
        ):
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                asyncio.run(do(limited, statement))


def test_no_role_is_made_without_a_password(tmp_path: Path) -> None:
    for role in PASSWORDS:
        (tmp_path / f"{role}_password").write_text("\n")
    with PostgresServer() as server:
        made = make_roles(server.create_database(), tmp_path)
        assert made.returncode != 0
        assert server.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sync%'") == "0"


def test_nothing_in_compose_connects_as_the_superuser_and_all_of_it_is_bounded() -> None:
    services: dict[str, Any] = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
    postgres = services.pop("postgres")
    assert f"./{ROLES.relative_to(PROJECT)}:/docker-entrypoint-initdb.d/roles.sql:ro" in postgres["volumes"]
    for name, service in services.items():
        role = "sync_owner" if name == "migrate" else "sync_service"
        assert service["environment"]["DATABASE_ROLE"] == role
        assert [one for one in service["secrets"] if one.endswith("_password")] == [f"{role}_password"]
    for service in (postgres, *services.values()):
        assert {"cpus", "mem_limit", "pids_limit"} <= service.keys()
