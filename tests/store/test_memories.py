"""What is remembered beside jobs: keys, blob locations, open uploads, pressures, workers."""

from datetime import timedelta

import pytest

from app.domain.access import ApiKey, ScopePreset
from app.domain.errors import ConflictError, NotFoundError
from app.domain.reference import Digest, Registry, Repository
from app.security import Sealer
from app.store.api_keys import ApiKeyStore
from app.store.blob_locations import BlobLocation, BlobLocationStore
from app.store.db.database import Database
from app.store.registry_limits import RegistryLimitStore, SharedLimit
from app.store.upload_sessions import OpenUpload, UploadSessionStore, delete_uploads_before
from tests.support.clock import START

HOST = Registry("r.example.com")
ONE, TWO = Repository(HOST, "a/one"), Repository(HOST, "a/two")
DIGEST, OTHER = Digest(f"sha256:{'1' * 64}"), Digest(f"sha256:{'2' * 64}")
SEALER = Sealer([Sealer.make_key()])
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


async def test_blobs_are_found_where_they_were_seen_last(database: Database) -> None:
    async with database.transaction() as session:
        locations = BlobLocationStore(session)
        await locations.record([BlobLocation(ONE, DIGEST), BlobLocation(TWO, DIGEST)], now=START)
        await locations.record([BlobLocation(ONE, DIGEST), BlobLocation(ONE, OTHER)], now=LATER)
        found = await locations.list_latest(limit=5)
        assert set(found[:2]) == {BlobLocation(ONE, DIGEST), BlobLocation(ONE, OTHER)}
        assert found[2:] == (BlobLocation(TWO, DIGEST),)
        assert await locations.list_latest(limit=2) == found[:2]
        assert await locations.delete_before(LATER, limit=10) == 1
        assert set(await locations.list_latest(limit=5)) == set(found[:2])


async def test_an_open_upload_is_kept_sealed_until_it_is_over(database: Database) -> None:
    upload = OpenUpload(ONE, DIGEST, "https://r.example.com/v2/a/one/blobs/uploads/1?_state=signed")
    async with database.transaction() as session:
        uploads = UploadSessionStore(session, SEALER, worker="one")
        await uploads.put(OpenUpload(ONE, DIGEST, "older"), now=START)
        await uploads.put(upload, now=LATER)
        assert await uploads.take(ONE, DIGEST) == upload
        assert await uploads.take(TWO, DIGEST) is None
        raw = await (await session.connection()).exec_driver_sql("SELECT location FROM upload_sessions")
        assert "signed" not in str(raw.scalar_one())
        assert await delete_uploads_before(session, LATER, limit=10) == 0
        await uploads.delete(ONE, DIGEST)
        assert await uploads.take(ONE, DIGEST) is None


async def test_an_upload_is_one_workers_until_that_one_leaves_it_or_dies(database: Database) -> None:
    upload, other = OpenUpload(ONE, DIGEST, "mine"), OpenUpload(ONE, DIGEST, "other")
    async with database.transaction() as session:
        first, second, third = (UploadSessionStore(session, SEALER, worker=name) for name in ("one", "two", "three"))
        await first.put(upload, now=START)
        assert await second.take(ONE, DIGEST) is None
        await second.put(other, now=START)
        await second.delete(ONE, DIGEST)
        await second.leave(ONE, DIGEST)
        assert await first.take(ONE, DIGEST) == upload
        await first.leave(ONE, DIGEST)
        assert await second.take(ONE, DIGEST) == upload
        assert await first.take(ONE, DIGEST) is None
        assert await third.take(ONE, DIGEST, dead="two") == upload


def nobody(_worker: str) -> bool:
    return False


async def test_of_two_workers_findings_the_later_window_and_the_longer_pause_stand(database: Database) -> None:
    async with database.transaction() as session:
        pressures = RegistryLimitStore(session)
        await pressures.share({"hub": SharedLimit(8, START, None)}, now=START)
        await pressures.share({"hub": SharedLimit(4, LATER, START)}, now=LATER)
        await pressures.share({"hub": SharedLimit(16, START, LATER)}, now=LATER)
        await pressures.share({"hub": SharedLimit(16, START, None)}, now=LATER)
        assert await pressures.list_changed_since(START) == {"hub": SharedLimit(4, LATER, LATER)}
        assert await pressures.list_changed_since(LATER) == {}
        await pressures.delete_before(LATER + timedelta(seconds=1))
        assert await pressures.list_changed_since(START - timedelta(days=1)) == {}
