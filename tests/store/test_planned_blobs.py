"""One image of a plan counts a blob, whichever worker looks at it first; in both databases."""

import asyncio
from datetime import timedelta

from app.store.db.database import Database
from app.store.planned_blobs import PlannedBlobStore
from tests.support.clock import START

KEYS = [bytes([number]) * 16 for number in range(4)]
ONE, TWO = b"1" * 16, b"2" * 16


async def claim(database: Database, keys: list[bytes], owner: bytes) -> frozenset[bytes]:
    async with database.transaction() as session:
        [claimed] = await PlannedBlobStore(session).claim([dict.fromkeys(keys, owner)], now=START)
        return claimed


async def test_a_blob_belongs_to_the_first_that_claims_it_also_when_that_asks_again(database: Database) -> None:
    assert await claim(database, KEYS[:2], ONE) == set(KEYS[:2])
    assert await claim(database, KEYS, TWO) == set(KEYS[2:])
    assert await claim(database, KEYS, ONE) == set(KEYS[:2])
    assert await claim(database, KEYS[1:], TWO) == set(KEYS[2:])


async def test_of_several_that_claim_in_one_transaction_the_first_has_a_blob(database: Database) -> None:
    wanted = [dict.fromkeys(KEYS[:2], ONE), dict.fromkeys(KEYS[1:], TWO)]
    async with database.transaction() as session:
        claimed = await PlannedBlobStore(session).claim(wanted, now=START)
    assert claimed == [frozenset(KEYS[:2]), frozenset(KEYS[2:])]


async def test_of_claims_at_the_same_time_one_has_each_blob(database: Database) -> None:
    owners = [bytes([number]) * 16 for number in range(10, 18)]
    orders = [KEYS if number % 2 else KEYS[::-1] for number in range(len(owners))]
    found = await asyncio.gather(*(claim(database, keys, owner) for keys, owner in zip(orders, owners, strict=True)))
    assert sorted(key for keys in found for key in keys) == KEYS


async def test_old_claims_are_deleted_a_few_at_a_time(database: Database) -> None:
    await claim(database, KEYS, ONE)
    async with database.transaction() as session:
        claims = PlannedBlobStore(session)
        assert await claims.delete_before(START, limit=3) == 0
        assert [await claims.delete_before(START + timedelta(1), limit=3) for _ in "123"] == [3, 1, 0]
