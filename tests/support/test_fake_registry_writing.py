"""The fake registry's switches for uploads, for putting manifests and for pressure do what they say."""

from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from tests.support.clock import SettableClock
from tests.support.fake_registry import Quirks
from tests.support.images import OCI_MANIFEST, blob, docker_image, oci_image, oci_index
from tests.support.test_fake_registry import IMAGE, LAYER, registry_with
from tests.support.waiting import until

MANIFEST = "/v2/app/manifests/1.0"
UPLOADS = "/v2/app/blobs/uploads/"
NEW = blob("new", size=1000)


async def start(client: httpx.AsyncClient, target: str = UPLOADS) -> str:
    """Open a session; return its location, resolved."""
    answer = await client.post(target)
    assert answer.status_code == 202, answer.text
    return str(answer.url.join(answer.headers["Location"]))


def closing(location: str, digest: str = NEW.digest) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


async def put_manifest(client: httpx.AsyncClient, raw: bytes, *, tag: str = "2.0", **headers: str) -> httpx.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return await client.put(f"/v2/app/manifests/{tag}", content=raw, headers={"Content-Type": OCI_MANIFEST, **named})


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("relative", "/v2/app/"),
        ("absolute", "https://127.0.0.1"),
        ("scheme_less", "//127.0.0.1"),
        ("last_segment", "session-"),
        ("http_same_port", "http://127.0.0.1"),
        ("link_local", "http://169.254.169.254"),
    ],
)
async def test_locations_come_in_many_forms(form: Any, begins: str) -> None:
    async with registry_with(Quirks(location=form), tls=True) as (_, client):
        answer = await client.post(UPLOADS)
        assert answer.headers["Location"].startswith(begins)
        if form not in {"http_same_port", "link_local"}:
            location = answer.url.join(answer.headers["Location"])
            assert (await client.put(closing(str(location)), content=NEW.data)).status_code == 201


async def test_an_upload_may_go_on_at_another_host() -> None:
    async with registry_with(Quirks(location="stranger")) as (registry, client):
        location = await start(client)
        assert location.startswith(registry.urls["stranger"])
        await client.put(closing(location), content=NEW.data, headers={"Authorization": "Bearer x"})
        assert registry.content.blob("app", NEW.digest) == NEW.data
        assert [entry.kind for entry in registry.findings().leaks] == ["upload_close"]


async def test_the_query_of_a_location_has_to_come_back_letter_for_letter() -> None:
    async with registry_with(Quirks(signed_locations=True)) as (_, client):
        location = await start(client)
        assert (await client.patch(location.replace("%2f", "%2F"), content=b"x")).status_code == 403
        assert (await client.put(closing(location), content=NEW.data)).status_code == 201


async def test_each_answer_about_an_upload_may_have_a_new_state() -> None:
    async with registry_with(Quirks(uploads_with_state=True, signed_locations=True)) as (_, client):
        first = await start(client)
        second = first[: first.index("/v2")] + (await client.patch(first, content=NEW.data)).headers["Location"]
        assert (await client.patch(first, content=b"x")).status_code == 404
        assert (await client.put(closing(second))).status_code == 201


async def test_chunks_come_in_order_or_are_refused_with_what_is_there() -> None:
    async with registry_with(Quirks(chunk_min_bytes=100)) as (_, client):
        answer = await client.post(UPLOADS)
        assert answer.headers["OCI-Chunk-Min-Length"] == "100"
        location = answer.headers["Location"]
        first = await client.patch(location, content=NEW.data[:600], headers={"Content-Range": "0-599"})
        assert (first.status_code, first.headers["Range"]) == (202, "0-599")
        gap = await client.patch(location, content=b"x", headers={"Content-Range": "700-700"})
        assert (gap.status_code, gap.headers["Range"], gap.headers["Location"]) == (416, "0-599", location)
        await client.patch(location, content=NEW.data[600:], headers={"Content-Range": "600-999"})
        assert (await client.get(location)).headers["Range"] == "0-999"
        assert (await client.put(closing(location))).status_code == 201


@pytest.mark.parametrize(
    ("switch", "answered", "told"),
    [
        ({"chunk_range": "bytes"}, 202, "bytes=0-999"),
        ({"chunk_range": "missing"}, 202, None),
        ({"chunk_range": "wrong"}, 202, "0-0"),
        ({"chunk_status": 201}, 201, "0-999"),
        ({"chunk_refused": 405}, 405, None),
        ({"chunk_max_bytes": 999}, 416, None),
        ({"chunk_needs_range": True}, 400, None),
        ({"body_limit_bytes": 999}, 413, None),
        ({"sessions_live_requests": 0}, 404, None),
    ],
)
async def test_a_chunk_is_answered_so(switch: dict[str, Any], answered: int, told: str | None) -> None:
    async with registry_with(Quirks(**switch)) as (_, client):
        answer = await client.patch(await start(client), content=NEW.data)
        assert (answer.status_code, answer.headers.get("Range")) == (answered, told)


