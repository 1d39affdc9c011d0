"""The fake registry's switches for lists, manifests and blobs do what they say."""

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.support.fake_registry import Quirks
from tests.support.images import artifact, digest_of, fallback_tag
from tests.support.test_fake_registry import IMAGE, LAYER, registry_with

MANIFEST = "/v2/app/manifests/1.0"
BLOB = f"/v2/app/blobs/{LAYER.digest}"


async def walk(client: httpx.AsyncClient, path: str, *, pages: int = 10) -> list[list[str]]:
    """Follow `Link` as far as told."""
    found: list[list[str]] = []
    following: httpx.URL | None = client.base_url.join(path)
    while following is not None and len(found) < pages:
        answer = await client.get(following)
        body = answer.json()
        found.append(body.get("tags", body.get("repositories")))
        link = answer.links.get("next")
        following = following.join(link["url"]) if link else None
    return found


@pytest.mark.parametrize("link", ["relative", "absolute", "query_only", "other_host", "unquoted"])
@pytest.mark.parametrize("opaque", [False, True])
async def test_tags_come_in_pages_that_link_to_the_next(link: Any, *, opaque: bool) -> None:
    async with registry_with(Quirks(page_cap=2, link=link, link_tokens_opaque=opaque)) as (registry, client):
        registry.content.repository("app").tags = dict.fromkeys("abcde", IMAGE.digest)
        assert await walk(client, "/v2/app/tags/list?n=100") == [["a", "b"], ["c", "d"], ["e"]]
        assert ("stranger" in {entry.origin for entry in registry.journal}) is (link == "other_host")


async def test_tags_may_be_odd() -> None:
    async with registry_with(Quirks(extra_tags=(None, LAYER.digest), tags_unsorted=True)) as (registry, client):
        assert (await walk(client, "/v2/app/tags/list")) == [[None, "1.0", LAYER.digest]]
        registry.change(extra_tags=(), tags_null=True, n_limit=1000)
        registry.content.repository("empty")
        assert (await walk(client, "/v2/empty/tags/list")) == [None]
        assert (await client.get("/v2/app/tags/list?n=1001")).status_code == 400
        registry.change(tags_null=False)
        assert (await client.get("/v2/empty/tags/list")).status_code == 404


@pytest.mark.parametrize("switch", [{"endless": True}, {"link": "to_itself", "page_cap": 1}])
async def test_lists_may_never_end(switch: dict[str, Any]) -> None:
    async with registry_with(Quirks(**switch)) as (registry, client):
        registry.content.tag("app", "2.0", IMAGE.digest)
        assert len(await walk(client, "/v2/app/tags/list", pages=30)) == 30


async def test_the_catalog_may_be_paged_or_refused() -> None:
    async with registry_with(Quirks(page_cap=1)) as (registry, client):
        registry.load("lib", IMAGE)
        assert await walk(client, "/v2/_catalog") == [["app"], ["lib"]]
        registry.change(catalog_status=403)
        assert (await client.get("/v2/_catalog")).status_code == 403


async def test_the_referrers_api_may_be_missing_or_something_else() -> None:
    async with registry_with() as (registry, client):
        registry.load("app", artifact("sbom", subject=IMAGE))
        path = f"/v2/app/referrers/{IMAGE.digest}"
        assert len((await client.get(path)).json()["manifests"]) == 1
        registry.change(referrers_filter=False)
        assert len((await client.get(f"{path}?artifactType=x")).json()["manifests"]) == 1
        kinds = {}
        for kind in ("missing", "html", "json_error", "manifest"):
            registry.change(referrers=kind)
            answer = await client.get(path)
            kinds[kind] = (answer.status_code, answer.headers["Content-Type"].partition(";")[0])
        assert kinds["missing"] == (404, "text/plain")
        assert kinds["html"] == (200, "text/html")
        assert kinds["json_error"] == (200, "application/json")
        assert kinds["manifest"] == (200, IMAGE.media_type)


async def test_a_fallback_tag_may_answer_with_the_image_itself() -> None:
    async with registry_with() as (registry, client):
        path = f"/v2/app/manifests/{fallback_tag(IMAGE.digest)}"
        assert (await client.get(path)).status_code == 404
        registry.change(fallback_tag_is_image=True)
        assert (await client.get(path)).content == IMAGE.raw


async def test_head_of_a_manifest_may_be_refused_or_bare() -> None:
    async with registry_with() as (registry, client):
        full = await client.head(MANIFEST)
        assert full.headers["Docker-Content-Digest"] == IMAGE.digest
        assert int(full.headers["Content-Length"]) == IMAGE.size
        registry.change(head_manifest_without_digest=True, head_manifest_without_length=True)
        bare = await client.head(MANIFEST)
        assert {"docker-content-digest", "content-length"}.isdisjoint(bare.headers)
        registry.change(head_manifest_status=405)
        assert (await client.head(MANIFEST)).status_code == 405
        assert (await client.get(MANIFEST)).headers["Docker-Content-Digest"] == IMAGE.digest


