"""Subscriptions, deliveries and jobs' own addresses over HTTP, to a real receiver."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from app.security import Sealer
from app.services.api_keys import LOCAL_OPERATOR
from app.store.subscriptions import SubscriptionStore, open_url
from tests.api.conftest import SHORT, Api, Serve, pointers
from tests.domain.test_notification import secret
from tests.support.receiver import Answer, Receiver

HOOK = {"url": "https://ci.example.com/hooks/registry-sync"}
SECRET = secret(32)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
async def here(serve: Serve) -> AsyncIterator[Api]:
    """Serve an application that may notify this machine, without a worker."""
    async with serve(notify_private_hosts=("127.0.0.1",)) as served:
        yield served


async def put(client: httpx.AsyncClient, body: dict[str, Any], name: str = "ci", **headers: str) -> httpx.Response:
    return await client.put(f"/v1/subscriptions/{name}", json=body, headers=headers)


async def post_all(api: Api) -> None:
    """Send what is due."""
    await api.service.notifier.send_due()
    await api.service.notifier.settle()


async def test_a_subscription_is_entered_and_seen_with_what_it_means(client: httpx.AsyncClient) -> None:
    entered = await put(client, HOOK | {"secret": SECRET, "filter": {"labels": {"team": "a"}}})
    assert entered.status_code == 201
    assert entered.headers["Location"] == "/v1/subscriptions/ci"
    body = entered.json()
    assert body["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    assert (body["format"], body["enabled"], body["disabled_reason"]) == ("standard", True, None)
    assert body["filter"] == {"policies": [], "labels": {"team": "a"}}
    assert (body["secret"], body["secrets"]) == (None, [{"ends_at": None}])
    seen = await client.get("/v1/subscriptions/ci")
    assert seen.json() == body
    assert seen.headers["ETag"] == entered.headers["ETag"] == '"1"'
    assert (await client.get("/v1/subscriptions")).json()["items"] == [body]


async def test_a_secret_is_never_seen_again_but_for_one_that_was_made_here(client: httpx.AsyncClient) -> None:
    made = await put(client, HOOK)
    text = made.json()["secret"]
    assert text.startswith("whsec_")
    assert made.headers["Cache-Control"] == "no-store"
    again = await put(client, HOOK)
    assert again.json()["secret"] is None
    assert text not in (await client.get("/v1/subscriptions/ci")).text


async def test_a_new_secret_signs_beside_the_old_one_for_as_long_as_is_asked(here: Api, receiver: Receiver) -> None:
    old, new, newest = secret(24), secret(32), secret(64)
    hook = {"url": receiver.url()}
    await put(here.client, hook | {"secret": old})
    assert len((await put(here.client, hook | {"secret": old})).json()["secrets"]) == 1
    changed = await put(here.client, hook | {"secret": new})
    assert [one["ends_at"] is None for one in changed.json()["secrets"]] == [True, False]
    await here.client.post("/v1/subscriptions/ci/test")
    await post_all(here)
    message = receiver.wait_for_one()
    assert message.verified(old) == message.verified(new)
    ended = await put(here.client, hook | {"secret": newest, "secret_overlap": "0s"})
    assert ended.json()["secrets"] == [{"ends_at": None}]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, {"/url": "missing"}),
        ({"url": "http://ci.example.com/x"}, {"/url": "host_not_allowed"}),
        ({"url": "https://10.0.0.1/x"}, {"/url": "host_not_allowed"}),
        ({"url": "https://localhost/x"}, {"/url": "host_not_allowed"}),
        ({"url": "https://169.254.169.254/x"}, {"/url": "host_not_allowed"}),
        ({"url": "https://u:p@ci.example.com/x"}, {"/url": "secret_in_url"}),
        (HOOK | {"secret": "whsec_short"}, {"/secret": "invalid_secret"}),
        (HOOK | {"secret_overlap": "1y"}, {"/secret_overlap": "invalid_duration"}),
        (HOOK | {"secret_overlap": "31d"}, {"/secret_overlap": "invalid_duration"}),
        (HOOK | {"events": []}, {"/events": "too_short"}),
        (HOOK | {"events": ["subscription.test"]}, {"/events/0": "literal_error"}),
        (HOOK | {"name": "other"}, {"/name": "name_mismatch"}),
        (HOOK | {"colour": "red"}, {"/colour": "unknown_field"}),
        (HOOK | {"filter": {"policy": "x"}}, {"/filter/policy": "unknown_field"}),
    ],
)
async def test_what_is_wrong_is_named_by_field(shared: Api, body: dict[str, Any], found: dict[str, str]) -> None:
    answer = await put(shared.client, body)
    assert answer.status_code == 422
    assert pointers(answer) == found
    assert "whsec_short" not in answer.text


async def test_only_the_version_that_was_read_is_changed_or_removed(client: httpx.AsyncClient) -> None:
    await put(client, HOOK)
    await put(client, HOOK | {"enabled": False}, **{"If-Match": '"1"'})
    for late in (
        await put(client, HOOK, **{"If-Match": '"1"'}),
        await client.delete("/v1/subscriptions/ci", headers={"If-Match": '"1"'}),
    ):
        assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    assert (await client.delete("/v1/subscriptions/ci", headers={"If-Match": '"2"'})).status_code == 204
    assert (await client.get("/v1/subscriptions/ci")).status_code == 404


async def test_a_test_message_tells_whether_the_endpoint_works(here: Api, receiver: Receiver) -> None:
    await put(here.client, {"url": receiver.url("/x?token=t0p"), "secret": SECRET})
    accepted = await here.client.post("/v1/subscriptions/ci/test")
    assert accepted.status_code == 202
    assert (accepted.json()["state"], accepted.json()["event"]) == ("pending", "subscription.test")
    await post_all(here)
    told = receiver.wait_for_one().verified(SECRET)
    assert (told["type"], told["data"]) == ("subscription.test", {"subscription": "ci"})
    ended = (await here.client.get(accepted.headers["Location"])).json()
    assert (ended["state"], ended["status"], ended["next_attempt_at"]) == ("delivered", 204, None)


async def test_a_failed_delivery_is_found_and_sent_again_under_its_id(here: Api, receiver: Receiver) -> None:
    await put(here.client, {"url": receiver.url(), "secret": SECRET})
    receiver.answer = Answer(302, {"Location": "https://elsewhere.example.com/"}, b"secret body")
    await here.client.post("/v1/subscriptions/ci/test")
    await post_all(here)
    page = (await here.client.get("/v1/subscriptions/ci/deliveries?state=failed")).json()
    (failed,) = page["items"]
    assert (failed["status"], failed["error"], failed["attempts"]) == (302, "redirected", 1)
    assert "secret body" not in str(page)
    assert (await here.client.get("/v1/subscriptions/ci/deliveries?state=delivered")).json()["items"] == []

    receiver.answer = Answer(200)
    again = await here.client.post(f"/v1/subscriptions/ci/deliveries/{failed['id']}/redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    await post_all(here)
    one, other = receiver.wait_for(2)
    assert one.message_id == other.message_id == failed["id"]
    assert (await here.client.get(again.headers["Location"])).json()["state"] == "delivered"


async def test_what_is_switched_off_takes_no_redelivery_until_it_is_on_again(here: Api, receiver: Receiver) -> None:
    hook = {"url": receiver.url(), "secret": SECRET}
    await put(here.client, hook)
    job = await here.submit()
    await here.client.post(f"/v1/jobs/{job['id']}/cancel")
    (delivery,) = (await here.client.get(f"/v1/subscriptions/ci/deliveries?job={job['id']}")).json()["items"]
    await put(here.client, hook | {"enabled": False})
    where = f"/v1/subscriptions/ci/deliveries/{delivery['id']}"
    assert (await here.client.get(where)).json()["error"] == "subscription_disabled"
    refused = await here.client.post(f"{where}/redeliver")
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_disabled")
    await put(here.client, hook)
    assert (await here.client.post(f"{where}/redeliver")).status_code == 202
    await post_all(here)
    assert receiver.wait_for_one().verified(SECRET)["data"]["id"] == job["id"]


async def test_switching_on_again_forgets_why_it_was_off(here: Api, receiver: Receiver) -> None:
    await put(here.client, {"url": receiver.url(), "secret": SECRET})
    receiver.answer = Answer(410)
    job = await here.submit()
    await here.client.post(f"/v1/jobs/{job['id']}/cancel")
    await post_all(here)
    off = (await here.client.get("/v1/subscriptions/ci")).json()
    assert (off["enabled"], off["version"]) == (False, 2)
    assert "410" in off["disabled_reason"]
    on = (await put(here.client, {"url": receiver.url()})).json()
    assert (on["enabled"], on["disabled_reason"], on["disabled_at"], on["failing_since"]) == (True, None, None, None)


async def test_a_job_brings_its_own_address_along(here: Api, receiver: Receiver) -> None:
    await put(here.client, {"url": receiver.url("/all"), "secret": SECRET, "events": ["job.failed"]})
    notify = {"url": receiver.url("/mine?token=t0p"), "subscription": "ci"}
    job = await here.submit(notify=notify)
    shown = {"origin": f"http://127.0.0.1:{receiver.port}", "subscription": "ci"}
    assert job["notify"] == shown
    assert "t0p" not in (await here.client.get(f"/v1/jobs/{job['id']}")).text
    await here.client.post(f"/v1/jobs/{job['id']}/cancel")
    await post_all(here)
    message = receiver.wait_for_one()
    assert message.path == "/mine?token=t0p"
    assert message.verified(SECRET)["type"] == "job.cancelled"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("notify", "found"),
    [
        (
            {"url": "https://ci.example.com/x", "subscription": "nobody"},
            {"/notify/subscription": "unknown_subscription"},
        ),
        ({"url": "https://10.0.0.1/x", "subscription": "ci"}, {"/notify/url": "host_not_allowed"}),
        ({"url": "https://ci.example.com/x"}, {"/notify/subscription": "missing"}),
    ],
)
async def test_a_jobs_own_address_is_checked_when_it_is_submitted(
    shared: Api, notify: dict[str, str], found: dict[str, str]
) -> None:
    answer = await shared.client.post("/v1/jobs", json=SHORT | {"notify": notify})
    assert answer.status_code == 422
    assert pointers(answer) == found


async def test_only_admins_see_subscriptions(api: Api) -> None:
    admin = await api.make_key("admin")
    made = await api.client.post("/v1/keys", json={"name": "ci", "scope": "submit"}, headers=admin)
    header = {"Authorization": f"Bearer {made.json()['key']}"}
    for method, path in (
        ("GET", "/v1/subscriptions"),
        ("GET", "/v1/subscriptions/ci"),
        ("GET", "/v1/subscriptions/ci/deliveries"),
        ("POST", "/v1/subscriptions/ci/test"),
        ("GET", "/v1/audit"),
    ):
        answer = await api.client.request(method, path, headers=header)
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")


async def test_no_secret_and_no_address_is_logged(here: Api, receiver: Receiver, logged: io.StringIO) -> None:
    receiver.answer = Answer(500)
    await put(here.client, {"url": receiver.url("/path-t0p?key=query-t0p"), "secret": SECRET})
    await here.client.post("/v1/subscriptions/ci/test")
    await post_all(here)
    message = receiver.wait_for_one()
    text = logged.getvalue()
    assert "notification_attempted" in text
    for hidden in (SECRET, "t0p", message.headers["webhook-signature"]):
        assert hidden not in text


async def test_the_worker_posts_by_itself(serve: Serve, receiver: Receiver) -> None:
    async with serve(is_working=True, notify_private_hosts=("127.0.0.1",)) as api:
        await put(api.client, {"url": receiver.url(), "secret": SECRET})
        await api.client.post("/v1/subscriptions/ci/test")
        await asyncio.to_thread(receiver.wait_for_one)


KEYED = "https://hooks.example.com/services/T0123/B4567/XyZzY9?token=abcdef"
SHOWN = "https://hooks.example.com/services/***/***/***?***"


async def stored(api: Api) -> str:
    """Return all that the database holds, as text."""
    lines: list[object] = []
    async with api.service.database.reading() as session:
        connection = await session.connection()
        for table in ("subscriptions", "jobs", "deliveries", "audit_log"):
            lines += (await connection.exec_driver_sql(f"SELECT * FROM {table}")).all()  # noqa: S608 — names from above
    return str(lines)


async def test_an_address_that_may_be_a_secret_is_sealed_and_shown_in_part(api: Api, logged: io.StringIO) -> None:
    entered = await put(api.client, {"url": KEYED})
    assert entered.json()["url"] == SHOWN
    submitted = await api.submit(notify={"url": KEYED, "subscription": "ci"})
    assert submitted["notify"] == {"origin": "https://hooks.example.com", "subscription": "ci"}
    await api.client.post("/v1/jobs/" + submitted["id"] + "/cancel")
    deliveries = await api.client.get("/v1/subscriptions/ci/deliveries")
    assert SHOWN in {item["url"] for item in deliveries.json()["items"]}
    audit = await api.client.get("/v1/audit", params={"target": "ci"})
    assert audit.json()["items"][0]["details"]["secrets_set"] == ["secret", "url"]
    for text in (await stored(api), audit.text, deliveries.text, logged.getvalue()):
        assert "XyZzY9" not in text
        assert "abcdef" not in text


async def test_an_address_as_it_is_shown_stands_for_the_stored_one(api: Api) -> None:
    refused = await put(api.client, {"url": SHOWN})
    assert (refused.status_code, pointers(refused)) == (422, {"/url": "secret_required"})
    shown = (await put(api.client, {"url": KEYED})).json()
    again = await put(api.client, shown | {"format": "cloudevents"})
    assert again.status_code == 200, again.text
    existing = await api.service.subscriptions.get("ci")
    assert open_url(api.service.subscriptions._sealer, "ci", existing.subscription.url or "") == KEYED
    moved = await put(api.client, {"url": SHOWN.replace("hooks.", "evil.")})
    assert pointers(moved) == {"/url": "secret_required"}
    sealed = await put(api.client, {"url": existing.subscription.url})
    assert (sealed.status_code, pointers(sealed)) == (422, {"/url": "invalid_url"})


async def test_addresses_are_sealed_anew_with_the_secrets(api: Api) -> None:
    await put(api.client, {"url": KEYED})
    job = await api.submit(notify={"url": KEYED, "subscription": "ci"})
    old = api.service.subscriptions._sealer
    newest = Sealer.make_key()
    both, only = Sealer([newest]), Sealer([newest])
    both._fernet._fernets.extend(old._fernet._fernets)
    async with api.service.database.transaction() as session:
        await SubscriptionStore(session).rotate(both)
    existing = await api.service.subscriptions.get("ci")
    assert open_url(only, "ci", existing.subscription.url or "") == KEYED
    notify = (await api.service.jobs.get(job["id"], caller=LOCAL_OPERATOR)).notify
    assert notify is not None
    assert open_url(only, "ci", notify.url) == KEYED
