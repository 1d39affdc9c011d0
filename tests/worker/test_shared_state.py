"""What workers share: limits are for all of them together, and what one finds out all of them know."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from app.domain.manifest import digest_of
from app.domain.reference import Repository
from app.domain.registry import RegistryEntry, RegistryLimits
from app.domain.request import Options
from app.registry.client import ClientPool
from app.store.db.database import Database, Session
from app.store.registry_limits import RegistryLimitStore
from app.sync.destination import DestinationNote, NoteKind
from app.worker.shared_state import SharedDestinationNotes, SharedRegistryLimits, with_shared_limits, with_shared_rate
from tests.worker.house import ON_POSTGRESQL, House, now

ENTRY = RegistryEntry(
    name="hub",
    host="hub.example.com",
    limits=RegistryLimits(connections=9, requests_per_second=3, bytes_per_second=100),
)


def test_each_of_several_workers_keeps_to_its_part() -> None:
    assert with_shared_limits((ENTRY,), workers=1) == (ENTRY,)
    (part,) = with_shared_limits((ENTRY,), workers=4)
    assert part.limits == RegistryLimits(connections=2, requests_per_second=0.75, bytes_per_second=25)
    (least,) = with_shared_limits((ENTRY,), workers=1_000)
    assert (least.limits.connections, least.limits.bytes_per_second) == (1, 1)


def test_a_limit_nobody_set_is_not_shared() -> None:
    (part,) = with_shared_limits((RegistryEntry(name="a", host="a.example.com"),), workers=2)
    assert (part.limits.requests_per_second, part.limits.bytes_per_second) == (None, None)


async def test_a_jobs_own_rate_is_shared_too(house: House) -> None:
    job = await house.submit("t1", options=Options(max_bytes_per_second=1_000))
    assert with_shared_rate(job, workers=1) == job
    assert with_shared_rate(job, workers=4).request.options.max_bytes_per_second == 250
    plain = await house.submit("t1")
    assert with_shared_rate(plain, workers=4) == plain


class CountedDatabase(Database):
    """A database that notes which transactions are begun."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.begun: list[str] = []

    @asynccontextmanager
    async def transaction(self, *, is_urgent: bool = False, is_short: bool = False) -> AsyncIterator[Session]:
        self.begun.append("write")
        async with super().transaction(is_urgent=is_urgent, is_short=is_short) as session:
            yield session

    @asynccontextmanager
    async def reading(self, *, is_short: bool = False) -> AsyncIterator[Session]:
        self.begun.append("read")
        async with super().reading(is_short=is_short) as session:
            yield session


async def test_notes_of_many_images_are_written_and_read_together(database_url: str) -> None:
    database = CountedDatabase(database_url)
    notes = SharedDestinationNotes(database, clock=now).notes
    repository, digests = Repository.parse("b.io/app"), [digest_of(f"{number}".encode()) for number in range(40)]
    kinds: list[NoteKind] = ["parts", "companions", "parts"]
    await asyncio.gather(
        *(
            notes.put(repository, digest, DestinationNote(kind, f"{number}"))
            for digest in digests
            for number, kind in enumerate(kinds)
        )
    )
    unknown = digest_of(b"unknown")
    found = await asyncio.gather(*(notes.find(repository, digest) for digest in [*digests, unknown, None]))
    assert found == [{"parts": "2", "companions": "1"}] * len(digests) + [{}, {}]
    assert database.begun == ["write", "write", "read"]  # 64 notes at most in one
    await database.aclose()


@ON_POSTGRESQL
async def test_a_pause_that_one_worker_was_asked_for_is_kept_by_all(house: House, another_house: House) -> None:
    pools = [ClientPool(clock=now), ClientPool(clock=now)]
    exchanges = [
        SharedRegistryLimits(one.database, pool, clock=now)
        for one, pool in zip((house, another_house), pools, strict=True)
    ]
    first, second = (pool.client(ENTRY, writing=False).executor.window for pool in pools)
    for exchange in exchanges:
        await exchange.exchange()
    assert second.pause_seconds == 0
    turn = await first.permit()
    first.was_refused(turn, retry_after=40.0, is_rate_limit=True)
    turn.give_back()
    for exchange in exchanges:
        await exchange.exchange()
    assert 30 < second.pause_seconds <= 40
    assert second.size == first.size
    for pool in pools:
        await pool.aclose()


@ON_POSTGRESQL
async def test_nothing_is_written_while_nothing_new_is_found_out(house: House) -> None:
    pool = ClientPool(clock=now)
    pool.client(ENTRY, writing=False)
    exchange = SharedRegistryLimits(house.database, pool, clock=now)
    await exchange.exchange()
    async with house.database.reading() as session:
        assert await RegistryLimitStore(session).list_changed_since(now() - timedelta(days=1)) == {}
    await pool.aclose()
