"""Fixtures every test may use: two real registries, a real PostgreSQL, a clock, and paths.

Registries and PostgreSQL are started once per session, on first use; a test gets a namespace or a database that nobody
else has.
"""

import asyncio
import gc
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from app.store.db.migrate import migrate
from tests.support.clock import SettableClock
from tests.support.images import Manifest
from tests.support.lanes import DESCRIPTIONS, lane_of
from tests.support.plain_client import Content, PlainClient
from tests.support.postgres import PostgresServer
from tests.support.preloaded import Preloaded
from tests.support.processes import memory_folder
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.service import AppProcess

pytest_plugins = ["tests.support.job_fixtures"]

GARBAGE_OBJECTS = 50_000
PROJECT = Path(__file__).resolve().parent.parent

# Several programs share the two cores of a CI machine: an example that takes long says nothing about the code.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

_namespace_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Make the lanes known, for `-m`; and put tests' folders in memory: SQLite waits for the disk at each commit."""
    if (folder := memory_folder()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", folder)
    for lane, description in DESCRIPTIONS.items():
        config.addinivalue_line("markers", f"{lane}: {description}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test in its lane, before `-m` chooses among them."""
    for item in items:
        item.add_marker(lane_of(item))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays for the whole session: a quarter of the time went into looking at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A test's own corner of a shared registry: every repository it names lies under `prefix`."""

    registry: RegistryProcess
    client: PlainClient
    prefix: str

    @property
    def host(self) -> str:
        return self.registry.host

    def repository(self, name: str) -> str:
        """Return a repository's full name in the registry, e.g. `t7/app`."""
        return f"{self.prefix}/{name}"

    def reference(self, name: str, tag: str | None = None) -> str:
        """Return a reference as callers write it, e.g. `127.0.0.1:34567/t7/app:v1`; a digest is told by its colon."""
        suffix = "" if tag is None else f"@{tag}" if ":" in tag else f":{tag}"
        return f"{self.host}/{self.repository(name)}{suffix}"

    def push(self, name: str, manifest: Manifest, *tags: str) -> str:
        """Push a manifest with everything below it, and its tags; return its digest."""
        return self.client.push(self.repository(name), manifest, tags=tags)

    def tags(self, name: str) -> dict[str, str]:
        """Return tag → digest."""
        return self.client.tags(self.repository(name))

    def read(self, name: str) -> Content:
        """Return everything the repository's tags reach, every byte verified."""
        return self.client.read(self.repository(name))


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the project's folder: `openapi/`, `migrations/`, `pyproject.toml` lie in it."""
    return PROJECT


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of recorded payloads, `tests/data`."""
    return PROJECT / "tests" / "data"


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[Preloaded]:
    """Return what starts the service's processes with their modules loaded, once for the session."""
    with Preloaded() as preloaded:
        AppProcess.preloaded = preloaded
        yield preloaded
        AppProcess.preloaded = None


@pytest.fixture
def clock() -> SettableClock:
    """Return a clock that stands still until it is moved."""
    return SettableClock()


@pytest.fixture(scope="session")
def source_registry() -> Iterator[RegistryProcess]:
    """Run the registry that tests copy from; shared, so leave alone what is not in your namespace."""
    with RegistryProcess() as registry:
        yield registry


@pytest.fixture(scope="session")
def destination_registry() -> Iterator[RegistryProcess]:
    """Run the registry that tests copy to; shared, so leave alone what is not in your namespace."""
    with RegistryProcess() as registry:
        yield registry


@pytest.fixture
def source(source_registry: RegistryProcess) -> Iterator[Namespace]:
    """Return an empty namespace of the source registry."""
    with PlainClient.of(source_registry) as client:
        yield Namespace(source_registry, client, f"t{next(_namespace_numbers)}")


@pytest.fixture
def destination(destination_registry: RegistryProcess) -> Iterator[Namespace]:
    """Return an empty namespace of the destination registry."""
    with PlainClient.of(destination_registry) as client:
        yield Namespace(destination_registry, client, f"t{next(_namespace_numbers)}")


@pytest.fixture
def start_registry() -> Iterator[Callable[[RegistryOptions], RegistryProcess]]:
    """Return a function that starts a registry with options of its own, for this test only."""
    with ExitStack() as stack:
        yield lambda options: stack.enter_context(RegistryProcess(options))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run PostgreSQL for the session; who stops or kills a server starts one of their own with `PostgresServer()`."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty PostgreSQL database (`postgresql+asyncpg://…`), dropped after the test."""
    database = postgres_server.create_database()
    yield database.url
    postgres_server.drop_database(database.name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of an SQLite file that does not exist yet (`sqlite+aiosqlite:///…`)."""
    return f"sqlite+aiosqlite:///{tmp_path / 'registry-sync.db'}"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an SQLite file with the current schema, to be copied."""
    file = tmp_path_factory.mktemp("schema") / "registry-sync.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """Make a PostgreSQL database with the current schema, to be copied; return its name."""
    database = postgres_server.create_database(name="migrated")
    asyncio.run(migrate(database.url))
    return database.name


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a database with the current schema and nothing in it: a test runs on SQLite and PostgreSQL."""
    if request.param == "sqlite":
        file = tmp_path / "registry-sync.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), file)
        yield f"sqlite+aiosqlite:///{file}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = server.create_database(template=request.getfixturevalue("migrated_postgres"))
    yield database.url
    server.drop_database(database.name)
