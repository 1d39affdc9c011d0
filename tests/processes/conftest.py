"""Fixtures for what the processes of one host tell each other."""

from collections.abc import AsyncIterator

import pytest

from tests.processes.hosts import RelayedChannels


@pytest.fixture
async def channels() -> AsyncIterator[RelayedChannels]:
    """Return the channels of one host's processes."""
    relayed = RelayedChannels()
    yield relayed
    await relayed.close()
