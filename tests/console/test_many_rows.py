"""A hundred thousand jobs, and one of as many images: a page has as many rows as ever, and asks as little."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.console.job_pages import IMAGES_ON_A_PAGE, JOBS_ON_A_PAGE
from tests.console.browsing import needs_chromium, open_page
from tests.console.conftest import visiting
from tests.support.service import ServiceProcess

pytestmark = needs_chromium
MANY = 100_000
AS_PATH = "00000000-0000-0000-0000-" + f"{MANY:012}"
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)"
JOBS = """
INSERT INTO jobs (number, id, state, priority, request, labels, created_by, trigger_type, cancel_requested,
    is_failing_fast, planned, warnings, created_at, started_at, finished_at, version, state_version, units_left,
    images_queued, images_running, images_copied, images_up_to_date, images_failed, images_cancelled, bytes_per_second,
    rate_bytes)
<numbers> SELECT n, '000000000000000000000000' || printf('%08d', n),
    CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'succeeded' END, 'normal',
    '{"rules": [{"source": "a.example.com/x:v1", "destination": ["b.example.com/x"]}]}', '{}', 'tester', 'api',
    false, false, true, '[]', <at>, <at>, <at>, 1, 1, 0, 0, 0, CASE WHEN n = 100000 THEN 99900 ELSE 1 END, 0,
    CASE WHEN n = 100000 THEN 100 ELSE 0 END, 0, 0, 0 FROM numbers
"""
IMAGES = """
INSERT INTO images (job_number, position, copy_number, source, destination, state, attempts, revision, error)
<numbers> SELECT 100000, n - 1, n - 1, 'a.example.com/x:v' || n, 'b.example.com/x:v' || n,
    CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'copied' END, 1, n,
    CASE WHEN n % 1000 = 0 THEN '{"code": "denied", "message": "no right"}' END FROM numbers
"""
AT = "datetime('2026-01-01', '+' || n || ' seconds') || '.000000'"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("many")
    with ServiceProcess(folder, "--no-worker") as service:
        database = sqlite3.connect(folder / "registry-sync.db", timeout=30)
        for statement in (JOBS, IMAGES):
            database.execute(statement.replace("<numbers>", NUMBERS).replace("<at>", AT))
        database.commit()
        database.close()
        yield service


@pytest.fixture
def page(browser: Browser, full: ServiceProcess) -> Iterator[Page]:
    with visiting(browser, full) as page:
        yield page


@pytest.fixture
def asked(page: Page) -> list[str]:
    """Keep what the page asks for, beside its static files."""
    found: list[str] = []
    page.on("request", lambda request: None if "/static/" in request.url else found.append(request.url))
    return found


def test_of_a_hundred_thousand_images_a_page_has_a_hundred(page: Page, asked: list[str]) -> None:
    open_page(page, f"/jobs/{AS_PATH}")
    rows = page.locator("main tbody tr")
    expect(rows).to_have_count(IMAGES_ON_A_PAGE)
    first = rows.first.inner_text()
    page.get_by_role("link", name="Next page").click()
    expect(rows.first).not_to_have_text(first)
    expect(rows).to_have_count(IMAGES_ON_A_PAGE)
    assert len(asked) == 2, asked
    page.get_by_role("link", name="failed", exact=True).click()
    expect(page).to_have_url(re.compile("state=failed"))
    expect(rows).to_have_count(MANY // 1_000)
    page.get_by_label("Find images").fill("x:v99000")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("a.example.com/x:v99000")
    assert len(asked) == 4, asked


def test_of_a_hundred_thousand_jobs_a_page_has_fifty(page: Page, asked: list[str]) -> None:
    open_page(page, "/jobs")
    rows = page.locator("main tbody tr")
    expect(rows).to_have_count(JOBS_ON_A_PAGE)
    first = rows.first.inner_text()
    page.get_by_role("link", name="Next page").click()
    expect(rows.first).not_to_have_text(first)
    expect(rows).to_have_count(JOBS_ON_A_PAGE)
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("state=failed"))
    expect(rows).to_have_count(JOBS_ON_A_PAGE)
    assert len(asked) == 3, asked


def test_the_overview_shows_a_few_of_them(page: Page) -> None:
    open_page(page, "/")
    assert page.locator("main tbody tr").count() <= 60
    assert len(page.content()) < 200_000
    page.get_by_role("link", name="All that failed").click()
    expect(page).to_have_url(re.compile("state=failed"))
