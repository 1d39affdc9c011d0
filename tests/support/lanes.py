"""Lanes of tests by what they need, told from a test's fixtures and from what its module imports.

    pure       no I/O
    fake       the fake registry, SQLite, loopback sockets
    service    the whole service in the test's process: its API over HTTP, or its worker
    postgres   a real PostgreSQL
    registry   real registries, and ECR as moto has it
    kill       processes of the service run, or are killed; or servers are taken away, as modules and tests say

A test is in one lane, the last of these that fits.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import pytest

LANES = ("pure", "fake", "service", "postgres", "registry", "kill")
DESCRIPTIONS = {
    "pure": "no I/O",
    "fake": "the fake registry, SQLite, loopback sockets",
    "service": "the whole service in this process: its API over HTTP, or its worker",
    "postgres": "a real PostgreSQL",
    "registry": "real registries, and ECR as moto has it",
    "kill": "processes of the service run or are killed, or servers are taken away",
}
_FIXTURES = {
    "aws": "registry",
    "serve": "service",
    "shared": "service",
    "postgres_server": "postgres",
    "postgres_url": "postgres",
    "migrated_postgres": "postgres",
    "source_registry": "registry",
    "destination_registry": "registry",
    "start_registry": "registry",
    "tmp_path": "fake",
    "tmp_path_factory": "fake",
    "migrated_sqlite": "fake",
}
_MODULES = {
    "tests.support.postgres": "postgres",
    "tests.worker.house": "service",
    "tests.support.registries": "registry",
    "tests.support.aws_server": "registry",
    "tests.support.entra_server": "fake",
    "tests.support.fake_registry": "fake",
    "tests.support.google_server": "fake",
    "tests.support.mail_server": "fake",
    "tests.support.processes": "fake",
    "tests.support.receiver": "fake",
    "tests.support.service": "kill",
    "tests.support.token_server": "fake",
}
_SERVERS = frozenset({"postgres", "registry"})
_RUNNERS = frozenset({"PostgresServer", "RegistryProcess", "run_registry"})
"""What a module calls itself to start a server; types that only annotate a fixture's value start nothing."""


def lane_of(item: pytest.Item) -> str:
    """Return the lane of a test."""
    return max(_hints(item), key=LANES.index)


def _hints(item: pytest.Item) -> Iterator[str]:
    yield from (lane for lane in LANES if item.get_closest_marker(lane))
    yield "pure"
    if not isinstance(item, pytest.Function):
        return
    if inspect.iscoroutinefunction(item.function):
        yield "fake"
    yield from (_FIXTURES[name] for name in item.fixturenames if name in _FIXTURES)
    if "database_url" in item.fixturenames:
        yield "fake"
    if "postgresql" in getattr(getattr(item, "callspec", None), "params", {}).values():
        yield "postgres"
    names = set(item.function.__code__.co_names)
    yield from (lane for name, lane in _imports_of(item.module) if lane not in _SERVERS or name in _RUNNERS & names)


@cache
def _imports_of(module: ModuleType) -> tuple[tuple[str, str], ...]:
    homes = ((name, _home_of(value)) for name, value in vars(module).items())
    return tuple((name, _MODULES[home]) for name, home in homes if home in _MODULES)


def _home_of(value: object) -> str:
    module = getattr(value, "__module__", None) or getattr(value, "__name__", "")
    return ".".join(str(module).split(".")[:3])
