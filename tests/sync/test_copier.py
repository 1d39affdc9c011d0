"""One planned copy: compared, brought, tagged; what goes wrong is a result."""

from dataclasses import replace
from urllib.parse import parse_qs

import pytest

from app.domain.reference import Reference, Registry
from app.domain.registry import RegistryEntry
from app.registry.limits import REQUEST_RETRIES, ClientSettings
from app.sync.blobs import BLOBS_AT_ONCE
from app.sync.rewrite import MAX_DEPTH
from tests.support.fake_registry import (
    Call,
    CutAnswer,
    Entry,
    FakeRegistry,
    Quirks,
    Respond,
    TooMany,
    fake_registry,
    on,
)
from tests.support.images import blob, docker_image, oci_image, oci_index
from tests.sync.workbench import QUICK, REQUEST_QUICK, UNKNOWN_PART, Workbench, asked, workbench
from tests.sync.zoo import foreign_layer, sha512, sha512_image

IMAGE = oci_image("one", layers=[blob("a", size=5_000), blob("b", size=3_000)])
OTHER = oci_image("other")


async def test_an_unchanged_tag_costs_one_head_on_each_side_and_no_get(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", oci_index([IMAGE, OTHER]), "1")
    there.load("mirror", oci_index([IMAGE, OTHER]), "1")

    source, place = here.reference("app", "1"), there.reference("mirror", "1")
    [result] = await bench.copy(source, place, companions="on_change")

    assert (result.outcome, result.reason) == ("up_to_date", None)
    assert result.digest == result.destination_digest == result.previous_digest
    assert asked(here) == asked(there) == {"HEAD manifest": 1}


async def test_a_copied_image_is_told_whole(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    index = oci_index([IMAGE, oci_image("two", platform="linux/arm64/v8")])
    here.load("app", index, "1")
    there.load("mirror", OTHER, "1")

    [result] = await bench.copy(here.reference("app", "1"), there.reference("mirror", "1"))

    assert (result.outcome, result.error, result.attempts) == ("copied", None, 1)
    assert (result.digest, result.destination_digest) == (index.digest, index.digest)
    assert result.previous_digest == OTHER.digest
    assert result.media_type == index.media_type
    assert result.platforms == ("linux/amd64", "linux/arm64/v8")
    sizes = sum(part.size for part in index.all_blobs().values())
    tally = result.tally
    assert (tally.blobs_transferred, tally.blobs_present, tally.blobs_mounted) == (6, 0, 0)
    assert tally.bytes_total == tally.bytes_done == tally.bytes_transferred == sizes
    assert there.content.tags("mirror") == {"1": index.digest}


async def test_counts_only_grow_while_it_is_copied(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(503), matching=on("upload_close"), times=3)
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert {str(place) for place, _ in bench.tallies} == {there.reference("app", "1")}
    for (_, before), (_, after) in zip(bench.tallies, bench.tallies[1:], strict=False):
        assert all(getattr(after, name) >= getattr(before, name) for name in after.__struct_fields__)


async def test_the_largest_blobs_are_sent_first(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    layers = [blob(f"layer {number}", size=1_000 * (number + 1)) for number in range(2 * BLOBS_AT_ONCE)]
    here.load("app", oci_image("of layers that grow", layers=layers), "1")
    bench.known.note_answers_by_mount(Registry(there.host), does=True)  # so that a request says which blob it begins

    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))

    assert result.outcome == "copied"
    first = there.journal.find("upload_start")[:BLOBS_AT_ONCE]
    assert {parse_qs(entry.query)["mount"][0] for entry in first} == {layer.digest for layer in layers[-BLOBS_AT_ONCE:]}


@pytest.mark.parametrize(
    ("overwrite", "outcome", "reason", "tagged"),
    [
        ("always", "copied", None, IMAGE.digest),
        ("never", "up_to_date", "exists_different_digest", OTHER.digest),
        ("fail", "failed", "tag_immutable", OTHER.digest),
    ],
)
async def test_a_tag_that_points_elsewhere_is_dealt_with_as_asked(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, overwrite: str, outcome: str, reason: str, tagged: str
) -> None:
    here.load("app", IMAGE, "1")
    there.load("app", OTHER, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), overwrite=overwrite)
    assert (result.outcome, result.reason) == (outcome, reason)
    assert (result.digest, result.previous_digest) == (IMAGE.digest, OTHER.digest)
    assert there.content.tags("app") == {"1": tagged}
    if outcome == "failed":
        assert result.error is not None
        assert (result.error.code, result.error.side) == ("tag_immutable", "destination")


