"""Wrong keys and hook secrets through the door; streams whose key ends."""

import asyncio

import httpx

from app.domain.audit import AuditAction, AuditFilter
from app.domain.page import PageRequest
from app.services.authentication_guard import FREE_FAILURES
from tests.api.conftest import Api, Serve

WRONG = {"Authorization": f"Bearer {'w' * 40}"}


async def refused(api: Api) -> list[dict[str, object]]:
    await api.service.authentication.write()
    page = await api.service.audit.list(AuditFilter(action=AuditAction.ACCESS_REFUSED), PageRequest())
    return [dict(entry.details) for entry in page.items]


async def test_wrong_keys_and_hook_secrets_are_in_the_audit_log_without_what_they_were(api: Api) -> None:
    hook = {"format": "generic", "auth": {"type": "header", "name": "X-Secret", "value": "canary-right-secret"}}
    await api.client.put("/v1/registries/hub", json={"host": "docker.io", "hook": hook})
    admin = await api.make_key("admin")
    assert (await api.client.get("/v1/jobs", headers=WRONG)).status_code == 401
    assert (await api.client.get("/v1/jobs", headers={"Authorization": "Bearer rsk_canary"})).status_code == 401
    for name in ("hub", "unknown"):
        answer = await api.client.post(f"/v1/hooks/{name}", content=b"{}", headers={"X-Secret": "canary-wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "hook_rejected")
    found = await refused(api)
    assert {one["kind"]: one["reasons"] for one in found} == {
        "api_key": {"unknown": 1, "malformed": 1},
        "hook": {"secret": 2},
    }
    answer = await api.client.get("/v1/audit", params={"action": "access.refused"}, headers=admin)
    assert [item["target"] for item in answer.json()["items"]] == ["127.0.0.1", "127.0.0.1"]
    assert "canary" not in answer.text
    assert "w" * 40 not in answer.text
    metrics = (await api.client.get("/metrics", headers=admin)).text
    assert 'registry_sync_authentication_failures_total{kind="hook",reason="secret"}' in metrics


async def test_a_right_key_is_not_slowed_by_the_wrong_ones_of_its_peer(api: Api) -> None:
    admin = await api.make_key("admin")
    held = [asyncio.create_task(api.client.get("/v1/jobs", headers=WRONG)) for _ in range(FREE_FAILURES + 4)]
    answered, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
    right = asyncio.create_task(api.client.get("/v1/jobs", headers=admin))
    assert (await right).status_code == 200
    assert any(not task.done() for task in held)
    assert {(await task).status_code for task in held} == {401}
    assert answered


async def events_until_end(client: httpx.AsyncClient, url: str, key: dict[str, str], begun: asyncio.Event) -> str:
    text = ""
    async with client.stream("GET", url, headers=key | {"Accept": "text/event-stream"}, timeout=60) as answer:
        async for chunk in answer.aiter_text():
            text += chunk
            begun.set()
    return text


async def test_an_event_stream_ends_when_its_key_is_revoked_or_expires(serve: Serve) -> None:
    async with serve(unregistered_hosts=("allow",)) as api:
        api.client.headers.update(admin := await api.make_key("admin"))
        job = await api.submit()
        made = (await api.client.post("/v1/keys", json={"name": "viewer", "scope": "read"})).json()
        short = await api.make_key("read", name="short", expires="2s")
        streams = []
        for key in ({"Authorization": f"Bearer {made['key']}"}, short):
            begun = asyncio.Event()
            url = f"/v1/jobs/{job['id']}/events"
            streams.append(asyncio.create_task(events_until_end(api.client, url, key, begun)))
            await begun.wait()
        stays = asyncio.create_task(events_until_end(api.client, url, admin, begun := asyncio.Event()))
        await begun.wait()
        assert (await api.client.delete(f"/v1/keys/{made['id']}")).status_code == 204
        for stream in streams:
            assert "event: end" not in await stream
        assert not stays.done()
        await api.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert "event: end" in await stays
