"""Two fake registries and a workbench between them; both are looked over after the test."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_registry import FakeRegistry, Quirks, fake_registry
from tests.sync.workbench import Workbench, workbench


@pytest.fixture
async def here() -> AsyncIterator[FakeRegistry]:
    """Run the registry to copy from."""
    async with fake_registry(Quirks(sparse_allowed=True)) as registry:
        yield registry


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    """Run the registry to copy to."""
    async with fake_registry() as registry:
        yield registry
        registry.check(sparse=registry.quirks.sparse_allowed)


@pytest.fixture
async def bench(here: FakeRegistry, there: FakeRegistry) -> AsyncIterator[Workbench]:
    """Return a workbench that knows both."""
    async with workbench(here, there) as bench:
        yield bench
