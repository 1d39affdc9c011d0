"""What a process remembers of blobs: fresh facts, places to mount from, who is sending."""

import asyncio

import pytest

from app.domain.manifest import digest_of
from app.domain.reference import Repository
from app.sync.known_blobs import (
    ABSENCES_BEFORE_TRYING,
    CONFIRMED_SECONDS,
    DECLINED_MOUNTS,
    FRESH_SECONDS,
    MAX_BLOBS,
    MAX_FOUND_BY_MOUNT,
    MAX_NEWS,
    MAX_PLACES,
    MOUNTS_SECONDS,
    KnownBlobs,
)

APP, OTHER, FAR = (Repository.parse(text) for text in ("a.io/app", "a.io/other", "b.io/app"))
BLOB = digest_of(b"blob")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> KnownBlobs:
    return KnownBlobs(clock=clock)


def test_what_was_seen_counts_as_there_until_it_may_have_been_collected(known: KnownBlobs, clock: Clock) -> None:
    known.add(APP, BLOB)
    assert known.is_present(APP, BLOB)
    assert not known.is_present(OTHER, BLOB)
    assert not known.is_present(FAR, BLOB)
    clock.now = FRESH_SECONDS
    assert not known.is_present(APP, BLOB)
    assert known.mount_candidates(OTHER, BLOB) == ("app",)


def test_what_earlier_jobs_saw_is_a_place_to_mount_from_and_no_more(known: KnownBlobs) -> None:
    known.seed([(APP, BLOB)])
    assert not known.is_present(APP, BLOB)
    assert known.mount_candidates(OTHER, BLOB) == ("app",)
    assert known.mount_candidates(FAR, BLOB) == ()
    known.add(APP, BLOB)
    known.seed([(APP, BLOB)])
    assert known.is_present(APP, BLOB)


def test_the_latest_place_is_tried_first_and_old_ones_fall_out(known: KnownBlobs) -> None:
    for number in range(MAX_PLACES + 2):
        known.add(Repository.parse(f"a.io/r{number}"), BLOB)
    places = known.mount_candidates(APP, BLOB)
    assert len(places) == MAX_PLACES
    assert places[0] == f"r{MAX_PLACES + 1}"


def test_what_is_forgotten_is_not_there_any_more(known: KnownBlobs) -> None:
    known.add(APP, BLOB)
    known.forget(APP, BLOB)
    known.forget(OTHER, BLOB)
    assert not known.is_present(APP, BLOB)
    assert known.mount_candidates(OTHER, BLOB) == ()
    assert known.take_news() == ()


def test_a_repository_is_forgotten_whole_and_no_other(known: KnownBlobs) -> None:
    for repository in (APP, OTHER, FAR):
        known.add(repository, BLOB)
    known.forget_repository(APP)
    assert not known.is_present(APP, BLOB)
    assert known.is_present(OTHER, BLOB)
    assert known.is_present(FAR, BLOB)
    assert (APP, BLOB) not in known.take_news()
    assert "app" in known.mount_candidates(OTHER, BLOB)  # what is still there is not sent once more


def test_news_are_handed_out_once_and_bounded(known: KnownBlobs) -> None:
    known.add(APP, BLOB)
    known.add(APP, BLOB)
    assert known.take_news() == ((APP, BLOB),)
    assert known.take_news() == ()
    for number in range(MAX_NEWS + 1):
        known.add(APP, digest_of(str(number).encode()))
    assert len(known.take_news()) == MAX_NEWS


def test_memory_is_bounded(known: KnownBlobs) -> None:
    first = digest_of(b"first")
    known.add(APP, first)
    for number in range(MAX_BLOBS):
        known.add(APP, digest_of(str(number).encode()))
    assert not known.is_present(APP, first)
    assert known.is_present(APP, digest_of(b"0"))


def test_a_registry_that_declines_in_a_row_is_not_asked_to_mount(known: KnownBlobs) -> None:
    known.add(APP, BLOB)
    for _ in range(DECLINED_MOUNTS - 1):
        known.mount_answered(APP.registry, mounted=False)
    known.mount_answered(APP.registry, mounted=True)
    for _ in range(DECLINED_MOUNTS):
        assert known.mount_candidates(OTHER, BLOB) == ("app",)
        known.mount_answered(APP.registry, mounted=False)
    assert known.mount_candidates(OTHER, BLOB) == ()


async def test_only_one_sends_a_blob_to_a_registry(known: KnownBlobs) -> None:
    order: list[str] = []

    async def send(name: str, *places: Repository) -> None:
        async with known.sending(places, BLOB):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(send("1", APP), send("2", OTHER), send("3", APP, FAR))
    begun = [line for line in order if line.endswith("begins")]
    assert order == [
        line for name in (line.split()[0] for line in begun) for line in (f"{name} begins", f"{name} ends")
    ]
    assert len(begun) == 3


