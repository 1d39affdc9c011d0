"""The fake registry is a registry: it answers as the real one does, keeps a journal, fails on demand, and judges."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Unpack

import httpx
import pytest

from tests.conftest import Namespace
from tests.support.fake_registry import (
    DISTRIBUTION_2,
    Call,
    Cut,
    CutAnswer,
    CutBody,
    FakeRegistry,
    Quirks,
    Respond,
    TooMany,
    Unauthorized,
    fake_registry,
    fake_registry_thread,
    on,
)
from tests.support.fake_registry.server import Options
from tests.support.images import OCI_MANIFEST, artifact, blob, fallback_tag, oci_image, oci_index
from tests.support.plain_client import ACCEPT, PlainClient

IMAGE = oci_image("app")
LAYER = IMAGE.blobs[1]


def client_of(registry: FakeRegistry) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=registry.url, verify=registry.verify, trust_env=False, headers={"Accept": ACCEPT}, timeout=20
    )


@asynccontextmanager
async def registry_with(
    quirks: Quirks | None = None, **options: Unpack[Options]
) -> AsyncIterator[tuple[FakeRegistry, httpx.AsyncClient]]:
    """Run a registry that holds `app:1.0`, and a client of it."""
    async with (
        fake_registry(quirks, **options) as registry,
        client_of(registry) as client,
    ):
        registry.load("app", IMAGE, "1.0")
        yield registry, client


async def read_into(received: list[bytes], client: httpx.AsyncClient, path: str) -> None:
    """Read a body as far as it comes."""
    async with client.stream("GET", path) as answer:
        async for piece in answer.aiter_raw():
            received.append(piece)  # noqa: PERF401  # what came before the break is to be kept


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("auth", ["none", "basic", "token"])
def test_what_is_pushed_is_read_back_and_nothing_is_complained_of(auth: str, *, tls: bool) -> None:
    quirks = Quirks(auth=auth)  # type: ignore[arg-type]  # parametrize knows no literals
    with (
        fake_registry_thread(quirks, tls=tls) as registry,
        PlainClient(registry.url, account=("ann", "secret"), verify=registry.verify) as client,
    ):
        index = oci_index([oci_image("app", platform="linux/amd64"), oci_image("app", platform="linux/arm64")])
        client.push("team/app", index, tags=["1.0"])
        assert client.read("team/app").tags == {"1.0": index.digest}
        assert client.list_repositories() == ["team/app"]
        registry.check()


def test_no_switch_is_dead() -> None:
    package = Path(inspect.getfile(FakeRegistry)).parent
    code = "".join(path.read_text() for path in package.glob("*.py") if not path.name.startswith("quirks"))
    used = set(re.findall(r"quirks\.(\w+)", code))
    assert {field.name for field in fields(Quirks)} - used == set()


def test_it_answers_as_the_real_registry_does(source: Namespace) -> None:
    with fake_registry_thread(DISTRIBUTION_2) as fake:
        assert conversation(fake.url, "t/app") == conversation(source.registry.url, source.repository("app"))


def conversation(url: str, name: str) -> list[tuple[str, int, list[str]]]:
    """Ask a little of everything, right and wrong; return what was asked, the status and which headers came."""
    told: list[tuple[str, int, list[str]]] = []
    seen = {"docker-content-digest", "location", "range", "docker-upload-uuid", "content-type", "www-authenticate"}

    def ask(method: str, target: str, *, content: bytes | None = None, **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        with client.stream(method, target, content=content, headers=named) as answer:
            pass  # a status and headers are enough: Distribution breaks off in the middle of a 416
        present = sorted(seen.intersection(answer.headers)) if answer.is_success else []
        what = re.sub(r"uploads/.*", "uploads/…", target.removeprefix(url)).replace(name, "<name>")
        told.append((f"{method} {what}", answer.status_code, present))
        return answer

    def closing(location: str, digest: str) -> str:
        return f"{location}{'&' if '?' in location else '?'}digest={digest}"

    config, *layers = IMAGE.blobs
    with httpx.Client(base_url=url, trust_env=False, headers={"Accept": ACCEPT}) as client:
        ask("GET", "/v2/")
        ask("GET", f"/v2/{name}/tags/list")
        ask("HEAD", f"/v2/{name}/blobs/{LAYER.digest}")
        ask("HEAD", f"/v2/{name}/manifests/1.0")
        ask("PUT", f"/v2/{name}/manifests/1.0", content=IMAGE.raw, Content_Type=OCI_MANIFEST)
        location = ask("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
        ask("PUT", closing(location, LAYER.digest), content=b"something else")
        location = ask("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
        ask("DELETE", location)
        ask("GET", location)
        for part in (config, *layers):
            location = ask("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
            location = ask("PATCH", location, content=part.data[:100]).headers["Location"]
            location = ask("GET", location).headers["Location"]
            ask("PUT", closing(location, part.digest), content=part.data[100:])
        ask("HEAD", f"/v2/{name}/blobs/{LAYER.digest}")
        ask("GET", f"/v2/{name}/blobs/{LAYER.digest}", Range="bytes=10-19")
        ask("GET", f"/v2/{name}/blobs/{LAYER.digest}", Range="bytes=99999-")
        ask("POST", f"/v2/{name}2/blobs/uploads/?mount={LAYER.digest}&from={name}")
        ask("POST", f"/v2/{name}2/blobs/uploads/?mount={blob('absent').digest}&from={name}")
        ask("PUT", f"/v2/{name}/manifests/1.0", content=IMAGE.raw, Content_Type=OCI_MANIFEST)
        ask("PUT", f"/v2/{name}/manifests/{blob('other').digest}", content=IMAGE.raw, Content_Type=OCI_MANIFEST)
        ask("GET", f"/v2/{name}/manifests/1.0")
        ask("HEAD", f"/v2/{name}/manifests/{IMAGE.digest}")
        ask("GET", f"/v2/{name}/manifests/1.0", Accept="application/json")
        sparse = oci_index([IMAGE, oci_image("absent")])
        ask("PUT", f"/v2/{name}/manifests/sparse", content=sparse.raw, Content_Type=sparse.media_type)
        ask("GET", f"/v2/{name}/tags/list?n=1")
        ask("GET", f"/v2/{name}/referrers/{IMAGE.digest}")
        ask("DELETE", f"/v2/{name}/manifests/{IMAGE.digest}")
        ask("HEAD", f"/v2/{name}/manifests/1.0")
    return told


async def test_it_lists_referrers_and_acknowledges_subjects() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        registry.load("app", IMAGE, "1.0")
        referrer = artifact("sbom", artifact_type="application/spdx+json", subject=IMAGE, annotations={"a": "b"})
        for part in referrer.all_blobs().values():
            registry.content.put_blob("app", part.data)
        put = await client.put(
            f"/v2/app/manifests/{referrer.digest}", content=referrer.raw, headers={"Content-Type": OCI_MANIFEST}
        )
        assert put.headers["OCI-Subject"] == IMAGE.digest
        found = (await client.get(f"/v2/app/referrers/{IMAGE.digest}?artifactType=application/spdx%2Bjson")).json()
        assert [one["digest"] for one in found["manifests"]] == [referrer.digest]
        assert found["manifests"][0]["annotations"] == {"a": "b"}
        none = await client.get(f"/v2/app/referrers/{IMAGE.digest}?artifactType=x/y")
        assert none.json()["manifests"] == []
        assert none.headers["OCI-Filters-Applied"] == "artifactType"
        assert fallback_tag(IMAGE.digest) not in registry.content.tags("app")


async def test_the_journal_knows_what_was_asked_and_how_many_bytes_went_each_way() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        registry.load("team/app", IMAGE, "1.0")
        await client.head("/v2/team/app/manifests/1.0", headers={"Authorization": "Bearer x"})
        mark = registry.journal.mark()
        await client.get(f"/v2/team/app/blobs/{LAYER.digest}?a=%2fb")
        started = await client.post("/v2/team/app/blobs/uploads/")
        await client.patch(started.headers["Location"], content=b"12345")
        head, read, _, chunk = registry.journal
        assert (head.kind, head.repository, head.reference, head.status) == ("manifest", "team/app", "1.0", 200)
        assert head.authorization == "Bearer x"
        assert (read.query, read.sent_bytes) == ("a=%2fb", LAYER.size)
        assert (chunk.kind, chunk.received_bytes) == ("upload_chunk", 5)
        assert registry.journal.table(since=mark) == {"GET blob": 1, "POST upload_start": 1, "PATCH upload_chunk": 1}
        assert registry.journal.count("manifest", method="HEAD") == 1
        assert registry.journal.count(repository="team/app", since=mark) == 3
        assert registry.journal.received_bytes() == 5


async def test_the_journal_knows_how_many_requests_were_in_work_at_once() -> None:
    async with fake_registry(Quirks(latency_seconds=0.05)) as registry, client_of(registry) as client:
        await asyncio.gather(*(client.get("/v2/") for _ in range(4)))
        assert registry.journal.most_at_once == 4


async def test_exactly_the_chosen_request_fails() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        fault = registry.faults.add(Respond(503, (("Retry-After", "7"),)), number=2)
        answers = [await client.get("/v2/") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 503, 200]
        assert answers[1].headers["Retry-After"] == "7"
        assert [entry.faulty for entry in registry.journal] == [False, True, False]
        assert fault.met == 1


async def test_requests_that_match_fail_as_often_as_asked_and_others_do_not() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        registry.faults.add(TooMany("9"), matching=on("tags"), times=2)
        registry.content.put_manifest("app", IMAGE.raw, tag="1.0")
        statuses = [(await client.get(path)).status_code for path in ["/v2/", *["/v2/app/tags/list"] * 3]]
        assert statuses == [200, 429, 429, 200]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("after_work", [False, True])
async def test_a_cut_comes_before_or_after_the_work(*, after_work: bool, tls: bool) -> None:
    async with fake_registry(tls=tls) as registry, client_of(registry) as client:
        registry.load("app", IMAGE)
        registry.faults.add(Cut(), after_work=after_work)
        with pytest.raises(httpx.TransportError):
            await client.put("/v2/app/manifests/1.0", content=IMAGE.raw, headers={"Content-Type": OCI_MANIFEST})
        assert ("1.0" in registry.content.tags("app")) is after_work
        assert registry.journal.entries[0].cut
        assert registry.journal.entries[0].status is None


@pytest.mark.parametrize("tls", [False, True])
async def test_bodies_and_answers_are_cut_after_exactly_so_many_bytes(*, tls: bool) -> None:
    async with fake_registry(tls=tls) as registry, client_of(registry) as client:
        big = registry.content.put_blob("app", bytes(300_000))
        registry.faults.add(CutAnswer(100_001), matching=on("blob"))
        received: list[bytes] = []
        with pytest.raises(httpx.TransportError):
            await read_into(received, client, f"/v2/app/blobs/{big}")
        assert sum(map(len, received)) == 100_001
        location = (await client.post("/v2/app/blobs/uploads/")).headers["Location"]
        registry.faults.add(CutBody(150_001), matching=on("upload_chunk"))
        with pytest.raises(httpx.TransportError):
            await client.patch(location, content=bytes(300_000))
        assert (await client.get(location)).headers["Range"] == "0-150000"


async def test_a_fault_of_401_ends_the_tokens_and_challenges() -> None:
    async with fake_registry(Quirks(auth="token")) as registry, client_of(registry) as client:
        token = (await client.get(f"{registry.urls['auth']}/token?scope=repository:app:pull")).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/v2/", headers=headers)).status_code == 200
        registry.faults.add(Unauthorized())
        refused = await client.get("/v2/app/tags/list", headers=headers)
        assert refused.status_code == 401
        assert 'scope="repository:app:pull"' in refused.headers["WWW-Authenticate"]
        assert (await client.get("/v2/", headers=headers)).status_code == 401


async def test_something_else_may_happen_just_when_a_request_comes() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        registry.load("app", IMAGE, "1.0")
        other = registry.load("app", oci_image("other"))
        registry.faults.add(Call(lambda _: registry.content.tag("app", "1.0", other)), matching=on("manifest"))
        assert (await client.head("/v2/app/manifests/1.0")).headers["Docker-Content-Digest"] == other
        assert not registry.journal.entries[0].faulty


async def test_a_tag_put_too_early_is_a_finding() -> None:
    async with fake_registry(Quirks(blobs_checked=False)) as registry, client_of(registry) as client:
        await client.put("/v2/app/manifests/1.0", content=IMAGE.raw, headers={"Content-Type": OCI_MANIFEST})
        (violation,) = registry.findings().violations
        assert violation.tag == "1.0"
        assert set(violation.missing_blobs) == set(IMAGE.all_blobs())
        with pytest.raises(AssertionError, match="tags put too early"):
            registry.check()


async def test_an_upload_left_open_is_a_finding() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        location = (await client.post("/v2/app/blobs/uploads/")).headers["Location"]
        with pytest.raises(AssertionError, match="uploads left open"):
            registry.check()
        registry.check(open_sessions=True)
        await client.delete(location)
        registry.check()


async def test_a_credential_that_reached_a_foreign_server_is_a_finding() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        form = {"grant_type": "password", "username": "ann", "password": "secret"}
        await client.post(f"{registry.urls['stranger']}/token", data=form)
        await client.get(f"{registry.urls['storage']}/storage/x", headers={"Authorization": registry.basic()})
        assert [entry.secrets for entry in registry.findings().leaks] == [("password",), ("authorization",)]
        with pytest.raises(AssertionError, match="credentials leaked"):
            registry.check()


async def test_it_comes_back_on_its_ports_with_its_content() -> None:
    async with fake_registry() as registry, client_of(registry) as client:
        registry.load("app", IMAGE, "1.0")
        await registry.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get("/v2/")
        await registry.start()
        assert (await client.head("/v2/app/manifests/1.0")).status_code == 200
