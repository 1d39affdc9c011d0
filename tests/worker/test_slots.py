"""Slots: units that only wait give theirs back, and one registry has a share of those only."""

import asyncio

import pytest

from app.concurrency import (
    Activity,
    current_activity,
    note_moved,
    waiting_elsewhere,
    waiting_for,
    waiting_for_unit,
)
from app.domain.job import JobState
from app.worker import worker
from app.worker.claims import SHARE, WAITING_PER_SLOT, UnitSlots
from tests.worker.house import CALLER, House


async def hold(slots: UnitSlots, unit_id: int, *, registry: str = "slow.example.com", moved: int = 0) -> None:
    async with slots.slot(unit_id):
        note_moved(moved)
        with waiting_for(registry):
            await asyncio.Event().wait()


async def test_a_unit_that_only_waits_lets_another_one_begin(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)
    async with house.worker(concurrency=1):
        waiting = await house.submit("slow-600s")
        await house.until(lambda seen: seen.progress.images.running == 1, waiting)
        assert (await house.run("t1")).state is JobState.SUCCEEDED
        assert not (await house.jobs.get(waiting.id, caller=CALLER)).done
        await house.cancel(waiting)


async def test_a_unit_for_which_something_moves_keeps_its_slot() -> None:
    slots = UnitSlots(1)
    task = asyncio.create_task(hold(slots, 1, moved=10_000_000))
    await asyncio.sleep(0)
    assert not slots.give_back(1)
    assert slots.give_back(1), "nothing has moved since"
    task.cancel()


async def test_of_the_units_that_wait_one_registry_has_a_share() -> None:
    slots = UnitSlots(1)
    share = WAITING_PER_SLOT // SHARE
    tasks = []
    for unit_id in range(share):
        assert slots.crowded() == frozenset()
        tasks.append(asyncio.create_task(hold(slots, unit_id)))
        await asyncio.sleep(0)
        assert slots.give_back(unit_id)
    assert slots.crowded() == {"slow.example.com"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert slots.crowded() == frozenset()


async def test_there_is_room_for_so_many_that_wait_and_then_slots_are_kept() -> None:
    slots = UnitSlots(1)
    tasks = []
    for unit_id in range(WAITING_PER_SLOT):
        tasks.append(asyncio.create_task(hold(slots, unit_id, registry=f"{unit_id}.example.com")))
        await asyncio.sleep(0)
        assert slots.give_back(unit_id)
    tasks.append(asyncio.create_task(hold(slots, 99)))
    await asyncio.sleep(0)
    assert not slots.give_back(99)
    for task in tasks:
        task.cancel()


async def test_whom_a_unit_waits_for_is_who_does_not_answer() -> None:
    slots = UnitSlots(2)
    async with slots.slot(1):
        first = current_activity()
        assert isinstance(first, Activity)
        with waiting_for("destination.example.com"), waiting_elsewhere(), waiting_for("source.example.com"):
            assert first.registries == {"source.example.com"}
            async with slots.slot(2):
                second = current_activity()
                assert second is not None
                with waiting_for_unit(first):
                    assert second.registries == {"source.example.com"}
        assert first.registries == frozenset()
