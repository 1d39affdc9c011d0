"""Permits of a transfer that trickles are lent out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from app.clock import now
from app.domain.registry import RegistryLimits
from app.net.stream import Piece
from app.registry.ratelimit import adaptive_concurrency
from app.registry.ratelimit.adaptive_concurrency import ConcurrencyWindow, TransferPermits


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_concurrency, "LOOK_SECONDS", 0.05)


def window() -> ConcurrencyWindow:
    return ConcurrencyWindow(RegistryLimits(connections=1), clock=now, pause_max_seconds=1)


async def pieces(*, pause_seconds: float = 0) -> AsyncGenerator[Piece]:
    while True:
        await asyncio.sleep(pause_seconds)
        yield b"x"


async def until_lent(lender: ConcurrencyWindow) -> None:
    async with asyncio.timeout(60):
        while lender.in_use:  # noqa: ASYNC110 — what a timer does is waited for
            await asyncio.sleep(0.01)


async def test_while_the_source_trickles_the_destination_serves_others() -> None:
    source, destination = window(), window()
    async with (
        TransferPermits([source, destination]) as permits,
        aclosing(permits.watch(pieces(pause_seconds=0.02))) as chunks,
    ):
        reading = asyncio.create_task(anext_for_ever(chunks))
        await until_lent(destination)
        assert source.in_use == 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert (source.in_use, destination.in_use) == (0, 0)


async def test_while_a_destination_trickles_the_source_serves_others() -> None:
    source, destination = window(), window()
    async with (
        TransferPermits([source, destination]) as permits,
        aclosing(permits.watch(pieces())) as chunks,
    ):
        await anext(chunks)
        await until_lent(source)
        assert destination.in_use == 1
    assert (source.in_use, destination.in_use) == (0, 0)


async def anext_for_ever(chunks: AsyncGenerator[Piece, None]) -> None:
    async for _ in chunks:
        pass
