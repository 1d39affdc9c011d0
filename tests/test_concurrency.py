"""Waiting with limits and running side by side, without a clock where that can be."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from app.concurrency import in_batches

LONG = 60.0


async def numbers(count: int, *, closed: asyncio.Event | None = None) -> AsyncGenerator[int]:
    try:
        for number in range(count):
            yield number
    finally:
        if closed is not None:
            closed.set()


async def test_full_batches_come_as_they_fill_and_the_last_with_what_is_left() -> None:
    batches = [batch async for batch in in_batches(numbers(25), size=10, seconds=LONG)]
    assert [number for batch, _ in batches for number in batch] == list(range(25))
    assert [is_last for _, is_last in batches] == [False, True]
    assert all(len(batch) <= 20 for batch, _ in batches)


async def test_a_source_of_nothing_is_one_empty_batch() -> None:
    assert [batch async for batch in in_batches(numbers(0), size=10, seconds=LONG)] == [([], True)]


async def test_what_there_is_comes_after_a_while_though_the_source_waits() -> None:
    more = asyncio.Event()

    async def slow() -> AsyncGenerator[int]:
        yield 1
        await more.wait()
        yield 2

    batches = in_batches(slow(), size=10, seconds=0.01)
    assert await anext(batches) == ([1], False)
    more.set()
    assert [batch async for batch in batches][-1] == ([2], True)


async def test_a_source_is_not_read_far_ahead() -> None:
    read = 0

    async def endless() -> AsyncGenerator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    batches = in_batches(endless(), size=10, seconds=LONG)
    await anext(batches)
    await asyncio.sleep(0)
    assert read <= 40
    await batches.aclose()


async def test_what_the_source_raises_is_raised_and_leaving_early_closes_it() -> None:
    async def broken() -> AsyncGenerator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async for _ in in_batches(broken(), size=10, seconds=LONG):
            pass
    closed = asyncio.Event()
    batches = in_batches(numbers(100, closed=closed), size=10, seconds=LONG)
    await anext(batches)
    await batches.aclose()
    assert closed.is_set()
