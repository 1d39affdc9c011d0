"""How hard a registry is asked: windows, pauses, slots of several registries, and what is left of a rate limit."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from app.domain.errors import RegistryError
from app.domain.reference import Digest, Registry, Repository, Tag
from app.domain.registry import RegistryEntry, RegistryLimits
from app.net.http_headers import retry_after_seconds
from app.registry.client import ClientPool
from app.registry.limits import REQUEST_RETRIES
from app.registry.ratelimit.adaptive_concurrency import ConcurrencyWindow, Permit, TransferPermits, WindowState, acquire
from app.registry.ratelimit.quota_headers import Quota
from app.registry.ratelimit.token_bucket import TokenBucket
from tests.registry.conftest import Connect, descriptor, entry_of
from tests.support.clock import START, SettableClock
from tests.support.fake_registry import Quirks, Respond, TooMany, fake_registry, on
from tests.support.images import blob, oci_image
from tests.support.waiting import until

IMAGE = oci_image("app")
V1 = Tag("v1")
LAYER = blob("layer", size=200_000)


def window(connections: int = 16, clock: Callable[[], Any] | None = None, **limits: Any) -> ConcurrencyWindow:
    return ConcurrencyWindow(
        RegistryLimits(connections=connections, **limits), clock=clock or SettableClock(), pause_max_seconds=900
    )


def opened(connections: int = 16, clock: Callable[[], Any] | None = None) -> ConcurrencyWindow:
    """Return one whose window is as wide as it gets."""
    made = window(connections, clock)
    for _ in range(connections):
        made.went_well()
    return made


def refuse(one: ConcurrencyWindow, *, epoch: int | None = None, retry_after: float | None = 0.0) -> None:
    permit = Permit({}, epoch=one._epoch if epoch is None else epoch)
    one.was_refused(permit, retry_after=retry_after, is_rate_limit=True)


async def test_a_window_opens_quickly_until_the_first_refusal_and_slowly_after() -> None:
    one = window()
    first = one.size
    for _ in range(4):
        one.went_well()
    assert one.size == first + 4
    for _ in range(100):
        one.went_well()
    assert one.size == 16
    refuse(one)
    assert one.size == 8
    for _ in range(8):
        one.went_well()
    assert one.size in {8, 9}
    for _ in range(200):
        one.went_well()
    assert one.size == 16


async def test_a_burst_of_refusals_halves_the_window_once() -> None:
    one = opened()
    turns = [await one.permit() for _ in range(8)]
    for permit in turns:
        one.was_refused(permit, retry_after=0, is_rate_limit=True)
        permit.give_back()
    assert one.size == 8
    later = await one.permit()
    one.was_refused(later, retry_after=0, is_rate_limit=True)
    assert one.size == 4


async def test_a_window_never_closes() -> None:
    one = opened()
    for _ in range(20):
        refuse(one)
    assert one.size == 1


async def test_no_turn_is_given_beyond_the_window_or_in_a_pause() -> None:
    one = opened(2)
    first, second = await one.permit(), await one.permit()
    third = asyncio.create_task(one.permit())
    await asyncio.sleep(0.01)
    assert not third.done()
    one.pause(0.1)
    first.give_back()
    await asyncio.sleep(0)
    assert not (third.done() and one.pause_seconds)
    async with asyncio.timeout(60):
        (await third).give_back()
    second.give_back()
    assert one.in_use == 0


async def test_an_urgent_request_has_the_next_turn() -> None:
    one, served = opened(1), list[str]()

    async def go(name: str, *, is_urgent: bool) -> None:
        permit = await one.permit(is_urgent=is_urgent)
        served.append(name)
        permit.give_back()

    first = await one.permit()
    async with asyncio.TaskGroup() as group:
        for name in ("request 1", "request 2", "urgent 1", "urgent 2"):
            group.create_task(go(name, is_urgent=name.startswith("urgent")))
        await asyncio.sleep(0)
        first.give_back()
    assert served == ["urgent 1", "urgent 2", "request 1", "request 2"]
    assert one.in_use == 0


async def test_a_longer_pause_stands_and_every_pause_has_an_end() -> None:
    one = window()
    one.pause(10)
    one.pause(1)
    assert one.pause_seconds > 9
    one.pause(10_000_000)
    assert 900 < one.pause_seconds <= 86_400
    one.close()


async def test_a_long_pause_turns_away_who_waits_and_who_comes(clock: SettableClock) -> None:
    one, other = opened(1), opened(1)
    (await one.permit()).epoch = 0
    waiting = asyncio.create_task(one.permit())
    transfer = asyncio.create_task(acquire({one: 1, other: 1}, is_transfer=True))
    await asyncio.sleep(0)
    one.pause(3_600)
    for turned_away in (waiting, transfer, asyncio.create_task(one.permit())):
        with pytest.raises(RegistryError, match="left alone for 3600 seconds") as refused:
            await turned_away
        assert (refused.value.code, refused.value.temporary) == ("rate_limited", True)
        assert 3_599 < (refused.value.asked_pause or 0) <= 3_600
    assert (one.waiting, other.waiting, other.in_use) == (deque(), deque(), 0)
    one.close()


async def test_pauses_nobody_asked_for_grow() -> None:
    one = opened()
    refuse(one, retry_after=None)
    first = one.pause_seconds
    refuse(one, retry_after=None)
    assert 0.5 < first <= 1
    assert 1.5 < one.pause_seconds <= 2
    one.close()


async def test_a_small_request_does_not_queue_behind_transfers() -> None:
    one = opened(8)
    transfers = [asyncio.create_task(acquire({one: 1}, is_transfer=True)) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert sum(task.done() for task in transfers) == 6
    async with asyncio.timeout(60):
        (await one.permit()).give_back()
    for task in transfers:
        (await task).give_back()
    assert one.in_use == 0


async def test_slots_of_several_registries_are_taken_all_or_none() -> None:
    a, b = opened(1), opened(1)
    first = await acquire({a: 1}, is_transfer=True)
    end = asyncio.Event()
    both = asyncio.create_task(_hold([a, b], end))
    await asyncio.sleep(0.01)
    assert b.in_use == 0
    async with asyncio.timeout(60):
        (await b.permit()).give_back()  # who waits for `a` does not keep `b` from others
    first.give_back()
    await asyncio.sleep(0.01)
    assert (a.in_use, b.in_use) == (1, 1)
    end.set()
    await both
    assert (a.in_use, b.in_use) == (0, 0)


async def test_a_transfer_within_one_registry_takes_two_and_goes_alone_if_need_be() -> None:
    one = opened(1)
    async with TransferPermits([one, one]):
        assert one.in_use == 2
        waiting = asyncio.create_task(acquire({one: 1}, is_transfer=False))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    (await waiting).give_back()


async def test_a_transfer_that_waits_for_one_registry_keeps_its_place_there() -> None:
    one = opened(2)
    first, second = await one.permit(), await one.permit()
    large = asyncio.create_task(acquire({one: 2}, is_transfer=True))
    await asyncio.sleep(0)
    small = [asyncio.create_task(one.permit()) for _ in range(3)]
    await asyncio.sleep(0)
    first.give_back()
    await asyncio.sleep(0)
    assert not any(task.done() for task in small)
    second.give_back()
    (await large).give_back()
    for task in small:
        (await task).give_back()


async def test_requests_in_a_transfer_use_its_slots() -> None:
    one = opened(1)
    async with TransferPermits([one]), asyncio.timeout(60):
        permit = await one.permit()
        assert one.in_use == 1
        permit.give_back()
        permit.give_back()
        assert one.in_use == 1
    assert one.in_use == 0


async def test_slots_are_not_taken_on_top_of_slots() -> None:
    a, b = opened(), opened()
    async with TransferPermits([a]):
        with pytest.raises(RuntimeError):
            await TransferPermits([b]).__aenter__()
    async with TransferPermits([b]):
        pass


async def test_whoever_is_cancelled_leaves_nothing_behind() -> None:
    a, b = opened(2), opened(2)
    source = random.Random(7)
    tasks = [asyncio.create_task(_hold(source.sample([a, b], source.choice([1, 2])), None)) for _ in range(60)]
    for _ in range(200):
        await asyncio.sleep(0)
        source.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (a.in_use, b.in_use, len(a.waiting), len(b.waiting)) == (0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
async def test_no_order_of_transfers_locks_up(seed: int) -> None:
    source = random.Random(seed)
    registries = [opened(source.choice([1, 2, 3, 16])) for _ in range(4)]

    async def transfer() -> None:
        chosen = source.choices(registries, k=source.choice([1, 2, 2, 3]))
        async with TransferPermits(chosen):
            for one in chosen:
                permit = await one.permit()
                await asyncio.sleep(0)
                permit.give_back()

    async def request() -> None:
        permit = await source.choice(registries).permit()
        await asyncio.sleep(0)
        permit.give_back()
        if source.random() < 0.05:
            refuse(source.choice(registries), retry_after=0.001)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(300):
            group.create_task(source.choice([transfer, request])())
    assert all(one.in_use == 0 and not one.waiting for one in registries)


async def test_two_jobs_between_two_registries_in_both_directions_do_not_wait_for_each_other(pool: ClientPool) -> None:
    async with fake_registry() as left, fake_registry() as right:
        entries = tuple(
            entry_of(one, name=name, limits={"connections": 1}) for name, one in (("left", left), ("right", right))
        )
        clients = pool.clients(entries)
        a, b = (clients.for_registry(entry.registry) for entry in entries)
        for one in (left, right):
            one.content.put_blob("team/app", LAYER.data)

        async def copy(source: Any, destination: Any, path: str) -> None:
            async with pool.slots(source, destination):
                session = await destination.start_upload(path, descriptor(LAYER))
                async with source.open_blob("team/app", descriptor(LAYER)) as reader:
                    await session.send(aiter(reader), size=LAYER.size, digest=Digest(LAYER.digest))

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(copy(a, b, f"copy/n{number}"))
                group.create_task(copy(b, a, f"copy/n{number}"))
                group.create_task(copy(a, a, f"own/n{number}"))
        assert max(left.journal.most_at_once, right.journal.most_at_once) <= 2


async def test_no_more_requests_are_in_work_than_the_entry_allows(connect: Connect) -> None:
    async with fake_registry(Quirks(latency_seconds=0.002)) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, limits={"connections": 3})
        await asyncio.gather(*(client.head_manifest("team/app", V1) for _ in range(60)))
        # One more may ask who we are meanwhile.
        assert registry.journal.most_at_once <= 4


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_that_was_asked_for_is_kept_by_everybody(
    connect: Connect, clock: SettableClock, form: Any, status: int
) -> None:
    async with fake_registry(Quirks(retry_after=form), clock=clock) as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry)
        await client.head_manifest("team/app", V1)
        value = "1" if form == "seconds" else format_datetime(clock.now() + timedelta(seconds=1), usegmt=True)
        registry.faults.add(Respond(status, (("Retry-After", value),)), matching=on("manifest"))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        first = asyncio.create_task(client.head_manifest("team/app", V1))
        window = client.executor.window
        await until(lambda: window.pause_seconds > 0)
        mark = registry.journal.mark()
        second = asyncio.create_task(client.get_manifest("team/app", V1))
        while window.pause_seconds:
            assert registry.journal.mark() == mark
            await asyncio.sleep(0.01)
        assert await first
        assert (await second).digest == IMAGE.digest
        assert loop.time() - begun >= 0.9


async def test_refusals_that_say_nothing_are_borne_with_growing_pauses(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        registry.faults.add(Respond(429, (("Retry-After", "soon"),)), matching=on("manifest"))
        assert await connect(registry).head_manifest("team/app", V1)


async def test_many_refusals_are_borne_longer_than_failures(connect: Connect) -> None:
    async with fake_registry(Quirks(retry_after_seconds=0)) as registry:
        registry.load("team/app", IMAGE, "v1")
        registry.faults.add(TooMany(), matching=on("manifest"), times=7)
        assert await connect(registry).head_manifest("team/app", V1)
        registry.faults.add(Respond(502), matching=on("manifest"), times=None)
        mark = registry.journal.mark()
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).get_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.temporary) == ("registry_unreachable", True)
        assert registry.journal.count("manifest", since=mark) == REQUEST_RETRIES.attempts


async def test_a_rate_limit_may_be_told_with_another_status(connect: Connect) -> None:
    async with fake_registry(Quirks(limit_requests=0, limit_status=403, retry_after_seconds=0)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).get_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.temporary) == ("rate_limited", True)


async def test_a_pause_beyond_all_patience_fails_the_request_at_once(connect: Connect) -> None:
    async with fake_registry(Quirks(limit_requests=0, retry_after_seconds=100_000)) as registry:
        with pytest.raises(RegistryError) as refusal:
            await connect(registry).get_manifest("team/app", V1)
        assert (refusal.value.code, refusal.value.retry_after) == ("rate_limited", 100_000)
        assert registry.journal.count("manifest") <= 1


async def test_with_slots_in_hand_a_long_pause_is_not_waited_for(pool: ClientPool, connect: Connect) -> None:
    async with fake_registry() as registry:
        client = connect(registry)
        client.executor.window.pause(0)
        async with pool.slots(client):
            client.executor.window.pause(60)
            with pytest.raises(RegistryError) as refusal:
                await client.start_upload("team/app", descriptor(LAYER))
        assert refusal.value.code == "rate_limited"
        assert refusal.value.retry_after is not None
        assert 50 < refusal.value.retry_after <= 60


class TestQuota:
    """What is left of a rate limit."""

    @pytest.mark.parametrize(
        ("headers", "pull", "other"),
        [
            ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "5;w=21600"}, 900, 0),
            ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "6;w=21600"}, 0, 0),
            ({"ratelimit-remaining": "1;w=300"}, 300, 0),
            ({"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}, 31, 31),
            ({"ratelimit-limit": "100", "ratelimit-remaining": "3", "ratelimit-reset": "7"}, 8, 8),
            ({"ratelimit-limit": "100", "ratelimit-remaining": "3", "ratelimit-reset": "1893553505"}, 61, 61),
            ({"ratelimit": '"default";r=1;t=12'}, 13, 13),
            ({"ratelimit": '"default";r=50;t=12'}, 0, 0),
            ({"ratelimit-remaining": "lots"}, 0, 0),
            ({}, 0, 0),
        ],
    )
    def test_the_last_ones_are_kept(self, headers: dict[str, str], pull: float, other: float) -> None:
        quota = Quota()
        quota.see(headers, now=100.0, wall_now=START.timestamp())
        assert quota.wait_seconds(now=100.0, is_pull=True) == pytest.approx(pull)
        assert quota.wait_seconds(now=100.0, is_pull=False) == pytest.approx(other)
        assert quota.wait_seconds(now=1001.0, is_pull=True) == 0

    async def test_docker_hubs_last_pulls_are_not_burned(self, connect: Connect) -> None:
        quirks = Quirks(limit_requests=40, limit_counts="manifest_gets", limit_headers="docker_hub")
        async with fake_registry(quirks) as registry:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry)
            pulled = 0
            with suppress(RegistryError):
                for _ in range(60):
                    await client.get_manifest("team/app", V1)
                    pulled += 1
            assert pulled == 38
            with pytest.raises(RegistryError) as refusal:
                await client.get_manifest("team/app", V1)
            assert (refusal.value.code, refusal.value.temporary) == ("rate_limited", True)
            assert refusal.value.retry_after is not None
            assert await client.head_manifest("team/app", V1)  # HEAD is free
            assert registry.journal.count(status=429) == 0

    @pytest.mark.parametrize("form", ["draft", "structured"])
    async def test_a_window_that_is_nearly_used_up_is_waited_out(self, connect: Connect, form: Any) -> None:
        quirks = Quirks(limit_requests=10, limit_window_seconds=2, limit_headers=form)
        async with fake_registry(quirks) as registry:
            registry.load("team/app", IMAGE, "v1")
            client = connect(registry)
            for _ in range(12):
                assert await client.head_manifest("team/app", V1)
            assert registry.journal.count(status=429) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("Wed, 02 Jan 2030 03:05:05 GMT", 60),
        ("Wed, 02 Jan 2030 03:03:05 GMT", 0),
        ("soon", None),
        ("-3", None),
        ("", None),
        (str(int(START.timestamp()) + 30), 30),
    ],
)
def test_retry_after_is_seconds_or_a_moment(text: str, seconds: float | None) -> None:
    found = retry_after_seconds(text, now=START)
    assert found == (seconds if seconds is None else pytest.approx(seconds))


async def test_a_bucket_keeps_its_rate() -> None:
    """From its first second on: a tenth of a second's worth passes at once, and no more."""
    bucket, loop = TokenBucket(400), asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(120):
        await bucket.acquire(1)
    assert loop.time() - begun >= 0.19


