"""Every single request of a copy fails once, in every way: the copy still ends right, and nothing wrong is tagged."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.domain.reference import Digest, Repository
from app.sync.known_blobs import KnownBlobs
from tests.support.fake_registry import (
    Call,
    Cut,
    CutAnswer,
    CutBody,
    Entry,
    FakeRegistry,
    Quirks,
    Respond,
    TooMany,
    Unauthorized,
    fake_registry,
)
from tests.support.images import (
    artifact,
    blob,
    cosign_signature,
    cosign_tag,
    fallback_index,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, workbench

LARGE = blob("large", size=200_000)
IMAGE = oci_image("amd", layers=[LARGE, blob("small")])
INDEX = oci_index([IMAGE, oci_image("arm", platform="linux/arm64", layers=[LARGE])])
SBOM = artifact("sbom", subject=INDEX)
SIGNATURE = cosign_signature(INDEX)
EVERYTHING = {INDEX.digest, *(child.digest for child in INDEX.children), SBOM.digest, SIGNATURE.digest}


@dataclass(frozen=True)
class Way:
    """A way for a request to fail."""

    deed: Any
    after_work: bool = False


WAYS = {
    "503": Way(Respond(503)),
    "503 after the work was done": Way(Respond(503), after_work=True),
    "500": Way(Respond(500)),
    "cut": Way(Cut()),
    "cut after the work was done": Way(Cut(), after_work=True),
    "cut in the middle of what is sent": Way(CutBody(70_000)),
    "cut in the middle of the answer": Way(CutAnswer(70_000)),
    "401": Way(Unauthorized()),
    "429": Way(TooMany("0")),
}


@pytest.fixture
async def here() -> AsyncIterator[FakeRegistry]:
    async with fake_registry(Quirks(auth="token")) as registry:
        yield registry


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    async with fake_registry(Quirks(auth="token")) as registry:
        yield registry


@pytest.fixture
async def bench(here: FakeRegistry, there: FakeRegistry) -> AsyncIterator[Workbench]:
    async with workbench(here, there, accounts=True) as bench:
        yield bench


def fill(here: FakeRegistry) -> None:
    here.load("app", INDEX, "1")
    here.load("app", SBOM)
    here.load("app", SIGNATURE, cosign_tag(INDEX.digest))
    if here.quirks.referrers == "missing":
        here.load("app", fallback_index([SBOM]), fallback_tag(INDEX.digest))


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("way", WAYS)
async def test_any_one_request_may_fail(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, side: str, way: str
) -> None:
    await fail_each_once(bench, here, there, side=side, way=WAYS[way])


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_any_one_request_may_fail_where_referrers_lie_under_tags(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, side: str
) -> None:
    for registry in (here, there):
        registry.change(referrers="missing")
    await fail_each_once(bench, here, there, side=side, way=WAYS["cut after the work was done"])


async def fail_each_once(bench: Workbench, here: FakeRegistry, there: FakeRegistry, *, side: str, way: Way) -> None:
    """Copy as often as the copy has requests, and fail another one each time."""
    fill(here)
    failing = here if side == "source" else there
    number, met = 0, True
    while met:
        number += 1
        there.content.repositories.clear()
        bench.known = KnownBlobs()
        failing.faults.clear()
        fault = failing.faults.add(way.deed, number=number, after_work=way.after_work)
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
        met = bool(fault.met)
        where = f"request {number}: {failing.journal.entries[-1]}"
        assert (result.outcome, result.error) == ("copied", None), where
        held = there.content.repository("app")
        assert set(held.manifests) >= EVERYTHING, where
        assert held.blobs.keys() == here.content.repository("app").blobs.keys(), where
        wanted = here.content.tags("app")
        assert held.tags == wanted, where
        # Where the answer to a POST got lost nobody knows the session but the registry.
        there.check(open_sessions=any(entry.faulty for entry in there.journal.find("upload_start")))
        there.content.sessions.clear()
        here.check()
        for registry in (here, there):
            registry.journal.clear()
    assert number > 10


@pytest.mark.parametrize(
    ("side", "mount"), [("source", "created"), ("destination", "created"), ("destination", "session")]
)
async def test_a_copy_may_be_cancelled_at_any_request(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, side: str, mount: str
) -> None:
    fill(here)
    there.change(mount=mount)
    elsewhere = Repository.parse(f"{there.host}/elsewhere")
    asked = here if side == "source" else there
    number, was_cancelled = 0, True
    while was_cancelled:
        number += 1
        there.content.repositories.clear()
        bench.known = KnownBlobs()
        bench.known.add(elsewhere, Digest(LARGE.digest))
        task = asyncio.create_task(bench.copy(here.reference("app", "1"), there.reference("app", "1")))

        async def cancel(_: Entry, task: asyncio.Task[Any] = task) -> None:
            task.cancel()
            await asyncio.sleep(0)

        asked.faults.clear()
        fault = asked.faults.add(Call(cancel), number=number)
        try:
            [result] = await task
        except asyncio.CancelledError:
            assert "1" not in there.content.tags("app") or there.content.digest("app", "1") == INDEX.digest
        else:
            assert (result.outcome, result.error) == ("copied", None)
        was_cancelled = bool(fault.met)
        there.check()
    assert number > 10


async def test_any_one_request_may_fail_while_a_registry_is_listed(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.change(page_cap=2)
    for name in ("a", "b", "c/d"):
        here.load(name, IMAGE, "1", "2", "3")
    rule: dict[str, object] = {"source": f"{here.host}/**", "destination": there.host}
    whole = await bench.plan(rule)
    for way in WAYS.values():
        for number in range(1, len(here.journal) + 1):
            here.faults.clear()
            here.faults.add(way.deed, number=number, after_work=way.after_work)
            assert await bench.plan(rule) == whole
        here.journal.clear()
        await bench.plan(rule)