async def test_a_manifest_may_be_another_too_big_or_of_no_honest_type() -> None:
    async with registry_with(Quirks(manifest_bytes_other=True)) as (registry, client):
        assert digest_of((await client.get(f"/v2/app/manifests/{IMAGE.digest}")).content) != IMAGE.digest
        registry.change(manifest_bytes_other=False, manifest_digest_header="wrong", manifest_content_type="text/plain")
        odd = await client.get(MANIFEST)
        assert odd.content == IMAGE.raw
        assert odd.headers["Docker-Content-Digest"] != IMAGE.digest
        assert odd.headers["Content-Type"] == "text/plain"
        registry.change(manifest_padded_to_bytes=5_000_000)
        huge = await client.get(MANIFEST)
        assert len(huge.content) == 5_000_000
        assert "content-length" not in huge.headers


async def test_what_is_missing_may_be_forbidden() -> None:
    async with registry_with(Quirks(missing_manifest_status=403)) as (_, client):
        answer = await client.get("/v2/app/manifests/absent")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "DENIED")


@pytest.mark.parametrize(
    ("kind", "expected"), [("flipped", LAYER.size), ("short", LAYER.size - 1), ("long", LAYER.size + 1)]
)
async def test_blobs_may_be_wrong_for_a_while(kind: Any, expected: int) -> None:
    quirks = Quirks(blob_bytes=kind, blob_bytes_wrong_times=1, only_blobs=frozenset({LAYER.digest}))
    async with registry_with(quirks) as (_, client):
        wrong = (await client.get(BLOB)).content
        assert len(wrong) == expected
        assert digest_of(wrong) != LAYER.digest
        assert (await client.get(BLOB)).content == LAYER.data
        assert (await client.get(f"/v2/app/blobs/{IMAGE.blobs[2].digest}")).content == IMAGE.blobs[2].data


async def test_blobs_may_be_cut_once_or_always() -> None:
    async with registry_with(Quirks(blob_cut_after_bytes=100)) as (registry, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(BLOB)
        assert (await client.get(BLOB)).content == LAYER.data
        registry.change(blob_cut_times=None)
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(BLOB, headers={"Range": "bytes=100-"})
        assert [entry.sent_bytes for entry in registry.journal] == [100, LAYER.size, 100, 100]


async def test_blobs_may_stand_still_in_the_middle() -> None:
    async with registry_with(Quirks(blob_stall_after_bytes=100)) as (registry, client):
        with pytest.raises(httpx.ReadTimeout):
            await client.get(BLOB, timeout=0.2)
        (entry,) = registry.journal
        assert entry.sent_bytes == 100


@pytest.mark.parametrize(
    ("ranges", "answered", "told", "begin"),
    [
        ("honoured", 206, "bytes 10-2047/2048", 10),
        ("ignored", 200, None, 0),
        ("wrong_start", 206, "bytes 9-2047/2048", 9),
        ("wrong_header", 206, "bytes 17-2047/2048", 10),
        ("no_header", 206, None, 10),
        ("refused", 416, "bytes */2048", LAYER.size),
    ],
)
async def test_ranges_are_treated_so(ranges: Any, answered: int, told: str | None, begin: int) -> None:
    async with registry_with(Quirks(ranges=ranges)) as (_, client):
        answer = await client.get(BLOB, headers={"Range": "bytes=10-"})
        assert (answer.status_code, answer.headers.get("Content-Range")) == (answered, told)
        assert answer.content == LAYER.data[begin:]


async def test_blobs_may_be_compressed_in_transfer_or_have_no_length() -> None:
    async with registry_with(Quirks(blob_gzip=True)) as (registry, client):
        async with client.stream("GET", BLOB) as answer:
            raw = b"".join([piece async for piece in answer.aiter_raw()])
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(raw) == LAYER.data
        registry.change(blob_gzip=False, blob_without_length=True)
        assert "content-length" not in (await client.head(BLOB)).headers
        assert (await client.get(BLOB)).content == LAYER.data


async def test_blobs_may_lie_in_a_storage_that_wants_no_authorization_and_whose_urls_expire() -> None:
    async with registry_with(Quirks(blob_redirect="storage", storage_url_uses=1)) as (registry, client):
        location = (await client.get(BLOB)).headers["Location"]
        assert location.startswith(registry.urls["storage"])
        refused = await client.get(location, headers={"Authorization": "Bearer x"})
        assert refused.status_code == 400
        assert "Only one auth mechanism allowed" in refused.text
        assert (await client.get(location)).content == LAYER.data
        assert (await client.get(location)).status_code == 403
        assert (await client.get(location.replace("%2f", "%2F"))).status_code == 403
        assert len(registry.journal.leaks()) == 1


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("same_host", "/storage/"),
        ("relative", "/storage/"),
        ("stranger", "/storage/"),
        ("loop", "again=1"),
        ("plain_http", "http://"),
        ("link_local", "http://169.254.169.254/"),
    ],
)
async def test_blobs_may_be_redirected_elsewhere(to: Any, words: str) -> None:
    async with registry_with(Quirks(blob_redirect=to), tls=True) as (_, client):
        answer = await client.get(BLOB)
        assert answer.status_code == 307
        assert words in answer.headers["Location"]


async def test_lists_and_manifests_may_be_bombs() -> None:
    async with registry_with(Quirks(lists_padded_to_bytes=1_000_000, lists_gzip=True)) as (registry, client):
        answer = await client.get("/v2/app/tags/list")
        assert len(answer.content) == 1_000_000
        assert registry.journal.entries[-1].sent_bytes < 5_000
        assert json.loads(answer.content)["tags"] == ["1.0"]
