"""A tag that is right says that an image is there, not that it is whole: what it lacks on purpose, what was lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from app.domain.manifest import Platform
from app.domain.plan import PlannedCopy
from app.domain.reference import Reference
from app.domain.report import CopyResult
from app.domain.request import PlatformMode
from app.store.db.database import Database
from app.sync.copier import REPAIRED, REWRITTEN
from app.sync.known_blobs import KnownBlobs
from app.worker.shared_state import SharedDestinationNotes
from tests.conftest import Namespace
from tests.support.fake_registry import FakeRegistry
from tests.support.images import (
    OCI_MANIFEST,
    artifact,
    digest_of,
    docker_image,
    fallback_tag,
    oci_image,
    oci_index,
)
from tests.sync.workbench import Workbench, workbench
from tests.sync.zoo import foreign_layer, index_of

AMD, ARM = oci_image("x", platform="linux/amd64"), oci_image("x", platform="linux/arm64")
INDEX = oci_index([AMD, ARM])


async def choose(
    bench: Workbench,
    here: FakeRegistry | Namespace,
    there: FakeRegistry | Namespace,
    *platforms: str,
    mode: PlatformMode,
) -> CopyResult:
    planned = PlannedCopy(
        Reference.parse(here.reference("app", "1")),
        (Reference.parse(there.reference("app", "1")),),
        tuple(Platform.parse(text) for text in platforms),
        mode,
    )
    [result] = await bench.copy_planned(planned)
    return result


def restart(bench: Workbench) -> None:
    """Forget all that a process knows by itself."""
    bench.known = KnownBlobs()


@asynccontextmanager
async def another_worker(bench: Workbench, database_url: str) -> AsyncIterator[None]:
    """Have the workbench know by itself nothing, and of destinations what stands in the database."""
    restart(bench)
    database = Database(database_url)
    bench.destination_notes = SharedDestinationNotes(database, clock=lambda: datetime.now(UTC)).notes
    yield
    await database.aclose()


async def test_children_that_were_left_out_are_filled_in_after_a_restart(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(sparse_allowed=True)
    here.load("app", INDEX, "1")
    await choose(bench, here, there, "linux/amd64", mode="sparse")
    restart(bench)
    whole = await choose(bench, here, there, mode="sparse")
    assert (whole.outcome, whole.error) == ("copied", None)
    assert ARM.digest in there.content.repository("app").manifests
    for _ in range(2):  # looked at once more, and then believed
        mark = there.journal.mark()
        assert (await choose(bench, here, there, mode="sparse")).outcome == "up_to_date"
    assert there.journal.count("manifest", since=mark) == 1


async def test_layers_that_were_left_out_are_filled_in(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    layer = foreign_layer()
    here.load("app", oci_index([docker_image("windows", layers=[layer])]), "1")
    here.content.put_blob("app", layer.data)
    there.change(blobs_checked=False)
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert there.content.blob("app", layer.digest) is None
    restart(bench)
    source, place = here.reference("app", "1"), there.reference("app", "1")
    [result] = await bench.copy(source, place, foreign_layers="copy")
    assert (result.outcome, result.reason, result.error) == ("copied", REPAIRED, None)
    assert there.content.blob("app", layer.digest) == layer.data
    mark = there.journal.mark()
    [again] = await bench.copy(source, place, foreign_layers="copy")
    assert (again.outcome, there.journal.count("blob", since=mark)) == ("up_to_date", 0)


async def test_what_is_lacking_on_purpose_is_known_to_every_worker(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, database_url: str
) -> None:
    """By the database alone: children and layers that were left out, referrers that are more than are copied."""
    there.change(sparse_allowed=True, blobs_checked=False)
    layer = foreign_layer()
    here.load("app", INDEX, "1")
    here.load("windows", docker_image("windows", layers=[layer]), "1")
    here.content.put_blob("windows", layer.data)
    here.load("signed", AMD, "1")
    windows, signed = ((here.reference(name, "1"), there.reference(name, "1")) for name in ("windows", "signed"))
    async with another_worker(bench, database_url):
        await choose(bench, here, there, "linux/amd64", mode="sparse")
        await bench.copy(*windows)
        await bench.copy(*signed)
    here.change(referrers="missing")
    names = [{"mediaType": OCI_MANIFEST, "digest": digest_of(str(one).encode()), "size": 1} for one in range(2_001)]
    page = index_of(names, [])
    here.content.put_manifest("signed", page.raw, page.media_type, tag=fallback_tag(AMD.digest))
    async with another_worker(bench, database_url):
        assert (await choose(bench, here, there, "linux/amd64", mode="sparse")).outcome == "up_to_date"
        assert (await choose(bench, here, there, mode="sparse")).outcome == "copied"
        [filled] = await bench.copy(*windows, foreign_layers="copy")
        assert (filled.outcome, filled.reason) == ("copied", REPAIRED)
        [left] = await bench.copy(*signed)
        assert (left.outcome, [one.code for one in left.warnings]) == ("up_to_date", ["companions_unreadable"])
    assert ARM.digest in there.content.repository("app").manifests
    assert there.content.blob("windows", layer.digest) == layer.data
    async with another_worker(bench, database_url):
        mark = there.journal.mark()
        assert (await choose(bench, here, there, mode="sparse")).outcome == "up_to_date"
        [again] = await bench.copy(*windows, foreign_layers="copy")
        assert (again.outcome, there.journal.count("blob", since=mark)) == ("up_to_date", 0)


async def test_what_a_destination_lost_is_healed_by_force(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    sbom = artifact("sbom", subject=INDEX)
    here.load("app", sbom)
    source, place = here.reference("app", "1"), there.reference("app", "1")
    await bench.copy(source, place)
    held = there.content.repository("app")
    lost, cut = ARM.blobs[1], AMD.blobs[1]
    del held.blobs[lost.digest], held.manifests[AMD.digest], held.manifests[sbom.digest]
    held.blobs[cut.digest] = cut.data[:-1]

    [believed] = await bench.copy(source, place, companions="never")
    [forced] = await bench.copy(source, place, force=True)
    [again] = await bench.copy(source, place, force=True)

    assert (believed.outcome, forced.outcome, forced.reason) == ("up_to_date", "copied", REPAIRED)
    assert (again.outcome, again.reason) == ("up_to_date", None)
    assert (held.blobs[lost.digest], held.blobs[cut.digest]) == (lost.data, cut.data)
    assert {AMD.digest, sbom.digest} < set(held.manifests)


async def test_a_repository_that_lost_a_layer_is_still_mounted_from(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", AMD, "1")
    places = [there.reference(name, "1") for name in ("one", "two")]
    await bench.copy(here.reference("app", "1"), places[0])
    lost, kept = AMD.blobs[:2]
    del there.content.repository("one").blobs[lost.digest]
    await bench.copy(here.reference("app", "1"), places[0], force=True)
    [result] = await bench.copy(here.reference("app", "1"), places[1])
    assert (result.tally.blobs_mounted, result.tally.bytes_transferred) == (len(AMD.blobs), 0)
    assert there.content.blob("two", kept.digest) == kept.data


async def test_all_that_belongs_to_an_image_that_is_repaired_counts(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", AMD, "1")
    referrers = [artifact(name, subject=AMD) for name in ("sbom", "signature")]
    for referrer in referrers:
        here.load("app", referrer)
    source, place = here.reference("app", "1"), there.reference("app", "1")
    await bench.copy(source, place)
    del there.content.repository("app").manifests[referrers[0].digest]
    [result] = await bench.copy(source, place, force=True)
    assert (result.reason, set(result.companions.first)) == (REPAIRED, {referrer.digest for referrer in referrers})


async def test_force_asks_for_each_blob_once(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", AMD, "1", "2")
    for tag in ("1", "2"):
        await bench.copy(here.reference("app", tag), there.reference("app", tag))
    mark = there.journal.mark()
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), force=True)
    assert result.outcome == "up_to_date"
    assert there.journal.count("blob", method="HEAD", since=mark) == len(AMD.blobs)
    assert there.journal.count("upload_start", since=mark) == 0


async def test_auto_leaves_the_index_as_it_is_where_that_is_taken(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(sparse_allowed=True)
    here.load("app", INDEX, "1")
    result = await choose(bench, here, there, "linux/amd64", mode="auto")
    assert (result.outcome, result.reason, result.destination_digest) == ("copied", None, INDEX.digest)


async def test_auto_makes_a_smaller_index_where_it_is_not_and_remembers(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    result = await choose(bench, here, there, "linux/amd64", mode="auto")
    assert (result.outcome, result.reason, result.error) == ("copied", REWRITTEN, None)
    assert result.destination_digest != INDEX.digest
    assert there.content.tags("app") == {"1": result.destination_digest}
    restart(bench)
    puts = there.journal.count("manifest", method="PUT", status=400)
    again = await choose(bench, here, there, "linux/amd64", mode="auto")
    changed = oci_index([AMD, ARM], annotations={"made": "anew"})
    here.load("app", changed, "1")
    moved = await choose(bench, here, there, "linux/amd64", mode="auto")
    assert (again.outcome, again.reason, moved.outcome, moved.reason) == ("up_to_date", REWRITTEN, "copied", REWRITTEN)
    assert there.journal.count("manifest", method="PUT", status=400) == puts


async def test_auto_copies_to_real_registries_that_refuse_sparse_indexes(
    source: Namespace, destination: Namespace
) -> None:
    source.push("app", INDEX, "1")
    async with workbench(source, destination) as bench:
        result = await choose(bench, source, destination, "linux/amd64", mode="auto")
    assert (result.outcome, result.reason, result.error) == ("copied", REWRITTEN, None)


async def test_each_destination_gets_the_index_it_takes(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", INDEX, "1")
    planned = PlannedCopy(
        Reference.parse(here.reference("app", "1")),
        (Reference.parse(there.reference("app", "1")), Reference.parse(here.reference("copy", "1"))),
        (Platform.parse("linux/amd64"),),
        "auto",
    )
    refusing, taking = await bench.copy_planned(planned)
    assert (refusing.outcome, taking.outcome) == ("copied", "copied")
    assert (refusing.reason, taking.reason) == (REWRITTEN, None)


@pytest.mark.parametrize("nested", [True, False])
async def test_single_makes_a_plain_image_with_what_hangs_on_it(
    bench: Workbench,
    here: FakeRegistry,
    there: FakeRegistry,
    *,
    nested: bool,
) -> None:
    index = oci_index([INDEX]) if nested else INDEX
    sbom = artifact("of arm", subject=ARM)
    here.load("app", index, "1")
    here.load("app", sbom)
    result = await choose(bench, here, there, "linux/arm64", mode="single")
    assert (result.outcome, result.digest, result.destination_digest) == ("copied", index.digest, ARM.digest)
    assert set(there.content.repository("app").manifests) == {ARM.digest, sbom.digest}
    late = artifact("later", subject=ARM)
    here.load("app", late)
    again = await choose(bench, here, there, "linux/arm64", mode="single")
    assert (again.outcome, late.digest in there.content.repository("app").manifests) == ("up_to_date", True)
    assert here.journal.count("manifest", method="GET", reference=AMD.digest) == 0
