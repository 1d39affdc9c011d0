"""Lists stay fast however much there is: pages are read along an index, nothing is sorted, nothing scanned whole."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from app.domain.job import ImageFilter, ImageState, JobFilter, JobState
from app.domain.page import PageRequest
from app.store.db.database import Database, Session
from app.store.hook_events import HookEventStore
from app.store.images import ImageStore
from app.store.jobs import JobStore
from app.store.units import UnitStore
from tests.support.clock import START

FIRST_JOB = "00000000-0000-0000-0000-000000000001"
FILTERS = [
    JobFilter(),
    JobFilter((JobState.QUEUED,)),
    JobFilter((JobState.SUCCEEDED,)),
    JobFilter(policy="p7"),
    JobFilter(labels=(("team", "7"),)),
    JobFilter(since=START),
    JobFilter(labels=(("team", "7"),), since=START),
    JobFilter(created_by="tester"),
    JobFilter(trigger="api", until=START),
    JobFilter(source="a.example.com/x", destination="b.example.com"),
    JobFilter(q="example.com"),
]
IMAGE_FILTERS = [
    ImageFilter(),
    ImageFilter((ImageState.COPIED,)),
    ImageFilter((ImageState.FAILED,)),
    ImageFilter(q="x:v"),
]
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)"
FILL_JOBS = """
INSERT INTO jobs (number, id, state, priority, request, labels, created_by, trigger_type, policy, cancel_requested,
    is_failing_fast, planned, warnings, created_at, finished_at, version, state_version, units_left, images_queued,
    images_running, images_copied, images_up_to_date, images_failed, images_cancelled, bytes_per_second, rate_bytes)
<numbers> SELECT n, <id>, CASE WHEN n % 2 = 0 THEN 'queued' ELSE 'succeeded' END, 'normal',
    '{"rules": [{"source": "a.example.com/x:v1", "destination": ["b.example.com/x"]}]}', '{}', 'tester', 'api',
    CASE WHEN n % 100 = 7 THEN 'p7' END, false, false, true, '[]', <at>, CASE WHEN n % 2 = 1 THEN <at> END,
    1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM numbers
"""
FILL_LABELS = "INSERT INTO job_labels SELECT number, 'team', CAST(number % 500 AS VARCHAR), created_at FROM jobs"
FILL_IMAGES = """
INSERT INTO images (job_number, position, copy_number, source, destination, state, attempts, revision)
<numbers> SELECT 1, n - 1, n - 1, 'a.example.com/x:v' || n, 'b.example.com/x:v' || n,
    CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'copied' END, 1, n FROM numbers
"""
FILL_UNITS = """
INSERT INTO units (job_number, unit_index, kind, first_image, last_image, state, priority, fence, claims, failures,
    updated_at)