async def test_who_waits_for_one_place_holds_no_other(known: KnownBlobs) -> None:
    free = asyncio.Event()
    held = asyncio.Event()

    async def hold() -> None:
        async with known.sending([APP], BLOB):
            held.set()
            await free.wait()

    async def wait_for_both() -> None:
        async with known.sending([APP, FAR], BLOB):
            pass

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        await held.wait()
        waiting = group.create_task(wait_for_both())
        await asyncio.sleep(0)
        async with asyncio.timeout(60), known.sending([FAR], BLOB):
            assert not waiting.done()
        free.set()


async def test_where_nothing_is_mounted_repositories_do_not_wait_for_each_other(known: KnownBlobs) -> None:
    for _ in range(DECLINED_MOUNTS):
        known.mount_answered(APP.registry, mounted=False)
    async with asyncio.timeout(60), known.sending([APP], BLOB), known.sending([OTHER], BLOB):
        pass


async def test_the_next_one_goes_on_when_the_first_breaks_off(known: KnownBlobs) -> None:
    with pytest.raises(ZeroDivisionError):
        async with known.sending([APP], BLOB):
            raise ZeroDivisionError
    async with asyncio.timeout(60), known.sending([APP], BLOB):
        pass


def test_what_is_known_of_a_repository_is_confirmed_by_whatever_is_seen_there(known: KnownBlobs, clock: Clock) -> None:
    assert not known.is_confirmed(APP)
    known.add(APP, BLOB)
    assert known.is_confirmed(APP)
    assert not known.is_confirmed(OTHER)
    clock.now = CONFIRMED_SECONDS
    assert known.is_present(APP, BLOB)
    assert not known.is_confirmed(APP)


def test_how_a_registry_answers_a_mount_is_not_known_before_it_was_tried(known: KnownBlobs) -> None:
    for _ in range(ABSENCES_BEFORE_TRYING):
        assert not known.is_mount_to_be_tried(APP.registry)
        known.note_absence(APP.registry)
    assert known.is_mount_to_be_tried(APP.registry)
    assert known.answers_by_mount(APP.registry) is None
    known.note_answers_by_mount(APP.registry, does=True)
    assert known.answers_by_mount(APP.registry) is True
    assert not known.is_mount_to_be_tried(APP.registry)
    assert known.answers_by_mount(FAR.registry) is None


@pytest.mark.parametrize("does", [True, False])
def test_how_a_registry_answers_a_mount_is_found_out_again_after_an_hour(
    known: KnownBlobs, clock: Clock, *, does: bool
) -> None:
    for _ in range(ABSENCES_BEFORE_TRYING):
        known.note_absence(APP.registry)
    known.note_mount_tried(APP.registry)
    assert not known.is_mount_to_be_tried(APP.registry)
    known.note_answers_by_mount(APP.registry, does=does)
    for _ in range(ABSENCES_BEFORE_TRYING):
        known.note_absence(APP.registry)
    clock.now = MOUNTS_SECONDS - 1
    assert known.answers_by_mount(APP.registry) is does
    clock.now = MOUNTS_SECONDS
    assert known.answers_by_mount(APP.registry) is None
    assert not known.is_mount_to_be_tried(APP.registry)  # what was not there before says nothing of now
    for _ in range(ABSENCES_BEFORE_TRYING):
        known.note_absence(APP.registry)
    assert known.is_mount_to_be_tried(APP.registry)


def test_a_mount_is_doubted_for_a_blob_it_found_lately_in_that_repository(known: KnownBlobs, clock: Clock) -> None:
    known.note_answers_by_mount(APP.registry, does=True)
    known.note_found_by_mount(APP, BLOB)
    assert not known.doubt_mounts(APP, [])
    assert not known.doubt_mounts(OTHER, [BLOB])
    assert known.answers_by_mount(APP.registry) is True
    assert known.doubt_mounts(APP, [digest_of(b"sent"), BLOB])
    assert known.answers_by_mount(APP.registry) is False
    assert not known.doubt_mounts(APP, [BLOB])  # another image has
    clock.now = FRESH_SECONDS
    known.note_answers_by_mount(APP.registry, does=True)
    assert not known.doubt_mounts(APP, [BLOB])  # what a mount found so long ago may have been collected
    assert known.answers_by_mount(APP.registry) is True


def test_what_mounts_found_is_forgotten_in_the_end(known: KnownBlobs) -> None:
    known.note_answers_by_mount(APP.registry, does=True)
    known.note_found_by_mount(APP, BLOB)
    for number in range(MAX_FOUND_BY_MOUNT):
        known.note_found_by_mount(APP, digest_of(str(number).encode()))
    assert not known.doubt_mounts(APP, [BLOB])
