"""The console in a real browser: every page, the walks people take, and what pages must never do.

Chromium is Debian's; where it can't be had the tests are skipped with a line.
"""

import json
import os
import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Namespace
from tests.console.browsing import check_for_everyone, needs_chromium, open_page
from tests.support.images import blob, oci_image
from tests.support.service import ServiceProcess

PAGES = ("/", "/jobs", "/submit", "/policies", "/registries", "/events", "/access")
pytestmark = needs_chromium


def test_an_image_is_planned_copied_and_seen_to_arrive(page: Page, source: Namespace, destination: Namespace) -> None:
    image = oci_image("console")
    source.push("app", image, "1")
    open_page(page, "/submit")
    page.get_by_label("Source").fill(source.reference("app"))
    page.get_by_label("Destinations").fill(destination.reference("app"))
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_text("+ copy")).to_be_visible()
    expect(page.locator(".status")).to_have_text(re.compile(r"1 copy: [1-9][\d,.]* .?i?B to send, 0 B already there"))
    check_for_everyone(page)
    page.get_by_role("button", name="Run now").click()
    expect(page.locator(".status")).to_contain_text("succeeded", timeout=30_000)
    expect(page.get_by_role("region", name="Images").locator("tbody")).to_contain_text("copied")
    assert destination.tags("app") == {"1": image.digest}
    check_for_everyone(page)
    page.get_by_role("button", name="Run again").click()
    expect(page.locator(".status")).to_contain_text("1 up to date", timeout=30_000)
    open_page(page, f"/jobs?state=succeeded&source={source.reference('app')}")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Search").fill("no such text")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody")).to_contain_text("No jobs.")
    open_page(page, "/jobs?since=1h&until=2h")
    expect(page.locator(".problems")).to_contain_text("until: no time is before until")
    check_for_everyone(page)


def test_pages_say_why_tags_are_taken_or_left_out(
    page: Page, service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    for tag in ("1.0", "1.1", "2.0", "latest"):
        source.push("app", oci_image(tag), tag)
    tags = {"include": ["[0-9]*"], "newest": 1}
    rule = {"source": source.reference("app"), "destination": destination.reference("app"), "tags": tags}
    expected = [
        ["- left out", "not_included", "1", "0", source.reference("app", "latest")],
        ["- left out", "not_newest", "2", "0", f"{source.reference('app', '1.0')}, {source.reference('app', '1.1')}"],
        ["+ taken", "newest", "1", "0", source.reference("app", "2.0")],
    ]

    def shown() -> list[list[str]]:
        rows = page.locator("table.selection tbody tr")
        expect(rows).to_have_count(len(expected), timeout=30_000)
        return [row.locator("td").all_inner_texts() for row in rows.all()]

    for more in ({}, {"dry_run": True}):
        job = service.submit({"rules": [rule], **more})
        open_page(page, f"/jobs/{job['id']}")
        expect(page.locator(".status")).to_contain_text("succeeded", timeout=30_000)
        assert sorted(shown()) == sorted(expected)
        assert [row[0] for row in shown()] == [row[0] for row in expected]
        check_for_everyone(page)
    service.client.put("/v1/policies/selected", json={"rules": [rule]}).raise_for_status()
    open_page(page, "/policies/selected")
    page.get_by_role("button", name="Preview").click()
    assert sorted(shown()) == sorted(expected)
    check_for_everyone(page)


def test_a_bar_moves_and_a_job_is_cancelled(
    page: Page, service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    source.push("big", oci_image("slow", layers=(blob("slow", size=4_000_000),)), "1")
    request = {"source": source.reference("big"), "destination": destination.reference("big")}
    job = service.submit({**request, "options": {"max_bytes_per_second": 300_000}})
    open_page(page, f"/jobs/{job['id']}")
    bar = page.locator("main progress")
    expect(bar).to_have_attribute("value", re.compile(r"[5-9]|[1-9]\d"), timeout=20_000)
    seen = bar.get_attribute("value") or ""
    expect(bar).not_to_have_attribute("value", seen, timeout=20_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".status")).to_contain_text("cancelled", timeout=30_000)


def test_a_failure_says_why_and_is_tried_again(page: Page, service: ServiceProcess, source: Namespace) -> None:
    job = service.submit({"source": source.reference("app", "nothing"), "destination": source.reference("copy")})
    open_page(page, f"/jobs/{job['id']}")
    expect(page.locator(".problems")).to_contain_text("reference_not_found", timeout=30_000)
    check_for_everyone(page)
    page.get_by_role("link", name="log").click()
    expect(page.locator("main h1")).to_have_text("What was done")
    page.go_back()
    page.get_by_role("button", name="Retry what failed").click()
    expect(page.get_by_text("Retry of")).to_be_visible()


def test_a_policy_is_previewed_paused_and_rewritten(
    page: Page, service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("policy"), "1")
    rules = [{"source": source.reference("app"), "destination": destination.reference("app")}]
    service.client.put("/v1/policies/mirror", json={"rules": rules}).raise_for_status()
    open_page(page, "/policies/mirror")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("+ copy")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    text = page.get_by_label("YAML").input_value()
    page.get_by_label("YAML").fill(text + "labels: {team: console}\n")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("YAML")).to_have_value(re.compile("team: console"))
    page.get_by_label("YAML").fill("rules: []")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("rules")
    check_for_everyone(page)


