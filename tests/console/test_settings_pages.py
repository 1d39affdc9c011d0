"""Pages about what is set up, by what people do there: notifications, a policy's runs, keys and the audit log."""

import time

from playwright.sync_api import Page, expect

from tests.conftest import Namespace
from tests.console.browsing import check_for_everyone, needs_chromium, open_page
from tests.support.images import oci_image
from tests.support.receiver import Answer, Receiver
from tests.support.service import ServiceProcess

pytestmark = needs_chromium


def wait_until_failed(service: ServiceProcess, name: str) -> None:
    """Wait until what the receiver answered is written."""
    deadline = time.monotonic() + 60
    while not service.client.get(f"/v1/subscriptions/{name}/deliveries?state=failed").json()["items"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_subscription_is_tested_and_a_delivery_is_sent_again(page: Page, service: ServiceProcess) -> None:
    with Receiver() as receiver:
        receiver.answer = Answer(500)
        service.client.put("/v1/subscriptions/ops", json={"url": receiver.url()}).raise_for_status()
        open_page(page, "/events")
        page.get_by_role("link", name="ops").click()
        page.get_by_role("button", name="Send a test").click()
        receiver.wait_for(1)
        wait_until_failed(service, "ops")
        page.reload()
        expect(page.locator("main tbody")).to_contain_text("subscription.test")
        expect(page.locator("main tbody")).to_contain_text("500 refused")
        check_for_everyone(page)
        receiver.answer = Answer(204)
        page.get_by_role("button", name="again").click()
        first, second = receiver.wait_for(2)
        assert first.message_id == second.message_id
    service.client.delete("/v1/subscriptions/ops").raise_for_status()


def test_a_push_event_says_which_job_came_of_it_or_why_none(page: Page, service: ServiceProcess) -> None:
    proof = {"type": "header", "header": "X-Token", "secret": "t" * 32}
    entry = {"host": "pushes.example.com", "hook": {"format": "generic", "auth": proof}}
    service.client.put("/v1/registries/pushes", json=entry).raise_for_status()
    body = {"repository": "team/app", "tag": "1"}
    headers = {"X-Token": "t" * 32}
    service.client.post("/v1/hooks/pushes", json=body, headers=headers).raise_for_status()
    open_page(page, "/events")
    row = page.locator("main tbody tr").filter(has_text="team/app:1")
    expect(row).to_contain_text("pushes")
    expect(row).to_contain_text("generic")
    check_for_everyone(page)


def test_a_policy_shows_its_runs_and_runs(
    page: Page, service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    source.push("app", oci_image("runs"), "1")
    rules = [{"source": source.reference("app"), "destination": destination.reference("app")}]
    service.client.put("/v1/policies/runs", json={"rules": rules}).raise_for_status()
    open_page(page, "/policies/runs")
    page.get_by_role("button", name="Run now").click()
    expect(page.locator(".status")).to_contain_text("succeeded", timeout=30_000)
    open_page(page, "/policies/runs")
    expect(page.locator("main tbody")).to_contain_text("succeeded")


def test_keys_and_the_audit_log_are_seen(own_page: Page, own_service: ServiceProcess) -> None:
    client = own_service.client
    key = client.post("/v1/keys", json={"name": "ann", "scope": "admin"}).json()["key"]
    own_page.goto("/console/login")
    own_page.get_by_label("API key").fill(key)
    own_page.get_by_role("button", name="Log in").click()
    open_page(own_page, "/access")
    for text in ("ann", "key.created", "registry.created", "destination"):
        expect(own_page.locator("main")).to_contain_text(text)
    assert key not in own_page.content()
    check_for_everyone(own_page)