async def test_later_chunks_may_be_dropped_in_silence() -> None:
    async with registry_with(Quirks(later_chunks_dropped=True)) as (_, client):
        location = await start(client)
        ranges = [(await client.patch(location, content=bytes(100))).headers["Range"] for _ in range(3)]
        assert ranges == ["0-99"] * 3


async def test_a_whole_body_may_be_refused_where_chunks_are_not() -> None:
    async with registry_with(Quirks(monolithic_refused=413)) as (registry, client):
        location = await start(client)
        assert (await client.put(closing(location), content=NEW.data)).status_code == 413
        await client.patch(location, content=NEW.data[:500])
        assert (await client.put(closing(location), content=NEW.data[500:])).status_code == 201
        registry.check()


@pytest.mark.parametrize(
    ("left", "answered", "told"), [("kept", 204, "0-599"), ("lost", 204, "0-0"), ("killed", 404, None)]
)
async def test_a_body_may_be_cut_and_leaves_what_the_registry_keeps(left: Any, answered: int, told: str | None) -> None:
    async with registry_with(Quirks(upload_cut_after_bytes=600, cut_uploads=left)) as (registry, client):
        location = await start(client)
        with pytest.raises(httpx.TransportError):
            await client.put(closing(location), content=NEW.data)
        after = await client.get(location)
        assert (after.status_code, after.headers.get("Range")) == (answered, told)
        if left == "kept":
            assert (await client.put(closing(location), content=NEW.data[600:])).status_code == 201
            assert registry.journal.received_bytes("upload_close") == NEW.size


async def test_the_digest_is_checked_at_the_close() -> None:
    async with registry_with() as (registry, client):
        answer = await client.put(closing(await start(client)), content=b"else")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        registry.change(verifies_digest=False)
        assert (await client.put(closing(await start(client)), content=b"else")).status_code == 201


@pytest.mark.parametrize(
    ("switch", "query", "answered"),
    [
        ({}, f"mount={LAYER.digest}&from=app", 201),
        ({}, f"mount={LAYER.digest}&from=nowhere", 202),
        ({}, f"mount={LAYER.digest}", 202),
        ({"mount_anonymous": True}, f"mount={LAYER.digest}", 201),
        ({"mount_needs_from": True}, f"mount={LAYER.digest}", 400),
        ({"mount": "session"}, f"mount={LAYER.digest}&from=app", 202),
        ({"mount": "refused", "mount_refused_status": 500}, f"mount={LAYER.digest}&from=app", 500),
    ],
)
async def test_a_mount_is_answered_so(switch: dict[str, Any], query: str, answered: int) -> None:
    async with registry_with(Quirks(**switch)) as (registry, client):
        assert (await client.post(f"/v2/other/blobs/uploads/?{query}")).status_code == answered
        assert (registry.content.blob("other", LAYER.digest) is not None) is (answered == 201)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_body_that_comes_while_its_session_is_cancelled_has_none(method: str) -> None:
    async with registry_with() as (registry, client):
        location = await start(client)

        async def body() -> AsyncIterator[bytes]:
            yield NEW.data[:500]
            await until(lambda: any(session.data for session in registry.content.sessions.values()))
            assert (await client.delete(location)).status_code == 204
            yield NEW.data[500:]

        answer = await client.request(method, closing(location), content=body())
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
        assert registry.content.blob("app", NEW.digest) is None


async def test_cancelling_may_be_refused() -> None:
    async with registry_with(Quirks(cancel_status=401)) as (registry, client):
        location = await start(client)
        assert (await client.delete(location)).status_code == 401
        registry.change(cancel_status=204)
        assert (await client.delete(location)).status_code == 204
        assert (await client.get(location)).status_code == 404


@pytest.mark.parametrize(
    ("registry_name", "answered", "code"),
    [
        ("harbor", 412, "PRECONDITION"),
        ("quay", 409, "TAG_IMMUTABLE"),
        ("docker_hub", 403, "DENIED"),
        ("ecr", 400, "TAG_INVALID"),
        ("acr", 405, "DENIED"),
    ],
)
async def test_a_tag_that_may_not_move_is_refused_in_each_registrys_way(
    registry_name: Any, answered: int, code: str
) -> None:
    async with registry_with(Quirks(immutable_tags=registry_name)) as (registry, client):
        other = oci_image("other")
        registry.load("app", other)
        refused = await put_manifest(client, other.raw, tag="1.0")
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (answered, code)
        assert (await put_manifest(client, IMAGE.raw, tag="1.0")).status_code == 201
        registry.change(immutable_even_same=True)
        assert (await put_manifest(client, IMAGE.raw, tag="1.0")).status_code == answered


