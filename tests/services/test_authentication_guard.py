"""Failed authentication: slowed for those who fail, counted, and a few audit entries for many failures."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from app.domain.access import AUDIT_CONTEXT, AuditContext
from app.domain.audit import AuditAction, AuditEntry, AuditFilter
from app.domain.errors import TooManyError
from app.domain.page import PageRequest
from app.observability import AUTHENTICATION_FAILURES
from app.services.audit import AuditService
from app.services.authentication_guard import (
    FREE_FAILURES,
    MOST_DELAY,
    MOST_GROUPS,
    MOST_SLOWED,
    MOST_TARGETS,
    OTHERS,
    AuthenticationGuard,
)
from app.store.db.database import Database
from tests.support.clock import SettableClock

PEER = "192.0.2.1"


@dataclass
class Guarded:
    database: Database
    guard: AuthenticationGuard = field(init=False)
    slept: list[float] = field(default_factory=list)
    is_open: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.is_open.wait()

    async def fail(self, *, peer: str = PEER, target: str = "a", times: int = 1) -> None:
        for _ in range(times):
            await self.guard.refuse("api_key", peer=peer, target=target, reason="unknown")

    async def entries(self) -> list[AuditEntry]:
        await self.guard.write()
        page = await AuditService(self.database).list(
            AuditFilter(action=AuditAction.ACCESS_REFUSED), PageRequest(limit=200)
        )
        return list(page.items)


@pytest.fixture
async def guarded(database_url: str, clock: SettableClock) -> AsyncIterator[Guarded]:
    database = Database(database_url)
    found = Guarded(database)
    found.guard = AuthenticationGuard(database, now=clock, sleep=found.sleep)
    found.is_open.set()
    yield found
    await found.guard.aclose()
    await database.aclose()


async def test_a_few_failures_are_answered_at_once_and_more_later_and_later(guarded: Guarded) -> None:
    for number in range(FREE_FAILURES):
        await guarded.fail(target=str(number))
    assert guarded.slept == []
    for number in range(20):
        await guarded.fail(target=str(number))
    assert guarded.slept == sorted(guarded.slept)
    assert (guarded.slept[0] > 0, guarded.slept[-1]) == (True, MOST_DELAY)
    await guarded.fail(peer="192.0.2.2", target="other")
    assert len(guarded.slept) == 20


async def test_guesses_at_one_key_are_slowed_from_wherever_they_come(guarded: Guarded) -> None:
    for number in range(FREE_FAILURES + 1):
        await guarded.fail(peer=f"192.0.2.{number}")
    assert len(guarded.slept) == 1


async def test_addresses_of_one_network_of_ipv6_are_one_peer(guarded: Guarded) -> None:
    for number in range(FREE_FAILURES + 1):
        await guarded.fail(peer=f"2001:db8::{number}", target=str(number))
    assert len(guarded.slept) == 1


async def test_no_more_than_so_many_answers_are_held_back(guarded: Guarded) -> None:
    await guarded.fail(times=FREE_FAILURES)
    guarded.is_open.clear()
    held = [asyncio.create_task(guarded.fail()) for _ in range(MOST_SLOWED)]
    while len(guarded.slept) < MOST_SLOWED:  # noqa: ASYNC110 — what is waited for sets no event
        await asyncio.sleep(0)
    with pytest.raises(TooManyError) as raised:
        await guarded.fail()
    assert raised.value.retry_seconds > 0
    guarded.is_open.set()
    await asyncio.gather(*held)
    await guarded.fail()


async def test_many_failures_are_few_entries_that_say_how_many(guarded: Guarded) -> None:
    before = AUTHENTICATION_FAILURES.labels("api_key", "unknown")._value.get()
    for number in range(60):
        await guarded.fail(peer=f"192.0.2.{number}", target=f"key{number}")
    await guarded.fail(target="\x1b[0m" + "x" * 100, times=40)
    entries = await guarded.entries()
    assert len(entries) <= MOST_GROUPS
    assert sum(entry.details["failures"] for entry in entries) == 100
    assert AUTHENTICATION_FAILURES.labels("api_key", "unknown")._value.get() - before == 100
    [others] = [entry for entry in entries if entry.target == OTHERS]
    assert len(others.details["targets"]) <= MOST_TARGETS
    assert {entry.actor for entry in entries} == {"unauthenticated"}
    assert not any("\x1b" in target for entry in entries for target in entry.details["targets"])


async def test_an_entry_is_of_its_peer_and_not_of_the_request_that_failed_first(guarded: Guarded) -> None:
    AUDIT_CONTEXT.set(AuditContext(peer=PEER, key_id="k", request_id="first"))
    await guarded.fail()
    await guarded.fail(peer="192.0.2.2")
    contexts = [entry.context for entry in await guarded.entries()]
    assert contexts == [AuditContext(peer="192.0.2.2"), AuditContext(peer=PEER)]


async def test_what_failed_is_written_down_without_being_asked_for(guarded: Guarded) -> None:
    await guarded.fail()
    while not (page := await AuditService(guarded.database).list(AuditFilter(), PageRequest())).items:  # noqa: ASYNC110 — what is waited for sets no event
        await asyncio.sleep(0.1)
    assert page.items[0].details["reasons"] == {"unknown": 1}
