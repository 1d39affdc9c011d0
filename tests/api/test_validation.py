"""Bad input: refused with 422 before anything is kept, each field by the name the caller gave it."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.api.conftest import SHORT, Api, pointers

pytestmark = pytest.mark.asyncio(loop_scope="module")

TO = "registry.example.com/mirror"
LONG_TAG = "x" * 129


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plan"])
@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"/source": "missing", "/destination": "missing"}),
        ({"source": "redis:7"}, {"/destination": "missing"}),
        ({"source": "", "destination": TO}, {"/source": "invalid_repository"}),
        ({"source": "a.example.com/", "destination": TO}, {"/source": "invalid_repository"}),
        ({"source": "a.example.com", "destination": TO}, {"/source": "invalid_source"}),
        ({"source": "a.example.com/x:", "destination": TO}, {"/source": "invalid_source"}),
        ({"source": "a.example.com/x y", "destination": TO}, {"/source": "invalid_repository"}),
        ({"source": "https://a.example.com/x", "destination": TO}, {"/source": "invalid_repository"}),
        ({"source": "a.example.com/Team/App", "destination": TO}, {"/source": "invalid_repository"}),
        ({"source": f"a.example.com/x:{LONG_TAG}", "destination": TO}, {"/source": "invalid_tag"}),
        ({"source": "a.example.com/x:-1", "destination": TO}, {"/source": "invalid_tag"}),
        ({"source": "a.example.com/x:1,1", "destination": TO}, {"/source": "invalid_source"}),
        ({"source": "a.example.com/x@sha256:1234", "destination": TO}, {"/source": "invalid_digest"}),
        ({"source": "a.example.com:99999/x", "destination": TO}, {"/source": "invalid_host"}),
        ({"source": "a.example.com/*/x", "destination": TO}, {"/source": "invalid_source"}),
        ({"source": 7, "destination": TO}, {"/source": "string_type"}),
        ({"source": "redis:7", "destination": 7}, {"/destination": "list_type"}),
        ({"source": "redis:7", "destination": []}, {"/destination": "too_short"}),
        ({"source": "redis:7", "destination": "a.example.com/UP"}, {"/destination": "invalid_repository"}),
        (
            {"source": "redis:7", "destination": ["a.example.com/x", "a.example.com/UP"]},
            {"/destination/1": "invalid_repository"},
        ),
        ({"source": "redis:7", "destination": [TO, TO]}, {"/destination": "duplicate_destination"}),
        ({"source": "redis:7", "destination": f"{TO}:{LONG_TAG}"}, {"/destination": "invalid_tag"}),
        ({"source": "redis:7", "destination": "a.example.com/{nothing}"}, {"/destination": "invalid_template"}),
        ({"source": "redis:1,2", "destination": f"{TO}:1,2,3"}, {"/destination": "rename_count"}),
        (SHORT | {"unknown": 1}, {"/unknown": "unknown_field"}),
        (SHORT | {"options": {"unknwon": 1}}, {"/options/unknwon": "unknown_field"}),
        (SHORT | {"options": {"overwrite": "maybe"}}, {"/options/overwrite": "literal_error"}),
        (SHORT | {"options": {"referrers": "perhaps"}}, {"/options/referrers": "bool_parsing"}),
        (SHORT | {"options": {"max_bytes_per_second": 0}}, {"/options/max_bytes_per_second": "greater_than_equal"}),
        (SHORT | {"options": []}, {"/options": "object_type"}),
        (SHORT | {"tags": {"include": ["v*"]}}, {"/tags": "selection_without_pattern"}),
        (SHORT | {"repositories": {"include": ["v*"]}}, {"/repositories": "selection_without_pattern"}),
        (SHORT | {"source": "redis", "tags": {"include": ["/(/"]}}, {"/tags/include/0": "invalid_matcher"}),
        (SHORT | {"source": "redis", "tags": {"newest": 0}}, {"/tags/newest": "greater_than_equal"}),
        (
            SHORT | {"source": "redis", "tags": {"include": [{"all": ["*-alpine", "/(/"]}]}},
            {"/tags/include/0/all/1": "invalid_matcher"},
        ),
        (SHORT | {"source": "redis", "tags": {"newest_by": "created"}}, {"/tags/newest_by": "newest_missing"}),
        (
            SHORT | {"source": "redis", "tags": {"newest": 1, "min_matches": 2}},
            {"/tags/min_matches": "more_than_newest"},
        ),
        (SHORT | {"min_age": "long"}, {"/min_age": "invalid_duration"}),
        (SHORT | {"min_age": "999999999d"}, {"/min_age": "invalid_duration"}),
        (SHORT | {"created_since": "999999999d"}, {"/created_since": "invalid_time"}),
        (SHORT | {"mapping": {"strip_prefix": "Team"}}, {"/mapping/strip_prefix": "invalid_prefix"}),
        (
            SHORT | {"mapping": {"substitute": [{"pattern": "a", "replacement": r"\1"}]}},
            {"/mapping/substitute/0/replacement": "invalid_replacement"},
        ),
        (SHORT | {"platforms": ["linux"]}, {"/platforms/0": "invalid_platform"}),
        (SHORT | {"platform_mode": "thin"}, {"/platform_mode": "literal_error"}),
        (SHORT | {"labels": {"a b": "c"}}, None),
        (SHORT | {"labels": {"a": 1}}, {"/labels/a": "string_type"}),
        (SHORT | {"priority": "urgent"}, {"/priority": "enum"}),
        (SHORT | {"state": "succeeded"}, {"/state": "unknown_field"}),
        (SHORT | {"rules": []}, {"/source": "mixed_forms"}),
        ({"rules": []}, {"/rules": "too_short"}),
        ({"rules": [SHORT, {"source": "redis:7"}]}, {"/rules/1/destination": "missing"}),
        ({"rules": [SHORT | {"extra": 1}]}, {"/rules/0/extra": "unknown_field"}),
        (
            {"rules": [SHORT, {"source": "alpine:7", "destination": SHORT["destination"]}]},
            {"/rules/1/destination": "destination_conflict"},
        ),
        (
            {"source": "a.example.com/Team", "destination": "a.example.com/UP", "x": 1},
            {"/source": "invalid_repository", "/destination": "invalid_repository", "/x": "unknown_field"},
        ),
        ([SHORT], {"": "object_type"}),
        ("redis:7", {"": "object_type"}),
    ],
)
async def test_each_field_is_named_as_the_caller_wrote_it(
    shared: Api, path: str, body: Any, wrong: dict[str, str] | None
) -> None:
    answer = await shared.client.post(path, json=body)

    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["code"] == "validation_failed"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert all(error["detail"] for error in problem["errors"])
    if wrong is not None:
        assert pointers(answer) == wrong


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:5000",
        "10.1.2.3",
        "192.168.0.1:5000",
        "169.254.169.254",
        "100.64.0.1",
        "localhost:5000",
        "registry.localhost",
        "metadata.google.internal",
        "[::1]:5000",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
    ],
)
async def test_a_host_that_nobody_entered_must_not_be_inside(shared: Api, host: str) -> None:
    as_source = await shared.client.post("/v1/jobs", json={"source": f"{host}/app:1", "destination": TO})
    as_one_of_two = await shared.client.post(
        "/v1/jobs", json={"rules": [SHORT, {"source": "redis:7", "destination": [TO, f"{host}/app"]}]}
    )

    assert (as_source.status_code, as_source.json()["code"]) == (422, "host_not_allowed")
    assert pointers(as_source) == {"/source": "host_not_allowed"}
    assert pointers(as_one_of_two) == {"/rules/1/destination/1": "host_not_allowed"}


async def test_a_name_is_not_resolved_to_judge_it(shared: Api) -> None:
    answer = await shared.client.post("/v1/jobs", json={"source": "inside.invalid/app:1", "destination": TO})

    assert answer.status_code == 202


async def test_nothing_that_was_refused_is_kept(shared: Api) -> None:
    before = (await shared.client.get("/v1/jobs")).json()

    await shared.client.post("/v1/jobs", json={"source": "127.0.0.1/app:1", "destination": TO})
    await shared.client.post("/v1/jobs", json=SHORT | {"x": 1})

    assert (await shared.client.get("/v1/jobs")).json() == before


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b"", "application/json", 422, "validation_failed"),
        (b"\xff\xfe", "application/json", 400, "malformed_json"),
        (b"[" * 100_000, "application/json", 400, "malformed_json"),
        (b'{"source": NaN}', "application/json", 422, "validation_failed"),
        (b"source=a&destination=b", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"source": "redis:7"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"source": "redis:7"}', None, 415, "unsupported_media_type"),
        (b" " * (1024 * 1024 + 1), "application/json", 413, "payload_too_large"),
    ],
)
async def test_a_body_that_is_no_json_is_told_apart(
    shared: Api, content: bytes, content_type: str | None, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    answer = await shared.client.post("/v1/jobs", content=content, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_body_announced_as_too_large_is_not_waited_for(shared: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.client.base_url.port)
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    writer.write(head.encode())

    async with asyncio.timeout(10):
        assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_caller_that_goes_away_within_its_body_is_no_error_of_ours(shared: Api) -> None:
    with capture_logs() as logged:
        _, writer = await asyncio.open_connection("127.0.0.1", shared.client.base_url.port)
        writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.1)  # it is being read
        writer.close()
        ends, said = {"http_request", "unexpected_error"}, list[str]()
        async with asyncio.timeout(60):
            while not said:
                await asyncio.sleep(0.01)
                said = [one["event"] for one in logged if one["event"] in ends]

    assert said == ["http_request"]


async def test_a_body_without_a_length_is_read_no_further_than_the_limit(shared: Api) -> None:
    async def endless() -> Any:
        for _ in range(1_000):
            yield b" " * 65_536

    answer = await shared.client.post("/v1/jobs", content=endless(), headers={"Content-Type": "application/json"})

    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/jobs/" + "a" * 60_000, {}, 414, "uri_too_long"),
        ("GET", "/v1/jobs?policy=" + "a" * 60_000, {}, 414, "uri_too_long"),
        ("X" * 5_000, "/v1/jobs", {}, 501, "method_not_implemented"),
        ("GET", "/v1/jobs?since=0001-01-01T00:00:00%2B14:00", {}, 422, "validation_failed"),
        ("GET", "/v1/jobs?since=9999-12-31T23:59:59-14:00", {}, 422, "validation_failed"),
        ("GET", "/v1/audit?since=0001-01-01T00:00:00%2B14:00", {}, 422, "validation_failed"),
        ("GET", "/v1/jobs?policy=a%00b", {}, 422, "validation_failed"),
        ("GET", "/v1/registries/a%00b", {}, 422, "validation_failed"),
        ("GET", "/v1/jobs/x/events", {"Last-Event-ID": "9" * 20}, 422, "validation_failed"),
    ],
)
async def test_what_no_caller_sends_in_earnest_is_refused_and_is_no_failure_of_ours(
    shared: Api, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await shared.client.request(method, path, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("labels", [{"a": "b\0"}, {"1" * 5_000: "b"}])
async def test_labels_that_no_database_takes_are_refused(shared: Api, labels: dict[str, str]) -> None:
    answer = await shared.client.post("/v1/jobs", json=SHORT | {"labels": labels})

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize("host", ["a..example.com", "0177.0.0.1", "0x7f.1", "2130706433", f"{'a' * 64}.example.com"])
async def test_a_host_that_can_not_be_resolved_is_refused_wherever_it_is_named(shared: Api, host: str) -> None:
    as_source = await shared.client.post("/v1/jobs", json={"source": f"{host}:5000/app:1", "destination": TO})
    as_notify = await shared.client.post(
        "/v1/jobs", json=SHORT | {"notify": {"url": f"https://{host}/x", "subscription": "ci"}}
    )

    assert pointers(as_source) == {"/source": "invalid_host"}
    assert pointers(as_notify) == {"/notify/url": "invalid_url"}


@pytest.mark.parametrize("query", ["limit=1&limit=2", "q=a&state=failed&q=a", "cursor=&cursor="])
async def test_a_parameter_that_is_no_list_is_given_once(shared: Api, query: str) -> None:
    answer = await shared.client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert (error["parameter"], error["code"]) == (query.partition("=")[0], "repeated")


async def test_a_parameter_that_is_a_list_is_given_as_often_as_wanted(shared: Api) -> None:
    answer = await shared.client.get("/v1/jobs?state=failed&state=running&label=a:b&label=c:d")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("tags", [{"newest": 2, "min_matches": 2}, {"newest": 1, "always": ["x"], "min_matches": 2}])
async def test_as_many_tags_as_there_can_be_may_be_expected(shared: Api, tags: dict[str, Any]) -> None:
    rule = {"source": "a.example.com/x", "destination": "b.example.com/x", "tags": tags}
    answer = await shared.client.post("/v1/jobs", json=rule)
    assert answer.status_code == 202, answer.text
