"""Hooks over HTTP: senders proven, events recorded once, policies set off; what is no concern is never an error."""

import asyncio
import base64
import hashlib
import hmac
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.registry import CLOSED
from app.store.registries import RegistryStore
from tests.api.conftest import Api, Serve, pointers

SECRET = "a secret of the hook's"
TOKEN = "QUJDREVGR0hJSktMTU5PUFFSU1RVVg"
HEADER = {"format": "generic", "auth": {"type": "header", "header": "X-Secret", "secret": SECRET}}
PROOF = {"X-Secret": SECRET}
HOST = "old.example.com"
DIGEST = f"sha256:{'a' * 64}"
RULE = {"source": f"{HOST}/team/**", "destination": "new.example.com/mirror"}


async def enter(api: Api, hook: dict[str, Any] | None = None, *, host: str = HOST, name: str = "old") -> None:
    answer = await api.client.put(f"/v1/registries/{name}", json={"host": host, "hook": hook or HEADER})
    assert answer.status_code in {200, 201}, answer.text


async def keep(api: Api, name: str = "mirror", **more: Any) -> None:
    answer = await api.client.put(f"/v1/policies/{name}", json={"rules": [RULE], "on_push": True, **more})
    assert answer.status_code == 201, answer.text


async def send(api: Api, body: Any, *, path: str = "old", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.client.post(f"/v1/hooks/{path}", content=content, headers=headers or PROOF)


async def events(api: Api, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.client.get("/v1/hook-events", params=query)).json()["items"]
    return found


async def follow(api: Api, *answers: httpx.Response) -> list[dict[str, Any]]:
    """Let the events that were stored be made jobs of, and return the jobs of some answers' events, each once."""
    while await api.service.push_matcher.match_next():
        pass
    mine = {event_id for answer in answers for event_id in answer.json()["events"]}
    found = {job_id for event in await events(api, limit="200") if event["id"] in mine for job_id in event["jobs"]}
    return [(await api.client.get(f"/v1/jobs/{job_id}")).json() for job_id in sorted(found)]


def pushed(tag: str = "1", **more: str) -> dict[str, str]:
    return {"repository": "team/app", "tag": tag, **more}


async def test_a_push_is_a_job_of_every_policy_that_takes_it(api: Api) -> None:
    await enter(api)
    await keep(api)
    await keep(api, "second", labels={"a": "b"})
    await keep(api, "paused", enabled=False)
    await keep(api, "by-clock", on_push=False)
    await keep(api, "other", rules=[{"source": f"{HOST}/elsewhere", "destination": "new.example.com/x"}])

    answer = await send(api, pushed(digest=DIGEST))

    receipt = answer.json()
    assert (answer.status_code, receipt["status"], receipt["reason"]) == (202, "accepted", None)
    assert [event["status"] for event in await events(api)] == ["received"]
    jobs = await follow(api, answer)
    assert sorted(job["policy"] for job in jobs) == ["mirror", "second"]
    for job in jobs:
        assert job["trigger"] == {"type": "push", "event_id": receipt["events"][0]}
        assert job["created_by"] == "hook/old"
        [rule] = job["request"]["rules"]
        assert (rule["source"], rule["destination"]) == (f"{HOST}/team/app:1", ["new.example.com/mirror/team/app:1"])
    [event] = await events(api)
    assert (event["id"], event["status"]) == (receipt["events"][0], "accepted")
    assert (event["repository"], event["tag"], event["digest"]) == ("team/app", "1", DIGEST)
    assert sorted(event["jobs"]) == sorted(job["id"] for job in jobs)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (pushed(), "no_policy"),
        ({"repository": "team/app", "digest": DIGEST}, "no_tag"),
        ({"repository": "Team/App", "tag": "1"}, "invalid_name"),
        ({"repository": "team/app", "tag": "1", "action": "delete"}, "not_a_push"),
        (b"no json", "malformed"),
        (b"[]", "malformed"),
    ],
)
async def test_what_is_no_concern_is_answered_well_and_says_why(api: Api, body: Any, reason: str) -> None:
    await enter(api)
    answer = await send(api, body)
    assert (answer.status_code, answer.json()["status"], answer.json()["reason"]) == (200, "ignored", reason)
    [event] = await events(api, status="ignored", registry="old")
    assert (event["reason"], event["format"]) == (reason, "generic")