async def test_a_source_that_is_not_there_fails_every_destination(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    results = await bench.copy(here.reference("app", "2"), there.reference("a", "2"), there.reference("b", "2"))
    for result in results:
        assert result.outcome == "failed"
        assert result.error is not None
        assert (result.error.code, result.error.side, result.error.status) == ("reference_not_found", "source", 404)
        assert result.error.message.endswith("has no 2 in app")
        assert result.attempts == 1


async def test_schema_1_is_refused_by_name(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    raw = b'{"schemaVersion": 1, "name": "app", "tag": "1"}'
    here.content.put_manifest("app", raw, "application/vnd.docker.distribution.manifest.v1+json", tag="1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("manifest_invalid", "source")
    assert "schema 1" in result.error.message
    assert here.journal.count("manifest", method="GET") == 0


async def test_a_digest_is_copied_without_a_tag_and_under_one(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE)
    source = here.reference("app", IMAGE.digest)
    [plain] = await bench.copy(source, there.reference("plain", IMAGE.digest))
    [pinned] = await bench.copy(source, there.reference("pinned", "stable"))
    assert (plain.outcome, pinned.outcome) == ("copied", "copied")
    assert there.content.digest("plain", IMAGE.digest) == IMAGE.digest
    assert there.content.tags("plain") == {}
    assert there.content.tags("pinned") == {"stable": IMAGE.digest}


async def test_blobs_may_go_by_sha512(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    image = sha512_image()
    for data in (blob("config in sha512").data, blob("layer in sha512").data):
        here.content.put_blob("app", data, digest=sha512(data))
    here.load("app", image, "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.error) == ("copied", None)
    assert there.content.tags("app") == {"1": image.digest}


async def test_what_the_road_has_given_up_on_is_for_a_later_attempt(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(502), matching=on("manifest", method="PUT"), times=5)  # as often as the road tries
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.attempts, result.retry_later) == ("failed", 1, True)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.retry_later) == ("copied", False)
    assert there.journal.count("manifest", method="PUT") == 6


async def test_a_registry_that_never_answered_is_not_waited_for(there: FakeRegistry) -> None:
    road = ClientSettings(retry_policy=replace(REQUEST_QUICK, attempts=2))
    nobody = RegistryEntry(name="nobody", host="127.0.0.1:1", insecure=True)
    async with workbench(there, settings=road, entries=[nobody]) as bench:
        [result] = await bench.copy("127.0.0.1:1/app:1", there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.attempts, result.retry_later) == ("registry_unreachable", 1, False)


async def test_what_is_temporary_is_tried_again_and_the_attempts_are_told(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    there.faults.add(Respond(400, body=UNKNOWN_PART), matching=on("manifest", method="PUT"))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.attempts, result.error) == ("copied", 2, None)
    assert result.tally.blobs_transferred == 3


async def test_a_long_pause_is_waited_for_and_no_failure(here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    here.faults.add(TooMany("1"), matching=on("manifest", method="HEAD"))
    road = ClientSettings(retry_policy=replace(REQUEST_RETRIES, max_pause=0.01), rate_limit_attempts=1)
    async with workbench(here, there, settings=road) as bench:
        bench.retry_policy = replace(QUICK, attempts=1)
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.attempts) == ("copied", 2)


async def test_a_registry_that_always_wants_a_pause_is_left_alone_and_the_copy_made_later(
    here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.faults.add(TooMany("1"), matching=on("manifest", method="HEAD"), times=None)
    road = ClientSettings(retry_policy=replace(REQUEST_RETRIES, max_pause=0.01), rate_limit_attempts=1)
    async with workbench(here, there, settings=road) as bench:
        bench.retry_policy = replace(QUICK, max_pause=0.5)
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.temporary) == ("rate_limited", True)
    assert result.retry_after is not None
    assert 0 < result.retry_after <= 1


async def test_rate_limits_without_a_word_of_when_are_not_tried_for_ever(
    here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")
    here.faults.add(TooMany("0"), matching=on("manifest", method="HEAD"), times=None)
    road = ClientSettings(retry_policy=replace(REQUEST_RETRIES, max_pause=0.01), rate_limit_attempts=1)
    async with workbench(here, there, settings=road) as bench:
        [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.attempts) == ("rate_limited", 1)
    assert here.journal.count("manifest", status=429) == road.retry_policy.attempts


@pytest.mark.parametrize(("wish", "there_after"), [("skip", False), ("copy", True)])
async def test_foreign_layers_are_left_where_they_are_unless_asked_for(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, wish: str, *, there_after: bool
) -> None:
    image = docker_image("windows", layers=[foreign_layer(), blob("own")])
    here.load("app", image, "1")
    here.content.put_blob("app", foreign_layer().data)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), foreign_layers=wish)
    assert (result.outcome, result.error) == ("copied", None)
    assert (there.content.blob("app", foreign_layer().digest) is not None) is there_after
    assert here.journal.count("blob", reference=foreign_layer().digest) == int(there_after)


async def test_a_foreign_layer_that_is_asked_for_and_not_there_fails_the_image(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", docker_image("windows", layers=[foreign_layer()]), "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), foreign_layers="copy")
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("reference_not_found", "source")
    assert there.content.tags("app") == {}


async def test_a_foreign_layer_comes_from_its_urls_anonymously_and_goes_on_where_it_broke(there: FakeRegistry) -> None:
    layer = foreign_layer()
    async with fake_registry(Quirks(auth="basic")) as here, fake_registry() as elsewhere:
        elsewhere.content.put_blob("layers", layer.data)
        elsewhere.faults.add(CutAnswer(len(layer.data) // 2), matching=on("blob", repository="layers"))
        places = (f"{elsewhere.url}/v2/{name}/blobs/{layer.digest}" for name in ("none", "layers"))
        urls = ("ftp://example.com/x", *places)
        here.load("app", docker_image("windows", layers=[replace(layer, urls=urls)]), "1")
        async with workbench(here, there, elsewhere, accounts=True) as bench:
            [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), foreign_layers="copy")
        assert (result.outcome, result.error) == ("copied", None)
        assert there.content.blob("app", layer.digest) == layer.data
        assert {entry.authorization for entry in elsewhere.journal} == {None}
        assert len(elsewhere.journal.find("blob", status=206)) == 1
        here.check()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("file:///etc/passwd", "no URL of http"),
        ("http://127.0.0.1:1/x", "no connection"),
    ],
)
async def test_a_foreign_layer_that_no_url_has_fails_the_image_and_says_what_each_said(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, url: str, words: str
) -> None:
    here.load("app", docker_image("windows", layers=[replace(foreign_layer(), urls=(url,))]), "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"), foreign_layers="copy")
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("reference_not_found", "source")
    assert words in result.error.message