async def test_who_stops_waiting_for_a_bucket_keeps_no_one_else_waiting() -> None:
    bucket = TokenBucket(1)
    await bucket.acquire(1)
    waiting = [asyncio.create_task(bucket.acquire(1_000)) for _ in range(5)]
    await asyncio.sleep(0)
    last = asyncio.create_task(bucket.acquire(1))
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    async with asyncio.timeout(60):  # it would be hours behind them
        await last
    assert all(task.cancelled() for task in waiting)


async def test_a_bucket_serves_in_order() -> None:
    bucket, served = TokenBucket(50), list[int]()

    async def pass_through(number: int) -> None:
        await bucket.acquire(1)
        served.append(number)

    await asyncio.gather(*(pass_through(number) for number in range(12)))
    assert served == list(range(12))


async def test_what_is_urgent_goes_before_what_waits_for_a_bucket_and_pays_too() -> None:
    bucket, served = TokenBucket(100), list[str]()

    async def pass_through(name: str, *, is_urgent: bool) -> None:
        await bucket.acquire(1, is_urgent=is_urgent)
        served.append(name)

    loop = asyncio.get_running_loop()
    begun = loop.time()
    await bucket.acquire(20)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(pass_through(f"other {number}", is_urgent=False))
        await asyncio.sleep(0)
        for number in range(3):
            group.create_task(pass_through(f"urgent {number}", is_urgent=True))
    assert served == [*(f"urgent {number}" for number in range(3)), *(f"other {number}" for number in range(3))]
    await bucket.acquire(1)
    assert loop.time() - begun >= 0.15  # 26 were paid before, and a tenth of a second is made up for