SELECT number, 0, 'plan', 0, -1, CASE WHEN number % 1000 = 0 THEN 'queued' ELSE 'done' END, 1, 1, 1, 0, created_at
FROM jobs
"""
FILL_EVENTS = """
INSERT INTO hook_events (number, id, registry_name, format, received_at, state, jobs)
<numbers> SELECT n, <id>, 'old', 'generic', <at>, CASE WHEN n % 1000 = 0 THEN 'received' ELSE 'accepted' END, '[]'
FROM numbers
"""
SQLITE_WORDS = {
    "<id>": "'000000000000000000000000' || printf('%08d', n)",
    "<at>": "datetime('2030-01-01', '+' || n || ' seconds') || '.000000'",
}
POSTGRESQL_WORDS = {
    "<id>": "('00000000-0000-0000-0000-0000' || lpad(n::text, 8, '0'))::uuid",
    "<at>": "timestamptz '2030-01-01 00:00:00Z' + n * interval '1 second'",
}
Read = Callable[[Session], Coroutine[Any, Any, object]]


@pytest.fixture
async def full(database: Database) -> Database:
    """Return a database with many jobs, and one of many images."""
    async with database.transaction() as session:
        connection = await session.connection()
        words = {"<numbers>": NUMBERS, **(SQLITE_WORDS if database.is_sqlite else POSTGRESQL_WORDS)}
        for statement in (FILL_JOBS, FILL_LABELS, FILL_IMAGES, FILL_UNITS, FILL_EVENTS):
            for word, meaning in words.items():
                statement = statement.replace(word, meaning)  # noqa: PLW2901 — each replaces in what the one before made
            await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql("ANALYZE")
    return database


async def plan_of(database: Database, read: Read) -> str:
    """Run something that reads, and say how the database did the last statement of it."""
    async with database.reading() as session:
        seen: list[tuple[str, Any]] = []
        connection = await session.connection()

        def note(_c: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: Any) -> None:
            seen.append((statement, parameters))

        event.listen(connection.sync_connection, "before_cursor_execute", note)
        await read(session)
        event.remove(connection.sync_connection, "before_cursor_execute", note)
        statement, parameters = seen[-1]
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


def jobs_on(page: PageRequest, wanted: JobFilter) -> Read:
    return lambda session: JobStore(session).list(wanted, page)


def images_on(page: PageRequest, wanted: ImageFilter) -> Read:
    return lambda session: ImageStore(session).list(FIRST_JOB, wanted, page)


def statement(sql: str) -> Read:
    return lambda session: session.execute(text(sql))


def is_read_along_an_index(plan: str) -> bool:
    lines = plan.splitlines()
    scans = [line for line in lines if line.startswith("SCAN") and not {"USING", "VIRTUAL"} & set(line.split())]
    return not scans and not any("Seq Scan" in line or "Sort" in line or "TEMP B-TREE" in line for line in lines)


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
async def test_a_page_of_jobs_is_read_along_an_index(full: Database, wanted: JobFilter) -> None:
    async with full.reading() as session:
        page = await JobStore(session).list(wanted, PageRequest(5))
    for request in (PageRequest(5), PageRequest(5, page.next_cursor)):
        plan = await plan_of(full, jobs_on(request, wanted))
        assert is_read_along_an_index(plan), plan


@pytest.mark.parametrize("wanted", IMAGE_FILTERS, ids=str)
async def test_a_page_of_images_is_read_along_an_index(full: Database, wanted: ImageFilter) -> None:
    async with full.reading() as session:
        page = await ImageStore(session).list(FIRST_JOB, wanted, PageRequest(5))
    assert len(page.items) == 5
    for request in (PageRequest(5), PageRequest(5, page.next_cursor)):
        plan = await plan_of(full, images_on(request, wanted))
        assert is_read_along_an_index(plan), plan


async def test_of_several_states_no_more_is_sorted_than_a_page_of_each(full: Database) -> None:
    jobs = await plan_of(full, jobs_on(PageRequest(5), JobFilter((JobState.QUEUED, JobState.FAILED))))
    images = await plan_of(full, images_on(PageRequest(5), ImageFilter((ImageState.COPIED, ImageState.FAILED))))
    for plan, index in ((jobs, "ix_jobs_state_created"), (images, "ix_images_job_number_state")):
        assert index in plan, plan
        assert "Seq Scan" not in plan, plan


async def test_what_changed_since_is_read_along_an_index(full: Database) -> None:
    plan = await plan_of(full, lambda session: ImageStore(session).list_changed(FIRST_JOB, after=19_000, limit=100))
    assert is_read_along_an_index(plan), plan


async def test_what_is_old_is_found_along_an_index(full: Database) -> None:
    before = START - timedelta(days=1, hours=2, minutes=50)
    plan = await plan_of(full, lambda session: JobStore(session).list_done_before(before, limit=50))
    assert is_read_along_an_index(plan), plan


async def test_what_is_unfinished_is_found_without_reading_what_is_done(full: Database) -> None:
    plan = await plan_of(full, lambda session: UnitStore(session).list_unfinished(now=START))
    assert "ix_units_unfinished" in plan, plan


async def test_what_a_caller_has_waiting_and_what_is_at_work_are_read_along_small_indexes(full: Database) -> None:
    plan = await plan_of(full, lambda session: UnitStore(session).count_jobs("nurse", most=100))
    assert "ix_jobs_unfinished_by_caller" in plan, plan
    plan = await plan_of(full, lambda session: UnitStore(session).read_in_service(least=1, most=100))
    assert "ix_units_running" in plan, plan


async def test_a_push_event_that_waits_is_found_without_reading_those_that_do_not(full: Database) -> None:
    plan = await plan_of(full, lambda session: HookEventStore(session).has_received(without=()))
    assert "ix_hook_events_received" in plan, plan


async def test_a_plan_that_scans_or_sorts_would_be_noticed(full: Database) -> None:
    for bad in ("SELECT * FROM jobs ORDER BY finished_at", "SELECT * FROM jobs WHERE retry_of IS NOT NULL"):
        plan = await plan_of(full, statement(bad))
        assert not is_read_along_an_index(plan), plan
