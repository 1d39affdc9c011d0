"""API keys on several processes: what one makes works on all at once, what one revokes is soon good nowhere."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from app.domain.access import Caller, ScopePreset
from app.domain.errors import AccessError
from app.services.api_keys import ApiKeyService
from app.store.db.database import Database

ADMIN = Caller("admin", ScopePreset.ADMIN.scopes)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def keys(database_url: str) -> AsyncIterator[ApiKeyService]:
    """Return the keys as one process has them."""
    database = Database(database_url)
    yield ApiKeyService(database, now=now)
    await database.aclose()


@pytest.fixture
async def elsewhere(database_url: str) -> AsyncIterator[ApiKeyService]:
    """Return the keys as another process has them."""
    database = Database(database_url)
    yield ApiKeyService(database, now=now)
    await database.aclose()


async def test_a_key_made_elsewhere_works_at_once(keys: ApiKeyService, elsewhere: ApiKeyService) -> None:
    made = await elsewhere.create(name="ci", scopes=ScopePreset.READ.scopes, expires_seconds=None, caller=ADMIN)
    with pytest.raises(AccessError):
        await keys.authenticate(f"{made.text[:-1]}{'y' if made.text.endswith('x') else 'x'}", address=None)
    assert (await keys.authenticate(made.text, address=None)).name == "ci"


async def test_a_revoked_key_is_refused_at_once_here_and_soon_elsewhere(
    keys: ApiKeyService, elsewhere: ApiKeyService
) -> None:
    made = await keys.create(name="ci", scopes=ScopePreset.READ.scopes, expires_seconds=None, caller=ADMIN)
    for service in (keys, elsewhere):
        await service.authenticate(made.text, address=None)
    await keys.revoke(made.key.id, caller=ADMIN)
    with pytest.raises(AccessError):
        await keys.authenticate(made.text, address=None)
    async with asyncio.timeout(60):
        while await opens(elsewhere, made.text):  # noqa: ASYNC110 — nobody tells it
            await asyncio.sleep(0.1)


async def test_a_key_that_expires_is_refused_though_it_was_read_a_moment_ago(database_url: str) -> None:
    database, moment = Database(database_url), datetime(2026, 1, 1, tzinfo=UTC)
    keys = ApiKeyService(database, now=lambda: moment)
    made = await keys.create(name="ci", scopes=ScopePreset.READ.scopes, expires_seconds=60, caller=ADMIN)
    assert await opens(keys, made.text)
    moment = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert not await opens(keys, made.text)
    await database.aclose()


async def opens(keys: ApiKeyService, text: str) -> bool:
    try:
        await keys.authenticate(text, address=None)
    except AccessError:
        return False
    return True
