"""Who is taken for dead: one whose beat stands still while the database could be asked, and nobody after an outage."""

from app.jobs.queue import HEARTBEAT_TIMEOUT, POLL_TIMEOUT
from app.store.db.database import Database
from app.store.heartbeats import HeartbeatStore
from app.worker.claims import BUSY_SECONDS
from app.worker.heartbeat import DEAD_SECONDS, HEARTBEAT_SECONDS, Heartbeat
from tests.worker.house import ON_POSTGRESQL, ON_SQLITE, House, now


class Monotonic:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def roster_of(database: Database, worker: str, clock: Monotonic | None = None) -> Heartbeat:
    return Heartbeat(database, worker=worker, name=worker, concurrency=1, clock=now, monotonic=clock or Monotonic())


async def pass_time(heartbeat: Heartbeat, clock: Monotonic, seconds: float) -> None:
    """Let time go by as it does for a worker: with a beat every two seconds."""
    end = clock.seconds + seconds
    while clock.seconds < end:
        clock.seconds += HEARTBEAT_SECONDS
        await heartbeat.record()


@ON_POSTGRESQL
async def test_a_worker_whose_beat_stands_still_is_dead_after_a_while(house: House) -> None:
    clock = Monotonic()
    one, other = roster_of(house.database, "one", clock), roster_of(house.database, "other")
    await other.record()
    await one.record()
    assert one.alive == 2
    await pass_time(one, clock, DEAD_SECONDS - 2 * HEARTBEAT_SECONDS)
    assert not one.is_dead("other")
    await pass_time(one, clock, 3 * HEARTBEAT_SECONDS)
    assert one.is_dead("other")
    assert not one.is_dead("one")
    assert one.alive == 1
    await other.record()
    await one.record()
    assert not one.is_dead("other")


@ON_POSTGRESQL
async def test_after_an_outage_nobody_is_dead_before_having_had_time_to_show_up(house: House) -> None:
    clock = Monotonic()
    one, other = roster_of(house.database, "one", clock), roster_of(house.database, "other")
    await other.record()
    await one.record()
    clock.seconds += 60  # in which the database did not answer, and nobody could beat
    await one.record()
    assert not one.is_dead("other")
    await pass_time(one, clock, DEAD_SECONDS + HEARTBEAT_SECONDS)
    assert one.is_dead("other")


@ON_POSTGRESQL
async def test_a_worker_nobody_knows_is_given_the_same_time(house: House) -> None:
    clock = Monotonic()
    one = roster_of(house.database, "one", clock)
    await one.record()
    assert not one.is_dead("never-seen")
    await pass_time(one, clock, DEAD_SECONDS + HEARTBEAT_SECONDS)
    assert one.is_dead("never-seen")


@ON_POSTGRESQL
async def test_who_leaves_is_counted_no_more(house: House) -> None:
    one, other = roster_of(house.database, "one"), roster_of(house.database, "other")
    await other.record()
    await other.leave()
    await one.record()
    assert one.alive == 1
    async with house.database.reading() as session:
        assert [worker.id for worker in await HeartbeatStore(session).list()] == ["one"]


@ON_SQLITE
async def test_beside_sqlite_everyone_else_is_from_before(house: House) -> None:
    one = roster_of(house.database, "one")
    assert one.is_dead("other")
    assert not one.is_dead("one")


def test_what_a_killed_worker_had_is_begun_again_within_half_a_minute() -> None:
    """By what it is made of: the queue delivers it, and whoever gets it looks until its worker is taken for dead."""
    is_delivered = (HEARTBEAT_TIMEOUT + POLL_TIMEOUT).total_seconds()
    is_taken_for_dead = DEAD_SECONDS + HEARTBEAT_SECONDS
    assert max(is_delivered, is_taken_for_dead) + BUSY_SECONDS + POLL_TIMEOUT.total_seconds() < 30