@pytest.mark.parametrize(
    ("switch", "answered"),
    [
        ({}, 201),
        ({"manifest_put_refused": 405}, 405),
        ({"max_manifest_bytes": 10}, 413),
        ({"refused_media_types": frozenset({LAYER.media_type})}, 400),
        ({"blobs_visible_after_puts": 1}, 400),
        ({"read_only": True}, 405),
        ({"manifest_put_status": 202}, 202),
        ({"accepts_everything": True}, 200),
    ],
)
async def test_a_manifest_is_taken_or_refused_so(switch: dict[str, Any], answered: int) -> None:
    async with registry_with(Quirks(**switch)) as (registry, client):
        assert (await put_manifest(client, IMAGE.raw)).status_code == answered
        assert ("2.0" in registry.content.tags("app")) is (answered in {201, 202})


async def test_a_manifest_has_to_be_what_its_content_type_says_and_complete() -> None:
    async with registry_with() as (registry, client):
        assert (await put_manifest(client, docker_image("old").raw)).status_code == 400
        missing = await put_manifest(client, oci_image("absent").raw)
        assert missing.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        sparse = oci_index([IMAGE, oci_image("absent")])
        assert (await put_manifest(client, sparse.raw, Content_Type=sparse.media_type)).status_code == 400
        registry.change(sparse_allowed=True)
        assert (await put_manifest(client, sparse.raw, Content_Type=sparse.media_type)).status_code == 201
        registry.check(sparse=True)
        with pytest.raises(AssertionError, match="too early"):
            registry.check()


async def test_a_tag_may_be_moved_only_if_it_is_where_the_client_saw_it() -> None:
    async with registry_with(Quirks(etags=True)) as (registry, client):
        seen = (await client.head(MANIFEST)).headers["ETag"]
        other = registry.load("app", oci_image("other"))
        registry.content.tag("app", "1.0", other)
        assert (await put_manifest(client, IMAGE.raw, tag="1.0", If_Match=seen)).status_code == 412
        assert (await put_manifest(client, IMAGE.raw, tag="1.0", If_Match=f'"{other}"')).status_code == 201


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_too_many_requests_are_refused_until_the_window_is_over(form: Any) -> None:
    clock = SettableClock()
    quirks = Quirks(limit_requests=2, limit_window_seconds=30, retry_after=form, retry_after_seconds=30)
    async with registry_with(quirks, clock=clock) as (registry, client):
        answers = [await client.get("/v2/") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        told = answers[2].headers["Retry-After"]
        waited = int(told) if form == "seconds" else (parsedate_to_datetime(told) - clock()).total_seconds()
        assert waited == 30
        clock.advance(30)
        assert (await client.get("/v2/")).status_code == 200
        assert registry.application.pressure.refused == 1


@pytest.mark.parametrize(
    ("form", "name", "values"),
    [
        ("docker_hub", "ratelimit-remaining", ["1;w=21600", "0;w=21600"]),
        ("x", "X-RateLimit-Remaining", ["1", "0"]),
        ("draft", "RateLimit-Remaining", ["1", "0"]),
        ("structured", "RateLimit", ['"default";r=1;t=21600', '"default";r=0;t=21600']),
    ],
)
async def test_the_remaining_budget_is_told_and_heads_are_free(form: Any, name: str, values: list[str]) -> None:
    quirks = Quirks(limit_requests=2, limit_counts="manifest_gets", limit_headers=form)
    async with registry_with(quirks, clock=SettableClock()) as (_, client):
        await client.head(MANIFEST)
        assert [(await client.get(MANIFEST)).headers[name] for _ in range(2)] == values
        assert (await client.get(MANIFEST)).status_code == 429
        assert (await client.head(MANIFEST)).status_code == 200


@pytest.mark.parametrize(("kind", "begins"), [("html", b"<!doctype"), ("empty", b""), ("text", b"went wrong")])
async def test_errors_may_carry_anything(kind: Any, begins: bytes) -> None:
    async with registry_with(Quirks(error_body=kind)) as (_, client):
        answer = await client.get("/v2/app/manifests/absent")
        assert answer.status_code == 404
        assert answer.content[: len(begins)] == begins
