"""Jobs in the database: filters, pages that neither skip nor repeat, and indexes that keep them fast."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.domain.errors import InvalidRequestError, NotFoundError
from app.domain.job import ImageFilter, ImageState, Job, JobFilter, JobState, Trigger
from app.domain.manifest import Platform
from app.domain.page import Page, PageRequest, cursor_after
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.report import ExecutionError
from app.domain.request import Rule, SyncRequest
from app.store.db.database import Database
from app.store.images import ImageStore, PlannedImage
from app.store.jobs import JobStore
from tests.support.clock import START

REQUEST = SyncRequest(rules=(Rule(source="src.example.com/app:v1", destination=("dst.example.com/app",)),))
TWO_RULES = SyncRequest(
    rules=(
        Rule(source="src.example.com/lib:v2", destination=("dst.example.com/lib",)),
        Rule(source="src.example.com/x:v3", destination=("dst.example.com/x", "other.example.com/x")),
    )
)
FILTERS = [
    JobFilter(),
    JobFilter((JobState.QUEUED,)),
    JobFilter((JobState.CANCELLED, JobState.QUEUED, JobState.CANCELLED)),
    JobFilter((JobState.FAILED, JobState.CANCELLED), policy="nightly"),
    JobFilter(policy="nightly"),
    JobFilter(labels=(("team", "a"),)),
    JobFilter(labels=(("team", "a"), ("n", "2"))),
    JobFilter(labels=(("team", "a"), ("n", "3"))),
    JobFilter(since=START + timedelta(seconds=20)),
    JobFilter(since=START + timedelta(seconds=5), until=START + timedelta(seconds=20)),
    JobFilter((JobState.QUEUED,), labels=(("team", "b"),), since=START + timedelta(seconds=3)),
    JobFilter(created_by="tester-1"),
    JobFilter((JobState.QUEUED, JobState.CANCELLED), trigger="push"),
    JobFilter(source="SRC.example.com/app:v1"),
    JobFilter(source="example.com"),
    JobFilter(source="src.example.com/app_v1"),
    JobFilter(destination="dst.example.com/a"),
    JobFilter(destination="other.example.com"),
    JobFilter(destination="src.example.com"),
    JobFilter(q="PP:V1"),
    JobFilter(q="other.ex"),
    JobFilter(q="100%"),
    JobFilter(q="ster-1"),
    JobFilter(q="nightl"),
    JobFilter(q="overwrite"),
]


def a_job(number: int = 0) -> Job:
    return Job(
        id=str(uuid_utils.uuid7()),
        state=JobState.QUEUED,
        request=TWO_RULES if number % 7 == 0 else REQUEST,
        created_at=START + timedelta(seconds=number // 2),  # two at a time, so that order needs more than the time
        created_by=f"tester-{number % 2}",
        trigger=Trigger("schedule" if number % 2 else "push", "event-7"),
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
                await JobStore(session).lock(text_)


def is_wanted(job: Job, wanted: JobFilter, *, state: JobState) -> bool:
    """Say of a job what the database should: a filter that was left out wants everything."""
    sources = [rule.source for rule in job.request.rules]
    destinations = [place for rule in job.request.rules for place in rule.destination]
    texts = [job.policy or "", job.created_by, *job.labels.values(), *sources, *destinations]
    return all(
        (
            not wanted.states or state in wanted.states,
            wanted.policy in {None, job.policy},
            wanted.created_by in {None, job.created_by},
            wanted.trigger in {None, job.trigger.type},
            all(job.labels.get(key) == value for key, value in wanted.labels),
            wanted.since is None or job.created_at >= wanted.since,
            wanted.until is None or job.created_at < wanted.until,
            any(text.startswith((wanted.source or "").lower()) for text in sources),
            any(text.startswith((wanted.destination or "").lower()) for text in destinations),
            any((wanted.q or "").lower() in text for text in texts),
        )
    )


async def test_a_job_is_found_by_its_id_whole_or_in_part_and_by_its_error(database: Database, jobs: list[Job]) -> None:
    error = ExecutionError("denied", "no right to push there", side="destination")
    async with database.transaction() as session:
        locked = await JobStore(session).lock(jobs[7].id)
        await JobStore(session).save(replace(locked, error=error))
    for text_ in (jobs[7].id, jobs[7].id[-13:], "right to PUSH", "denie"):
        assert [job.id for job in await read_all(database, JobFilter(q=text_), limit=9)] == [jobs[7].id]


@pytest.mark.parametrize(("wanted", "limit"), list(product(FILTERS, (1, 7, 200))))
async def test_pages_hold_each_matching_job_once_newest_first(
    database: Database, jobs: list[Job], wanted: JobFilter, limit: int
) -> None:
    found = await read_all(database, wanted, limit=limit)
    expected = [
        job
        for number, job in reversed(list(enumerate(jobs)))
        if is_wanted(job, wanted, state=JobState.QUEUED if (number + 1) % 10 else JobState.CANCELLED)
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


TEXT = st.characters(exclude_categories=["Cs"], exclude_characters=["\0"])
"""What a text column takes, in PostgreSQL too."""


@given(st.text(max_size=80))
def test_anything_else_is_no_cursor(garbage: str) -> None:
    with pytest.raises(InvalidRequestError):
        PageRequest(10, garbage).after("jobs")


@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(TEXT)), max_size=4).map(tuple), st.text())
def test_a_cursor_leads_back_to_its_key(key: tuple[int | str, ...], bound_to: str) -> None:
    assert PageRequest(10, cursor_after(key, bound_to=bound_to)).after(bound_to) == key


async def test_images_are_paged_in_order_and_by_state(database: Database) -> None:
    job = a_job()
    async with database.transaction() as session:
        number = await JobStore(session).add(job)
        await ImageStore(session).add(number, planned(25), revision=1, now=START)
        await session.execute(text("UPDATE images SET state = 'failed' WHERE position % 5 = 0"))
        queued, failed = ImageState.QUEUED, ImageState.FAILED
        for wanted, expected in (
            (ImageFilter(), range(25)),
            (ImageFilter((failed,)), range(0, 25, 5)),
            (ImageFilter((failed, queued)), range(25)),
            (ImageFilter((failed, ImageState.COPIED)), range(0, 25, 5)),
            (ImageFilter(q="APP:v1"), (1, *range(10, 20))),
            (ImageFilter((failed, queued), "dst.example.com/app:v1"), (1, *range(10, 20))),
            (ImageFilter((failed,), "app:v1"), (10, 15)),
            (ImageFilter(q="_"), ()),
        ):
            found, cursor = [], None
            while True:
                page = await ImageStore(session).list(job.id, wanted, PageRequest(4, cursor))
                found += [image.destination for image in page.items]
                if (cursor := page.next_cursor) is None:
                    break
            assert found == [f"dst.example.com/app:v{number}" for number in expected]


def planned(count: int) -> list[PlannedImage]:
    copies = [
        PlannedCopy(Reference.parse(f"src.example.com/app:v{n}"), (Reference.parse(f"dst.example.com/app:v{n}"),))
        for n in range(count)
    ]
    return [row_of(n, copy) for n, copy in enumerate(copies)]


def row_of(number: int, copy: PlannedCopy) -> PlannedImage:
    return PlannedImage.of_copy(copy, copy.destinations[0], position=number, copy_number=number)


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
        images = [row_of(n, copy) for n, copy in enumerate(copies)]
        await ImageStore(session).add(number, images, revision=1, now=START)
        stored = await ImageStore(session).list_unfinished(job, number, first=0, last=len(copies) - 1)
    assert [image.copy for image in stored] == copies


async def test_an_old_job_is_found_for_removal_and_a_young_one_is_not(database: Database, jobs: list[Job]) -> None:
    async with database.reading() as session:
        found = await JobStore(session).list_done_before(START + timedelta(seconds=15), limit=10)
    assert sorted(found) == [jobs[9].id, jobs[19].id, jobs[29].id]
