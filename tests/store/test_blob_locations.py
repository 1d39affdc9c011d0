"""Where blobs were seen last, in both databases."""

from datetime import timedelta

from app.domain.reference import Digest, Registry, Repository
from app.store.blob_locations import BlobLocation, BlobLocationStore
from app.store.db.database import Database
from tests.support.clock import START

HOST = Registry("r.example.com")
ONE, TWO = Repository(HOST, "a/one"), Repository(HOST, "a/two")
DIGEST, OTHER = Digest(f"sha256:{'1' * 64}"), Digest(f"sha256:{'2' * 64}")
LATER = START + timedelta(hours=1)


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