def test_registries_are_entered_and_checked(page: Page, source: Namespace) -> None:
    open_page(page, "/registries")
    page.get_by_label("Name", exact=True).fill("again")
    page.get_by_role("textbox", name="Host").fill(f"{source.registry.host}/again")
    page.get_by_label("It speaks plain http").check()
    page.get_by_role("button", name="Enter").click()
    page.get_by_role("button", name="Check again now").click()
    expect(page.locator(".status")).to_contain_text("ok")
    page.get_by_role("textbox", name="Repository").fill("again/app")
    page.get_by_label("Try to push").check()
    page.get_by_role("button", name="Check", exact=True).click()
    rows = page.locator("table.may tbody tr")
    expect(rows).to_have_text([re.compile(f"^{start}") for start in ("listunknown", "pull", "pushyes", "createyes")])
    expect(page.locator("main")).to_contain_text("Taken for")
    check_for_everyone(page)
    page.get_by_role("textbox", name="Repository").fill("")
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("name a repository to push to")
    open_page(page, "/registries")
    expect(page.locator("tbody tr").filter(has_text="again")).not_to_contain_text("not asked lately")


def test_a_policy_is_made_and_the_list_goes_on(
    page: Page, service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    rules = [{"source": source.reference("app"), "destination": destination.reference("app")}]
    for number in range(51):
        service.client.put(f"/v1/policies/zz-{number:02}", json={"rules": rules}).raise_for_status()
    open_page(page, "/policies")
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("link", name="zz-50")).to_be_visible()
    page.get_by_role("link", name="New policy").click()
    page.get_by_label("Name").fill("zz-00")
    page.get_by_label("YAML").fill(json.dumps({"rules": rules}))
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert")).to_contain_text("there is such a policy")
    page.get_by_label("Name").fill("made-here")
    page.get_by_label("YAML").fill("rules: []")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert")).to_contain_text("rules")
    check_for_everyone(page)
    page.get_by_label("YAML").fill(json.dumps({"rules": rules}))
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("main h1")).to_have_text("Policy made-here")
    for name in ["made-here", *(f"zz-{number:02}" for number in range(51))]:
        service.client.delete(f"/v1/policies/{name}").raise_for_status()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_for_everyone(page: Page, path: str) -> None:
    open_page(page, path)
    check_for_everyone(page)


