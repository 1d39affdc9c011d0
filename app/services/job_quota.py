"""The job quota: how many jobs of one API key may wait or run at once.

They are counted in the database once a second and per process, and what is submitted meanwhile is added to that:
several processes together may let a key have a few more.
"""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import TTLCache

from app.domain.access import Caller
from app.domain.errors import TooManyError
from app.store.db.database import Database
from app.store.units import UnitStore

MOST_JOBS = 10_000
COUNT_SECONDS = 1.0
MOST_CALLERS = 1_000
RETRY_SECONDS = 10


@dataclass(slots=True)
class _Count:
    jobs: int


class JobQuota:
    """Refuses jobs of a key that has as many as it may.

    - `most`: jobs of one key that are not done
    """

    def __init__(self, database: Database, *, most: int) -> None:
        self._database = database
        self._most = most
        self._counts: TTLCache[str, _Count] = TTLCache(MOST_CALLERS, COUNT_SECONDS)

    async def take(self, caller: Caller, *, jobs: int = 1) -> None:
        """Count jobs that are about to be submitted; raise `TooManyError` (`quota_exceeded`) for more than it may.

        Callers without a key have no quota: policies that are due, and the operator while no key exists.
        """
        if (count := await self.check(caller, jobs=jobs)) is not None:
            count.jobs += jobs

    async def check(self, caller: Caller, *, jobs: int = 1) -> _Count | None:
        """Return the count that `take` would add to, and add nothing; None where there is no quota. Raise as `take`."""
        if caller.key_id is None or not jobs:
            return None
        count = self._counts.get(caller.name) or await self._read(caller.name)
        if count.jobs + jobs > self._most:
            message = f"{caller.name!r} has {count.jobs} jobs that are not done, and may have {self._most}"
            raise TooManyError(message, retry_seconds=RETRY_SECONDS, code="quota_exceeded")
        return count

    async def _read(self, name: str) -> _Count:
        async with self._database.reading() as session:
            counts = await UnitStore(session).count_jobs(name, most=self._most)
        return self._counts.setdefault(name, _Count(sum(counts.values())))