async def test_a_push_of_a_digest_alone_is_told_what_brings_it_along(api: Api) -> None:
    await enter(api)
    await send(api, {"repository": "team/app", "digest": DIGEST})
    [event] = await events(api)
    assert "comes with the next run that takes it" in event["detail"]


async def test_a_referrer_that_is_pushed_by_digest_is_a_job_for_its_subject(api: Api) -> None:
    await enter(api)
    await keep(api)
    subject = f"sha256:{'7e' * 32}"
    answer = await send(api, {"repository": "team/app", "digest": DIGEST, "subject": subject})
    assert answer.status_code == 202
    [job] = await follow(api, answer)
    [rule] = job["request"]["rules"]
    assert rule["source"] == f"{HOST}/team/app@{subject}"
    assert rule["destination"] == ["new.example.com/mirror/team/app"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("old", {"X-Secret": "wrong"}),
        ("old", {"X-Other": SECRET}),
        ("old/token", PROOF | {"X-Secret": "wrong"}),
        ("unknown", PROOF),
        ("without", PROOF),
        ("No Name At All", PROOF),
    ],
)
async def test_every_wrong_proof_and_every_unknown_hook_is_one_and_the_same_refusal(
    api: Api, path: str, headers: dict[str, str]
) -> None:
    await enter(api)
    await api.client.put("/v1/registries/without", json={"host": "without.example.com"})
    answer = await send(api, pushed(), path=path, **headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (401, "hook_rejected")
    assert problem["detail"] == "there is no such hook, or its secret is missing or wrong"
    assert await events(api) == []


async def test_a_key_that_is_not_known_yet_is_answered_as_an_unknown_hook_is(api: Api) -> None:
    proof = {"type": "google", "audience": "a", "email": "a@example.com", "issuer": "http://127.0.0.1:1"}
    await enter(api, {"format": "generic", "auth": proof})
    token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.e30.c2ln"
    answers = [await send(api, pushed(), path=path, Authorization=f"Bearer {token}") for path in ("old", "unknown")]
    assert [answer.status_code for answer in answers] == [401, 401]
    bodies = [
        {name: value for name, value in answer.json().items() if name in {"code", "detail", "title"}}
        for answer in answers
    ]
    assert bodies[0] == bodies[1]


async def test_the_bytes_that_were_sent_are_what_is_signed(api: Api) -> None:
    await enter(api, {"format": "generic", "auth": {"type": "hmac", "secret": SECRET}})
    body = b'{ "repository":"team/app" ,\n"tag": "1"}'
    signature = hmac.new(SECRET.encode(), body, "sha256").hexdigest()
    assert (await send(api, body, **{"X-Hub-Signature-256": f"sha256={signature}"})).status_code == 200
    assert (await send(api, body + b" ", **{"X-Hub-Signature-256": f"sha256={signature}"})).status_code == 401


async def test_a_token_in_the_address_proves_and_is_never_logged(api: Api, logged: io.StringIO) -> None:
    await enter(api, {"format": "docker_hub", "auth": {"type": "url_token", "secret": TOKEN}})
    body = {"push_data": {"tag": "1"}, "repository": {"repo_name": "team/app"}}
    assert (await send(api, body, path=f"old/{TOKEN}")).status_code == 200
    for wrong in ("old", f"old/{TOKEN}x", f"old/{TOKEN}/", f"old/{TOKEN}/more"):
        assert (await send(api, body, path=wrong)).status_code in {401, 404}
    assert (await api.client.get(f"/v1/hooks/old/{TOKEN}")).status_code == 405
    assert "/v1/hooks/{registry}/{token}" in logged.getvalue()
    assert TOKEN not in logged.getvalue()


async def test_callers_from_elsewhere_need_no_api_key_for_hooks_alone(api: Api) -> None:
    await enter(api)
    await api.make_key("admin")
    assert (await send(api, pushed())).status_code == 200
    assert (await api.client.get("/v1/hook-events")).status_code == 401
    await api.client.post("/v1/hooks/old", json=pushed(), headers=PROOF | {"X-Forwarded-For": "203.0.113.9"})


async def test_an_event_that_comes_again_is_one(api: Api) -> None:
    await enter(api)
    await keep(api)
    body = pushed(id="event-1")
    answers = await asyncio.gather(*(send(api, body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [202]
    assert {answer.json()["reason"] for answer in answers} == {None, "duplicate"}
    assert len(await follow(api, *answers)) == 1
    assert len((await api.client.get("/v1/jobs")).json()["items"]) == 1
    assert len(await events(api, status="duplicate")) == 9
    assert (await send(api, pushed(id="event-2"))).status_code == 202


async def test_without_an_id_only_what_changes_nothing_is_the_same_event(api: Api) -> None:
    await enter(api)
    other = f"sha256:{'b' * 64}"
    sent = [await send(api, pushed(digest=digest)) for digest in (DIGEST, DIGEST, other, DIGEST)]
    reasons = [answer.json()["reason"] for answer in sent]
    assert reasons == ["no_policy", "duplicate", "no_policy", "no_policy"], "moved away and back is news"
    for _ in range(2):
        assert (await send(api, pushed())).json()["reason"] == "no_policy", "what has no digest may be another image"


async def test_a_burst_for_one_tag_is_one_job(api: Api) -> None:
    await enter(api)
    await keep(api)
    answers = await asyncio.gather(*(send(api, pushed(id=f"event-{number}")) for number in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len(await follow(api, *answers)) == 1
    assert len(await events(api, status="accepted")) == 20


async def test_a_hook_speaks_for_the_repositories_of_its_registry_only(api: Api) -> None:
    await enter(api, host=f"{HOST}/team/inner")
    await keep(api)
    refused = await send(api, pushed())
    assert (refused.status_code, refused.json()["reason"]) == (200, "other_repository")
    assert (await send(api, {"repository": "team/inner/app", "tag": "1"})).status_code == 202


async def test_the_sender_does_not_say_which_registry_it_is(api: Api) -> None:
    await enter(api)
    await keep(api)
    answer = await send(api, pushed(host="elsewhere.example.com", registry="elsewhere.example.com"))
    [job] = await follow(api, answer)
    assert job["request"]["rules"][0]["source"] == f"{HOST}/team/app:1"


async def test_every_sender_is_understood_with_the_body_it_really_sends(api: Api, data: Path) -> None:
    for folder in sorted((data / "hooks").iterdir()):
        payloads = [file for file in folder.glob("*push*.json") if not file.name.endswith(".expected.json")]
        await enter(api, {**HEADER, "format": folder.name})
        for file in payloads:
            assert (await send(api, file.read_bytes())).status_code in {200, 202}, file


async def test_what_tells_of_layers_and_readers_is_answered_and_not_written_down(api: Api, data: Path) -> None:
    await enter(api, {**HEADER, "format": "distribution"})
    target = {"repository": "team/app", "digest": DIGEST, "mediaType": "application/octet-stream"}
    for action, reason in (("pull", "not_a_push"), ("mount", "not_a_push"), ("push", "not_a_manifest")):
        answer = await send(api, {"events": [{"id": "1", "action": action, "target": target}]})
        assert (answer.status_code, answer.json()["reason"], answer.json()["events"]) == (200, reason, [])
    assert await events(api) == []
    gone = await send(api, {"events": [{"id": "1", "action": "delete", "target": target}]})
    assert (gone.json()["reason"], len(gone.json()["events"])) == ("not_a_push", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("PATCH", "policies/mirror", {"enabled": False}), "no_policy"),
        (("DELETE", "policies/mirror", None), "no_policy"),
        (("PATCH", "registries/old", {"host": "moved.example.com"}), "no_policy"),
        (("PATCH", "registries/old", {"host": f"{HOST}/inner"}), "other_repository"),
        (("DELETE", "registries/old?force=true", None), "no_registry"),
    ],
)
async def test_what_changes_between_the_answer_and_the_job_counts(
    api: Api, change: tuple[str, str, Any], reason: str
) -> None:
    await enter(api)
    await keep(api)
    answer = await send(api, pushed())
    assert answer.status_code == 202
    method, path, body = change
    if path.startswith("registries") and method == "PATCH":
        body = {**body, "hook": HEADER}
    changed = await api.client.request(method, f"/v1/{path}", json=body)
    assert changed.is_success, changed.text
    assert await follow(api, answer) == []
    [event] = await events(api)
    assert (event["status"], event["reason"]) == ("ignored", reason)


async def test_many_that_arrive_at_once_are_each_stored_whatever_becomes_of_the_others(api: Api) -> None:
    await enter(api)
    await keep(api)
    bodies = [pushed(f"v{number}", id=str(number // 2)) for number in range(40)]
    strangers = [{"repository": "elsewhere", "tag": "1"}, {"repository": "team/app", "digest": DIGEST}] * 5
    answers = await asyncio.gather(*(send(api, body) for body in [*bodies, *bodies, *strangers]))
    assert sorted(answer.status_code for answer in answers) == [200] * 50 + [202] * 40
    assert len(await events(api, status="received", limit="200")) == 40
    assert len(await events(api, status="duplicate", limit="200")) == 40
    assert len(await events(api, status="ignored", limit="200")) == 10
    assert len(await follow(api, *answers)) == 40


async def test_a_body_beyond_all_bounds_is_refused(serve: Serve) -> None:
    async with serve(max_body_bytes=8 * 1024 * 1024) as api:
        await enter(api)
        answer = await send(api, b" " * (2 * 1024 * 1024 + 1))
        assert (answer.status_code, answer.json()["code"]) == (413, "hook_too_large")
        assert (await send(api, b"{}" + b" " * (1024 * 1024))).status_code == 200


async def test_event_grid_is_told_its_code_once_it_has_proven_itself(api: Api) -> None:
    await enter(api, {**HEADER, "format": "acr"})
    body = [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "512d38b6"}}]
    proven = {"aeg-event-type": "SubscriptionValidation", **PROOF}
    answer = await send(api, body, **proven)
    assert (answer.status_code, answer.json()) == (200, {"validationResponse": "512d38b6"})
    assert (await send(api, body, **{**proven, "X-Secret": "wrong"})).status_code == 401


async def test_a_cloud_events_sender_is_let_from_the_origins_that_are_set(api: Api) -> None:
    await enter(api, {**HEADER, "format": "cloudevents", "allowed_origins": ["eventgrid.azure.net"]})
    asked = {"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "100"}
    answer = await api.client.options("/v1/hooks/old", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert answer.headers["WebHook-Allowed-Rate"] == "*"
    for name, origin in (("old", "elsewhere.example.com"), ("unknown", "eventgrid.azure.net")):
        refused = await api.client.options(f"/v1/hooks/{name}", headers={"WebHook-Request-Origin": origin})
        assert refused.status_code == 401
    await enter(api, {"format": "acr", "auth": {"type": "url_token", "secret": TOKEN}, "allowed_origins": ["o"]})
    for path, status in ((f"old/{TOKEN}", 200), ("old/wrong", 401), ("old", 401)):
        answer = await api.client.options(f"/v1/hooks/{path}", headers={"WebHook-Request-Origin": "o"})
        assert answer.status_code == status, path


async def test_events_come_in_pages_the_newest_first(api: Api) -> None:
    await enter(api)
    for number in range(5):
        await send(api, pushed(f"v{number}"))
    first = await api.client.get("/v1/hook-events", params={"limit": 3})
    second = await api.client.get(first.links["next"]["url"])
    tags = [item["tag"] for item in first.json()["items"] + second.json()["items"]]
    assert tags == ["v4", "v3", "v2", "v1", "v0"]
    assert await events(api, registry="unknown") == []


PROOFS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"type": "header", "secret": SECRET}, {"Authorization": SECRET}),
    ({"type": "bearer", "secret": SECRET}, {"Authorization": f"Bearer {SECRET}"}),
    (
        {"type": "basic", "username": "acr", "secret": SECRET},
        {"Authorization": f"Basic {base64.b64encode(f'acr:{SECRET}'.encode()).decode()}"},
    ),
    (
        {"type": "hmac", "secret": SECRET, "header": "X-Sum", "algorithm": "sha1", "prefix": ""},
        {"X-Sum": hmac.new(SECRET.encode(), b"{}", hashlib.sha1).hexdigest()},
    ),
]


@pytest.mark.parametrize(("auth", "headers"), PROOFS)
async def test_each_way_to_prove_works_with_its_secret_sealed_and_unseen(
    api: Api, auth: dict[str, Any], headers: dict[str, str], logged: io.StringIO
) -> None:
    await enter(api, {"format": "generic", "auth": auth})
    seen = (await api.client.get("/v1/registries/old")).json()["hook"]
    assert seen["auth"].pop("has_secret") is True
    assert {"header", "algorithm", "prefix", "encoding"} | set(seen["auth"]) >= set(auth) - {"secret"}
    assert SECRET not in json.dumps(seen) + logged.getvalue()
    async with api.service.database.reading() as session:
        existing = await RegistryStore(session, api.service.registries._sealer).get_stored("old")
    assert existing.entry.hook is not None
    assert existing.entry.hook.auth.secret == CLOSED  # type: ignore[union-attr]  # None fails the test as well
    assert (await send(api, b"{}", **headers)).status_code == 200


async def test_a_secret_that_is_not_sent_again_stays(api: Api) -> None:
    await enter(api)
    changed = {**HEADER, "auth": {"type": "header", "header": "X-Other"}}
    await enter(api, changed, host="elsewhere.example.com")
    assert (await send(api, pushed(), **{"X-Other": SECRET})).status_code == 200
    patch = {"hook": {"format": "harbor"}, "limits": {"connections": 2}}
    patched = await api.client.patch("/v1/registries/old", json=patch)
    assert patched.status_code == 200, patched.text
    assert (await send(api, b"{}", **{"X-Other": SECRET})).json()["reason"] != "hook_rejected"

    for answer in (
        await api.client.patch("/v1/registries/old", json={"hook": {"auth": {"type": "bearer"}}}),
        await api.client.put("/v1/registries/new", json={"host": "n.example.com", "hook": changed}),
    ):
        assert answer.status_code == 422, answer.text
        assert pointers(answer) == {"/hook/auth/secret": "secret_required"}
    gone = await api.client.patch("/v1/registries/old", json={"hook": None})
    assert gone.json()["hook"] is None
    assert (await send(api, pushed(), **{"X-Other": SECRET})).status_code == 401


@pytest.mark.parametrize(
    ("hook", "pointer"),
    [
        ({"format": "carrier_pigeon", "auth": HEADER["auth"]}, "/hook/format"),
        ({"format": "quay"}, "/hook/auth"),
        ({"format": "quay", "auth": {"type": "url_token", "secret": "short"}}, "/hook/auth/secret"),
        ({"format": "quay", "auth": {"type": "header", "secret": "with\nnewline"}}, "/hook/auth/secret"),
    ],
)
async def test_what_is_wrong_with_a_hook_is_named(api: Api, hook: dict[str, Any], pointer: str) -> None:
    answer = await api.client.put("/v1/registries/old", json={"host": HOST, "hook": hook})
    assert answer.status_code == 422
    assert list(pointers(answer)) == [pointer]