def test_who_has_no_key_is_asked_for_one_and_sees_what_it_may(own_page: Page, own_service: ServiceProcess) -> None:
    page, service = own_page, own_service
    keys = {"admin": service.client.post("/v1/keys", json={"name": "admin", "scope": "admin"}).json()["key"]}
    service.client.headers["Authorization"] = f"Bearer {keys['admin']}"
    keys["read"] = service.client.post("/v1/keys", json={"name": "reader", "scope": "read"}).json()["key"]
    page.goto("/console/jobs")
    expect(page.locator("main h1")).to_have_text("Log in")
    check_for_everyone(page)
    page.get_by_label("API key").fill("no such key")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("no API key")
    page.get_by_label("API key").fill(keys["read"])
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("main h1")).to_have_text("Overview")
    expect(page.get_by_role("link", name="Submit")).to_have_count(0)
    expect(page.get_by_role("link", name="Access")).to_have_count(0)
    page.goto("/console/access")
    expect(page.get_by_role("alert")).to_contain_text("scope")
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
    assert keys["read"] not in cookie["value"]
    reader = next(key for key in service.client.get("/v1/keys").json()["items"] if key["name"] == "reader")
    service.client.delete(f"/v1/keys/{reader['id']}").raise_for_status()
    page.wait_for_timeout(1_200)
    page.goto("/console/jobs")
    expect(page.locator("main h1")).to_have_text("Log in")


def test_a_write_from_another_page_is_refused(service: ServiceProcess) -> None:
    url = f"{service.client.base_url}/console/registries"
    body = "name=evil&host=127.0.0.1:1"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for more in ({}, {"Origin": "https://evil.example.com"}, {"Origin": "null"}):
        assert httpx.post(url, content=body, headers={**headers, **more}).status_code == 403, more
    names = {entry["name"] for entry in service.client.get("/v1/registries").json()["items"]}
    assert {"source", "destination"} <= names
    assert "evil" not in names


def test_pages_have_no_inline_script_and_a_policy_that_forbids_it(service: ServiceProcess) -> None:
    for path in PAGES:
        answer = service.client.get(f"/console{path}")
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text


def test_a_job_is_handed_out_as_data(service: ServiceProcess, source: Namespace, destination: Namespace) -> None:
    source.push("app", oci_image("data"), "1")
    job = service.submit({"source": source.reference("app"), "destination": destination.reference("app")})
    service.client.get(f"/v1/jobs/{job['id']}", params={"wait": "30s"})
    assert service.client.get(f"/console/jobs/{job['id']}/job.json").json()["state"] == "succeeded"
    lines = service.client.get(f"/console/jobs/{job['id']}/images.csv").text.splitlines()
    assert lines[0].startswith("state,source,destination,digest")
    assert lines[1].startswith(f"copied,{source.reference('app', '1')},{destination.reference('app', '1')},sha256:")


def test_the_start_page_goes_by_who_asks(service: ServiceProcess) -> None:
    assert service.client.get("/", headers={"Accept": "text/html"}).headers["Location"] == "/console/"
    assert service.client.get("/").json()["openapi"] == "/openapi.json"


def test_screenshots_are_made(request: pytest.FixtureRequest, source: Namespace, destination: Namespace) -> None:
    """Make the pictures of docs/ where `make screenshots` asks for them."""
    folder = os.environ.get("REGISTRY_SYNC_SCREENSHOTS")
    if folder is None:
        pytest.skip("pictures are made by make screenshots")
    page, service = request.getfixturevalue("own_page"), request.getfixturevalue("own_service")
    for number in range(6):
        source.push("team/app", oci_image(f"picture {number}"), f"1.{number}")
    rules = [{"source": source.reference("team/app"), "destination": destination.reference("team/app")}]
    service.client.put(
        "/v1/policies/team-to-mirror", json={"rules": rules, "schedule": {"cron": "0 */6 * * *"}}
    ).raise_for_status()
    good = service.client.post("/v1/policies/team-to-mirror/run").json()
    bad = service.submit({"source": source.reference("team/app", "9.9"), "destination": destination.reference("x")})
    for job in (good, bad):
        service.client.get(f"/v1/jobs/{job['id']}", params={"wait": "30s"})
    for name, path, scheme in (
        ("overview", "/", "light"),
        ("overview-dark", "/", "dark"),
        ("job", f"/jobs/{bad['id']}", "light"),
    ):
        page.emulate_media(color_scheme=scheme)
        open_page(page, path)
        page.screenshot(path=f"{folder}/console-{name}.png")
