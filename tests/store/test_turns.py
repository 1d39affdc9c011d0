"""Turns: in order, the urgent before the others, nobody for ever behind, nobody lost who stops waiting."""

import asyncio

from app.store.turns import Turns


async def test_turns_come_in_order_and_the_urgent_goes_first_every_second_time_at_most() -> None:
    turns = Turns()
    had: list[str] = []

    async def have(name: str, *, is_urgent: bool = False) -> None:
        async with turns.turn(is_urgent=is_urgent):
            had.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group, turns.turn(is_urgent=False):
        for name in ("a", "b", "c"):
            group.create_task(have(name))
        for name in ("U", "V", "W"):
            group.create_task(have(name, is_urgent=True))
        await asyncio.sleep(0)
        assert had == []
    assert had == ["U", "a", "V", "b", "W", "c"]


async def test_who_stops_waiting_or_is_stopped_with_the_turn_in_hand_passes_it_on() -> None:
    turns = Turns()

    async def wait() -> None:
        async with turns.turn(is_urgent=False):
            await asyncio.sleep(0)

    async with turns.turn(is_urgent=True):
        gone, given, last = (asyncio.create_task(wait()) for _ in range(3))
        await asyncio.sleep(0)
        gone.cancel()
    given.cancel()  # it has been given the turn, and does not know yet
    await asyncio.wait({gone, given}, timeout=5)
    await asyncio.wait_for(last, 5)
    assert (gone.cancelled(), given.cancelled()) == (True, True)
    await asyncio.wait_for(wait(), 5)