async def test_an_index_that_is_there_without_its_children_gets_them(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(sparse_allowed=True)
    inner = oci_index([IMAGE])
    here.load("app", oci_index([inner]), "1")
    there.content.put_manifest("app", inner.raw, inner.media_type)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"
    assert there.content.digest("app", IMAGE.digest) == IMAGE.digest


async def test_indexes_nested_without_end_are_refused(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    nested = oci_index([IMAGE])
    for _ in range(MAX_DEPTH):
        nested = oci_index([nested])
    here.load("app", nested, "1")
    here.load("app", oci_index([nested]), "2")
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("limit_exceeded", "source")


async def test_manifests_that_would_fill_the_memory_are_refused(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    fat = [oci_image(f"fat {number}", annotations={"a": "x" * 4_000_000}) for number in range(17)]
    here.load("app", oci_index(fat), "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("limit_exceeded", "source")
    assert there.content.tags("app") == {}


async def test_what_is_permanent_is_not_tried_again(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    there.change(manifest_put_refused=403)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.attempts) == ("failed", 1)
    assert result.error is not None
    assert (result.error.code, result.error.side, result.error.temporary) == ("denied", "destination", False)
    assert there.journal.count("manifest", method="PUT") == 1


async def test_a_tag_that_moves_while_it_is_copied_comes_as_it_was(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", IMAGE, "1")

    def move(_: Entry) -> None:
        here.load("app", OTHER, "1")

    here.faults.add(Call(move), matching=on("manifest", method="GET"))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.digest) == ("copied", IMAGE.digest)
    assert there.content.tags("app") == {"1": IMAGE.digest}


async def test_a_wrong_manifest_is_never_tagged(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", IMAGE, "1")
    here.change(manifest_bytes_other=True)
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.error is not None
    assert (result.error.code, result.error.side) == ("digest_mismatch", "source")
    assert there.content.tags("app") == {}
    assert Reference.parse(there.reference("app", "1")) == result.destination
