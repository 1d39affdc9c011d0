"""A unit has one worker at a time; a claim that was lost writes nothing any more."""

import asyncio
import itertools
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.domain.errors import JobInterrupted
from app.domain.job import ImageState
from app.store.tables.declarative import table_of
from app.store.tables.jobs import UnitRow
from app.store.units import UnitKind
from app.worker.claims import Claim, ClaimDeferred, Claims, StopReason, StopSignal
from app.worker.heartbeat import Heartbeat
from app.worker.progress_writer import ProgressWriter
from app.worker.runner import SLICE_SECONDS, copy_unit
from tests.worker.house import ON_POSTGRESQL, ON_SQLITE, SEALER, House, now
from tests.worker.sync_sessions import Steered


def claims_of(house: House, worker: str, *, later: timedelta = timedelta()) -> Claims:
    heartbeat = Heartbeat(house.database, worker=worker, name=worker, concurrency=1, clock=now)
    return Claims(house.database, SEALER, heartbeat=heartbeat, clock=lambda: now() + later)


async def unit_ids(house: House, kind: UnitKind = UnitKind.PLAN) -> list[int]:
    units = table_of(UnitRow)
    async with house.database.reading() as session:
        of_kind = select(units.c.id).where(units.c.kind == kind).order_by(units.c.id)
        return list((await session.execute(of_kind)).scalars())


async def take(house: House, worker: str, unit_id: int, *, later: timedelta = timedelta()) -> Claim:
    claim = await claims_of(house, worker, later=later).claim(unit_id)
    assert isinstance(claim, Claim), claim
    return claim


async def planned(house: House, *tags: str) -> int:
    """Submit, have it planned by a worker that then ends, and return the first copy unit."""
    job = await house.submit(*tags)
    async with house.worker(grace_seconds=0):
        await house.until(lambda seen: seen.progress.planned, job)
    return (await unit_ids(house, UnitKind.COPY))[0]


@ON_POSTGRESQL
async def test_a_unit_that_another_worker_has_is_not_to_be_had(house: House) -> None:
    await house.submit("t1")
    (unit_id,) = await unit_ids(house)
    assert isinstance(await claims_of(house, "one").claim(unit_id), Claim)
    assert isinstance(await claims_of(house, "two").claim(unit_id), ClaimDeferred)


@ON_SQLITE
async def test_beside_sqlite_what_another_worker_had_is_from_before_and_free(house: House) -> None:
    await house.submit("t1")
    (unit_id,) = await unit_ids(house)
    assert isinstance(await claims_of(house, "one").claim(unit_id), Claim)
    assert isinstance(await claims_of(house, "two").claim(unit_id), Claim)


@ON_POSTGRESQL
async def test_of_many_claims_at_once_one_comes_through(house: House, another_house: House) -> None:
    await house.submit("t1")
    (unit_id,) = await unit_ids(house)
    houses = [house, another_house] * 10
    answers = await asyncio.gather(*(claims_of(one, str(n)).claim(unit_id) for n, one in enumerate(houses)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1


async def test_a_lost_claim_writes_nothing(house: House) -> None:
    unit_id = await planned(house, "slow-60s")
    lost = await take(house, "same", unit_id)
    writer = ProgressWriter(lost, house.database, clock=now)
    writer.begin([0])
    won = await take(house, "same", unit_id)
    assert won.unit.fence == lost.unit.fence + 1
    with pytest.raises(JobInterrupted):
        await writer.flush()
    with pytest.raises(JobInterrupted):
        await writer.close(None)
    (image,) = await house.images(lost.job)
    assert (image.state, image.attempts) == (ImageState.QUEUED, 0)


async def test_a_unit_learns_that_its_claim_is_lost(house: House) -> None:
    unit_id = await planned(house, "slow-60s")
    lost = await take(house, "same", unit_id)
    writer, stop_signal = ProgressWriter(lost, house.database, clock=now), StopSignal()
    writing = asyncio.create_task(writer.run_periodically(stop_signal))
    await take(house, "same", unit_id)
    writer.begin([0])
    await asyncio.wait_for(writing, 60)
    assert stop_signal.reason is StopReason.LOST


async def test_a_unit_of_a_deleted_job_is_nothing_to_do(house: House) -> None:
    assert await claims_of(house, "one").claim(12_345) is None


async def test_a_unit_whose_workers_died_too_often_fails_instead_of_killing_another_worker(house: House) -> None:
    unit_id = await planned(house, "slow-60s")
    before = house.journal.events("app:slow-60s")
    for _ in range(10):
        job = (await take(house, "same", unit_id)).job
    async with house.worker("same"):
        job = await house.done(job)
    (image,) = await house.images(job)
    assert image.error is not None
    assert image.error.code == "internal"
    assert house.journal.events("app:slow-60s") == before


async def test_a_unit_that_has_had_its_time_begins_nothing_more_and_comes_again(house: House) -> None:
    unit_id = await planned(house, *(f"slow-2s-{number}" for number in range(40)))
    claim = await take(house, "same", unit_id)
    writer = ProgressWriter(claim, house.database, clock=now)
    moments = itertools.chain([0.0, 0.0], itertools.repeat(SLICE_SECONDS + 1))
    sync_session = Steered(house.journal).open(claim.job, (), lambda: False)
    await copy_unit(claim, sync_session, StopSignal(), writer=writer, monotonic=lambda: next(moments))
    assert await writer.close(None) == 0.0
    first, last = claim.unit.first_image, claim.unit.last_image
    states = [image.state for image in (await house.images(claim.job))[first : last + 1]]
    assert len(states) > 1
    assert states.count(ImageState.COPIED) == 1
    assert states.count(ImageState.QUEUED) == len(states) - 1


async def test_an_image_whose_registry_is_away_is_tried_again_later_and_not_for_ever(house: House) -> None:
    unit_id = await planned(house, "away")  # where it may have been tried once already
    seen: list[tuple[float | None, ImageState, int]] = []
    while not seen or seen[-1][1] is not ImageState.FAILED:
        claim = await take(house, "same", unit_id, later=timedelta(minutes=len(seen) + 1))
        writer = ProgressWriter(claim, house.database, clock=now)
        sync_session = Steered(house.journal).open(claim.job, (), lambda: False)
        await copy_unit(claim, sync_session, StopSignal(), writer=writer)
        rest = await writer.close(None)
        (image,) = await house.images(claim.job)
        seen.append((rest, image.state, image.attempts))
    wanted = [(10.0, ImageState.QUEUED, 1), (30.0, ImageState.QUEUED, 2), (None, ImageState.FAILED, 3)]
    assert len(seen) > 1
    assert seen == wanted[-len(seen) :]
