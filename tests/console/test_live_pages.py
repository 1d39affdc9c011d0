"""Live pages leave people alone: what they opened, focused or scrolled stays while numbers change, whatever happens."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Namespace
from tests.console.browsing import needs_chromium, open_page
from tests.support.images import blob, oci_image
from tests.support.service import ServiceProcess

pytestmark = needs_chromium
RATE = 200_000


def submit_slow(service: ServiceProcess, source: Namespace, destination: Namespace) -> dict[str, Any]:
    """Submit a job of some 15 seconds, and wait until its bar moves."""
    source.push("slow", oci_image("slow", layers=(blob("slow", size=16 * RATE),)), "1")
    request = {"source": source.reference("slow"), "destination": destination.reference("slow")}
    job = service.submit({**request, "options": {"max_bytes_per_second": RATE}})
    return service.follow_until(job["id"], lambda job: job["progress"]["bytes"]["done"] > 0)


@pytest.fixture
def slow_job(service: ServiceProcess, source: Namespace, destination: Namespace) -> Iterator[dict[str, Any]]:
    """Have a job that runs; it is cancelled at the end."""
    job = submit_slow(service, source, destination)
    yield job
    service.client.post(f"/v1/jobs/{job['id']}/cancel")


def wait_for_change(page: Page) -> None:
    bar = page.locator("main progress")
    expect(bar).not_to_have_attribute("value", bar.get_attribute("value") or "", timeout=20_000)


def test_what_a_reader_opened_and_focused_stays_while_the_bar_moves(page: Page, slow_job: dict[str, Any]) -> None:
    open_page(page, f"/jobs/{slow_job['id']}")
    page.get_by_text("From a terminal").click()
    page.get_by_role("button", name="Cancel").focus()
    wait_for_change(page)
    expect(page.locator("details")).to_have_attribute("open", "")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()


def test_one_line_says_what_changed_to_who_does_not_see_it(
    page: Page, service: ServiceProcess, slow_job: dict[str, Any]
) -> None:
    open_page(page, f"/jobs/{slow_job['id']}")
    line = page.locator("[aria-live]")
    expect(line).to_have_count(1)
    line.evaluate("line => { line.dataset.first = 'yes' }")
    expect(line).to_contain_text("25 per cent", timeout=20_000)
    service.client.post(f"/v1/jobs/{slow_job['id']}/cancel").raise_for_status()
    expect(page.locator("[aria-live][data-first]")).to_contain_text("cancelled", timeout=30_000)


def test_a_page_outlives_a_restart_of_the_service(
    browser: Browser, own_service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    service = own_service
    slow_job = submit_slow(service, source, destination)
    page = browser.new_context(base_url=str(service.client.base_url)).new_page()
    open_page(page, f"/jobs/{slow_job['id']}")
    service.kill()
    expect(page.locator("#connection")).to_be_visible(timeout=20_000)
    expect(page.locator("main progress")).to_be_visible()
    service.start()
    expect(page.locator("#connection")).to_be_hidden(timeout=20_000)
    wait_for_change(page)
    page.context.close()
    service.kill()  # not to wait for the job


def test_a_session_that_ends_under_a_live_page_leads_to_the_login(
    own_page: Page, own_service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    page, service = own_page, own_service
    slow_job = submit_slow(service, source, destination)
    open_page(page, f"/jobs/{slow_job['id']}")
    service.client.post("/v1/keys", json={"name": "first", "scope": "admin"}).raise_for_status()
    expect(page.locator("main h1")).to_have_text("Log in", timeout=20_000)
    service.kill()  # not to wait for the job


def test_an_answer_that_is_an_error_replaces_no_part_of_a_page(service: ServiceProcess) -> None:
    answer = service.client.get("/console/jobs/none/live", headers={"HX-Request": "true"})
    assert answer.status_code == 404
    page = service.client.get("/console/jobs").text
    config = json.loads(re.findall(r"name=\"htmx-config\" content='([^']*)'", page)[0])
    assert {"4xx", "5xx"} <= set(config["noSwap"])


def test_a_job_can_be_submitted_again_from_a_terminal(
    page: Page, service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("terminal"), "it-s")
    request = {"source": source.reference("app"), "destination": destination.reference("app")}
    job = service.run_job({**request, "labels": {"note": "it's $HOME `x`"}})
    open_page(page, f"/jobs/{job['id']}")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text("From a terminal").click()
    page.get_by_role("button", name="Copy the curl command").click()
    expect(page.locator("[aria-live]")).to_contain_text("Copied")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    body = json.loads(words[words.index("--data-binary") + 1])
    assert body["labels"] == {"note": "it's $HOME `x`"}
    again = service.run_job(body)
    assert again["request"] == job["request"]
    assert again["state"] == "succeeded"
