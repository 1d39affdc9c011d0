"""API keys in both databases."""

from datetime import timedelta

import pytest

from app.domain.access import ApiKey, ScopePreset
from app.domain.errors import ConflictError, NotFoundError
from app.store.api_keys import ApiKeyStore
from app.store.db.database import Database
from tests.support.clock import START

LATER = START + timedelta(hours=1)


async def test_a_key_is_found_by_its_id_with_the_digest_it_must_match(database: Database) -> None:
    key = ApiKey("abc", "ci", ScopePreset.SUBMIT.scopes, START, LATER)
    async with database.transaction() as session:
        keys = ApiKeyStore(session)
        assert not await keys.has_any()
        await keys.add(key, digest="d" * 64)
        await keys.touch("abc", now=LATER)
        assert await keys.find("abc") == (ApiKey("abc", "ci", ScopePreset.SUBMIT.scopes, START, LATER, LATER), "d" * 64)
        assert await keys.find("other") is None
        assert await keys.has_any()


async def test_two_keys_never_have_one_name(database: Database) -> None:
    async with database.transaction() as session:
        keys = ApiKeyStore(session)
        await keys.add(ApiKey("abc", "ci", ScopePreset.READ.scopes, START), digest="d")
        with pytest.raises(ConflictError):
            await keys.add(ApiKey("xyz", "ci", ScopePreset.READ.scopes, START), digest="e")
        await keys.delete("abc")
        with pytest.raises(NotFoundError):
            await keys.delete("abc")
        await keys.add(ApiKey("xyz", "ci", ScopePreset.READ.scopes, START), digest="e")
        assert [key.id for key in await keys.list()] == ["xyz"]
