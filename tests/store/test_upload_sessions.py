"""Open uploads in both databases: sealed, and one worker's at a time."""

from datetime import timedelta

from app.domain.reference import Digest, Registry, Repository
from app.security import Sealer
from app.store.db.database import Database
from app.store.upload_sessions import OpenUpload, UploadSessionStore, delete_uploads_before
from tests.support.clock import START

HOST = Registry("r.example.com")
ONE, TWO = Repository(HOST, "a/one"), Repository(HOST, "a/two")
DIGEST = Digest(f"sha256:{'1' * 64}")
SEALER = Sealer([Sealer.make_key()])
LATER = START + timedelta(hours=1)


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
