"""What workers tell each other of a registry's limits, in both databases."""

from datetime import timedelta

from app.store.db.database import Database
from app.store.registry_limits import RegistryLimitStore, SharedLimit
from tests.support.clock import START

LATER = START + timedelta(hours=1)


async def test_of_two_workers_findings_the_later_window_and_the_longer_pause_stand(database: Database) -> None:
    async with database.transaction() as session:
        limits = RegistryLimitStore(session)
        await limits.share({"hub": SharedLimit(8, START, None)}, now=START)
        await limits.share({"hub": SharedLimit(4, LATER, START)}, now=LATER)
        await limits.share({"hub": SharedLimit(16, START, LATER)}, now=LATER)
        await limits.share({"hub": SharedLimit(16, START, None)}, now=LATER)
        assert await limits.list_changed_since(START) == {"hub": SharedLimit(4, LATER, LATER)}
        assert await limits.list_changed_since(LATER) == {}
        await limits.delete_before(LATER + timedelta(seconds=1))
        assert await limits.list_changed_since(START - timedelta(days=1)) == {}
