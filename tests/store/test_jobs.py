"""Jobs in the database: filters, pages that neither skip nor repeat, and indexes that keep them fast."""

from datetime import timedelta
from itertools import product

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.domain.errors import InvalidRequestError, NotFoundError
from app.domain.job import ImageState, Job, JobFilter, JobState, Trigger
from app.domain.manifest import Platform
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.request import Rule, SyncRequest
from app.store.database import Database
from app.store.images import ImageStore, PlannedImage
from app.store.jobs import JobStore
from app.store.paging import Page, PageRequest, cursor_after
from tests.support.clock import START

REQUEST = SyncRequest(rules=(Rule(source="src.example.com/app:v1", destination=("dst.example.com/app",)),))
FILTERS = [
    JobFilter(),
    JobFilter(state=JobState.QUEUED),
    JobFilter(policy="nightly"),
    JobFilter(label=("team", "a")),
    JobFilter(since=START + timedelta(seconds=20)),
    JobFilter(label=("team", "b"), state=JobState.QUEUED, since=START + timedelta(seconds=3)),
]


def a_job(number: int = 0) -> Job:
    return Job(
        id=str(uuid_utils.uuid7()),
        state=JobState.QUEUED,
        request=REQUEST,
        created_at=START + timedelta(seconds=number // 2),  # two at a time, so that order needs more than the time
        created_by="tester",
        trigger=Trigger("schedule", "event-7"),
        policy="nightly" if number % 3 == 0 else None,
        labels={"team": "ab"[number % 2], "n": str(number)},
    )


@pytest.fixture
async def jobs(database: Database) -> list[Job]:
    """Return fifty jobs in the database, oldest first; a few of them are cancelled."""
    added = [a_job(number) for number in range(50)]
    async with database.transaction() as session:
        for job in added:
            await JobStore(session).add(job)
        await session.execute(
            text("UPDATE jobs SET state = 'cancelled', finished_at = created_at WHERE number % 10 = 0")
        )
    return added


async def read_all(database: Database, wanted: JobFilter, *, limit: int) -> list[Job]:
    found: list[Job] = []
    page: Page[Job] | None = None
    while page is None or page.next_cursor:
        async with database.reading() as session:
            page = await JobStore(session).list(wanted, PageRequest(limit, page.next_cursor if page else None))
        assert len(page.items) <= limit
        found += page.items
    return found


async def test_a_job_comes_back_as_it_was_added(database: Database) -> None:
    job = a_job()
    async with database.transaction() as session:
        await JobStore(session).add(job)
        assert await JobStore(session).get(job.id) == job


async def test_what_is_no_id_names_no_job(database: Database) -> None:
    async with database.reading() as session:
        for text_ in ("", "x", "0" * 36, "' OR 1=1", str(uuid_utils.uuid7()).upper()):
            assert await JobStore(session).find(text_) is None
            with pytest.raises(NotFoundError):
                await JobStore(session).hold(text_)


@pytest.mark.parametrize(("wanted", "limit"), list(product(FILTERS, (1, 7, 200))))
async def test_pages_hold_each_matching_job_once_newest_first(
    database: Database, jobs: list[Job], wanted: JobFilter, limit: int
) -> None:
    found = await read_all(database, wanted, limit=limit)
    expected = [
        job
        for number, job in reversed(list(enumerate(jobs)))
        if (wanted.state is None or (wanted.state is JobState.QUEUED) == ((number + 1) % 10 != 0))
        and (wanted.policy is None or job.policy == wanted.policy)
        and (wanted.label is None or job.labels.get(wanted.label[0]) == wanted.label[1])
        and (wanted.since is None or job.created_at >= wanted.since)
    ]
    assert [job.id for job in found] == [job.id for job in expected]


async def test_a_job_that_comes_while_pages_are_read_moves_nothing(database: Database, jobs: list[Job]) -> None:
    async with database.reading() as session:
        first = await JobStore(session).list(JobFilter(), PageRequest(10))
    async with database.transaction() as session:
        await JobStore(session).add(a_job(99))
    async with database.reading() as session:
        second = await JobStore(session).list(JobFilter(), PageRequest(10, first.next_cursor))
    assert [job.id for job in (*first.items, *second.items)] == [job.id for job in jobs[:-21:-1]]


async def test_a_cursor_of_another_list_is_refused(database: Database, jobs: list[Job]) -> None:
    async with database.reading() as session:
        page = await JobStore(session).list(JobFilter(), PageRequest(10))
        for wanted in FILTERS[1:]:
            with pytest.raises(InvalidRequestError) as refused:
                await JobStore(session).list(wanted, PageRequest(10, page.next_cursor))
            assert refused.value.code == "invalid_cursor"


@given(st.text(max_size=80))
def test_anything_else_is_no_cursor(garbage: str) -> None:
    with pytest.raises(InvalidRequestError):
        PageRequest(10, garbage).after("jobs")


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4).map(tuple), st.text())
def test_a_cursor_leads_back_to_its_key(key: tuple[int | str, ...], bound_to: str) -> None:
    assert PageRequest(10, cursor_after(key, bound_to=bound_to)).after(bound_to) == key


async def test_images_are_paged_in_order_and_by_state(database: Database) -> None:
    job = a_job()
    async with database.transaction() as session:
        number = await JobStore(session).add(job)
        await ImageStore(session).put_planned(number, planned(25), revision=1)
        await session.execute(text("UPDATE images SET state = 'failed' WHERE position % 5 = 0"))
        for state, expected in ((None, range(25)), (ImageState.FAILED, range(0, 25, 5))):
            found, cursor = [], None
            while True:
                page = await ImageStore(session).list(job.id, state=state, page=PageRequest(4, cursor))
                found += [image.destination for image in page.items]
                if (cursor := page.next_cursor) is None:
                    break
            assert found == [f"dst.example.com/app:v{number}" for number in expected]


def planned(count: int) -> list[PlannedImage]:
    copies = [
        PlannedCopy(Reference.parse(f"src.example.com/app:v{n}"), (Reference.parse(f"dst.example.com/app:v{n}"),))
        for n in range(count)
    ]
    return [PlannedImage(n, n, copy, copy.destinations[0]) for n, copy in enumerate(copies)]


async def test_an_image_is_copied_as_it_was_planned(database: Database) -> None:
    source, destination = Reference.parse("src.example.com/app:v1"), (Reference.parse("dst.example.com/app:v1"),)
    copies = [
        PlannedCopy(source, destination),
        PlannedCopy(source, destination, (Platform.parse("linux/amd64"),), "rewrite"),
        PlannedCopy(source, destination, digest_tags="apart"),
        PlannedCopy(source, destination, (Platform.parse("linux/arm64"),), "sparse", "present"),
    ]
    job = a_job()
    async with database.transaction() as session:
        number = await JobStore(session).add(job)
        images = [PlannedImage(n, n, copy, copy.destinations[0]) for n, copy in enumerate(copies)]
        await ImageStore(session).put_planned(number, images, revision=1)
        stored = await ImageStore(session).list_unfinished(job, number, first=0, last=len(copies) - 1)
    assert [image.copy for image in stored] == copies


async def test_an_old_job_is_found_for_removal_and_a_young_one_is_not(database: Database, jobs: list[Job]) -> None:
    async with database.reading() as session:
        found = await JobStore(session).list_done_before(START + timedelta(seconds=15), limit=10)
    assert sorted(found) == [jobs[9].id, jobs[19].id, jobs[29].id]