async def test_requests_per_second_are_kept(connect: Connect) -> None:
    async with fake_registry() as registry:
        registry.load("team/app", IMAGE, "v1")
        client = connect(registry, limits={"requests_per_second": 20})
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(*(client.head_manifest("team/app", V1) for _ in range(12)))
        assert loop.time() - begun >= 0.4


async def test_processes_can_tell_each_other(clock: SettableClock) -> None:
    here, there = opened(clock=clock), opened(clock=clock)
    refuse(here)
    here.pause(30)
    state = here.state
    assert state == WindowState(8.0, clock.now(), state.paused_until)
    there.adopt(state)
    assert there.size == 8
    assert 29 < there.pause_seconds <= 30
    clock.advance(5)
    refuse(there)
    here.adopt(there.state)
    assert here.size == 4
    there.adopt(state)  # old news
    assert there.size == 4
    here.close()
    there.close()


async def test_a_pool_tells_and_takes_states_by_entry_name(pool: ClientPool) -> None:
    entry = RegistryEntry(name="hub", host="registry.example.com", insecure=True)
    client = pool.clients((entry,)).for_repository(Repository(Registry("registry.example.com"), "a"))
    assert client.executor.window.size > 2
    pool.adopt_window_states({"hub": WindowState(2.0, START), "unknown": WindowState(1.0, START)})
    assert client.executor.window.size == 2
    assert pool.window_states()["hub"].window == 2.0


async def _hold(registries: list[ConcurrencyWindow], until: asyncio.Event | None) -> None:
    async with TransferPermits(registries):
        if until is not None:
            await until.wait()
        await asyncio.sleep(0)
