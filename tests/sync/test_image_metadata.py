"""Rules that ask for an image's age or kind: what is read for them, and what they then take."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.plan import Listing
from app.domain.reference import Digest, Repository
from tests.support.fake_registry import FakeRegistry, Respond, on
from tests.support.images import (
    OCI_CONFIG,
    Blob,
    Manifest,
    artifact,
    cosign_signature,
    cosign_tag,
    oci_image,
    oci_index,
)
from tests.sync.test_planner import failures, pairs
from tests.sync.workbench import Workbench, asked

CREATED = "org.opencontainers.image.created"
HELM = "application/vnd.cncf.helm.config.v1+json"


def made(days_ago: int, *, seed: str = "") -> Manifest:
    """Make an image with a time in its annotations."""
    time = datetime.now(UTC) - timedelta(days=days_ago)
    return oci_image(f"{seed}{days_ago}", annotations={CREATED: time.strftime("%Y-%m-%dT%H:%M:%SZ")})


def built(created: str, *, seed: str = "") -> Manifest:
    """Make an image with a time in its configuration, as builders do."""
    image = oci_image(created + seed)
    config = Blob(json.dumps({"architecture": "amd64", "os": "linux", "created": created}).encode(), OCI_CONFIG)
    body = json.loads(image.raw) | {"config": config.descriptor()}
    return replace(image, raw=json.dumps(body).encode(), blobs=(config, *image.blobs[1:]))


async def planned(bench: Workbench, here: FakeRegistry, there: FakeRegistry, **fields: object) -> list[str]:
    copies = await bench.plan({"source": f"{here.host}/app", "destination": f"{there.host}/x", **fields})
    return [text.partition(" ")[0].partition(":")[2] for text in pairs(copies)]


async def test_images_are_taken_by_their_age(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    for tag, days in {"new": 1, "middle": 10, "old": 100}.items():
        here.load("app", made(days), tag)
    assert await planned(bench, here, there, created_since="30d") == ["middle", "new"]
    assert await planned(bench, here, there, min_age="7d") == ["middle", "old"]
    assert await planned(bench, here, there, created_since="30d", min_age="7d") == ["middle"]
    since = (datetime.now(UTC) - timedelta(days=5)).date().isoformat()
    assert await planned(bench, here, there, created_since=since) == ["new"]


async def test_a_time_is_read_from_the_configuration_and_from_the_first_image_of_an_index(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", built("2024-06-01T12:00:00.123456789Z"), "image")
    here.load("app", oci_index([built("2020-06-01T12:00:00+02:00"), built("2024-06-01T00:00:00Z")]), "index")
    here.load("app", built("1970-01-01T00:00:00Z"), "reproducible")
    here.load("app", artifact("chart"), "artifact")
    assert await planned(bench, here, there, created_since="2024-01-01") == ["image"]
    assert await planned(bench, here, there, created_since="2020-01-01") == ["image", "index"]
    assert await planned(bench, here, there, min_age="1d") == ["image", "index"]


async def test_an_image_that_says_no_time_is_as_old_as_it_is_known_here(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", built("1980-01-01T00:00:00Z"), "reproducible")
    here.load("app", artifact("chart"), "artifact")
    begin = datetime.now(UTC)

    async def after(days: int) -> list[str]:
        bench.clock = lambda: begin + timedelta(days=days)
        return await planned(bench, here, there, min_age="7d")

    assert await after(0) == []
    assert await after(6) == []
    here.load("app", built("1980-01-01T00:00:00Z", seed="later"), "reproducible")  # another one: its time begins anew
    assert await after(8) == ["artifact"]
    assert await after(14) == ["artifact"]
    assert await after(15) == ["artifact", "reproducible"]
    assert await planned(bench, here, there, min_age="7d", created_since="30d") == []


@pytest.mark.parametrize("fields", [{"min_age": "7d"}, {"artifact_types": {"exclude": ["x"]}}])
async def test_what_is_named_and_not_there_is_planned_and_fails_when_it_is_copied(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, fields: dict[str, object]
) -> None:
    here.load("app", made(100), "old")
    rule = {"source": f"{here.host}/app:old,gone", "destination": f"{there.host}/x:1,2", **fields}
    assert pairs(await bench.plan(rule)) == [
        "app:old → x:1",
        "app:gone → x:2",
    ]
    copies = await bench.plan(rule)
    first, second = [result for copy in copies for result in await bench.copy_planned(copy)]
    assert (first.outcome, second.error and second.error.code) == ("copied", "reference_not_found")


async def test_a_preview_reads_when_an_image_was_first_seen_and_notes_nothing(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", artifact("chart"), "artifact")
    begin = datetime.now(UTC)
    stored, bench.destination_notes = bench.destination_notes, bench.destination_notes.read_only()
    assert await planned(bench, here, there, min_age="7d") == []
    bench.clock = lambda: begin + timedelta(days=8)
    assert await planned(bench, here, there, min_age="7d") == []
    bench.destination_notes = stored
    assert await planned(bench, here, there, min_age="7d") == []
    bench.clock = lambda: begin + timedelta(days=16)
    bench.destination_notes = stored.read_only()
    assert await planned(bench, here, there, min_age="7d") == ["artifact"]


async def test_the_note_of_an_image_that_is_asked_for_is_renewed(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    image = artifact("chart")
    here.load("app", image, "artifact")
    begin = datetime.now(UTC)
    notes = []
    for days in (0, 20, 40, 50):
        bench.clock = lambda days=days: begin + timedelta(days=days)  # type: ignore[misc]  # mypy can't tell the type of a default in a lambda
        await planned(bench, here, there, min_age="90d")
        found = await bench.destination_notes.find(Repository.parse(f"{here.host}/app"), Digest(image.digest))
        notes.append(found["first_seen"])
    assert notes[0] == notes[1] != notes[2] == notes[3]
    assert {note.partition(" ")[0] for note in notes} == {begin.isoformat()}


async def test_the_newest_may_be_those_created_last_among_those_that_are_taken(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    for tag, days in {"3.0": 30, "2.9": 2, "1.0": 90, "latest": 1}.items():
        here.load("app", made(days), tag)
    newest = {"newest": 1, "newest_by": "created"}
    assert await planned(bench, here, there, tags=newest) == ["latest"]
    assert await planned(bench, here, there, tags={**newest, "always": ["latest"]}) == ["2.9", "latest"]
    assert await planned(bench, here, there, tags=newest, min_age="7d") == ["3.0"]


async def test_images_are_taken_by_their_kind(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", artifact("chart", artifact_type=HELM), "chart")
    here.load("app", oci_image("image"), "image")
    here.load("app", oci_index([oci_image("child")]), "index")
    assert await planned(bench, here, there, artifact_types={"include": ["application/vnd.cncf.helm.*"]}) == ["chart"]
    assert await planned(bench, here, there, artifact_types={"exclude": ["**/*helm*"]}) == ["image", "index"]


async def test_what_is_not_asked_for_costs_nothing(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    for tag in ("1", "2", "x"):
        here.load("app", made(3, seed=tag), tag)
    assert await planned(bench, here, there, tags={"include": ["[0-9]"], "newest": 1}) == ["2"]
    assert asked(here) == {"GET tags": 1}
    assert await planned(bench, here, there, tags={"include": ["[0-9]"]}, min_age="1d") == ["1", "2"]
    assert asked(here) == {"GET tags": 2, "GET manifest": 2}


async def test_tags_that_are_named_are_looked_at_as_well(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", made(1), "new")
    here.load("app", made(9), "old")
    rule: dict[str, object] = {
        "source": here.reference("app", "new,old"),
        "destination": f"{there.host}/x:a,b",
        "min_age": "7d",
    }
    assert pairs(await bench.plan(rule)) == ["app:old → x:b"]
    assert bench.warnings == []
    assert pairs(await bench.plan({**rule, "min_age": "30d"})) == []
    assert [warning.code for warning in bench.warnings] == ["no_match"]


async def test_signatures_of_images_are_not_asked_for_their_age(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    image = made(9)
    here.load("app", image, "old")
    here.load("app", cosign_signature(image), cosign_tag(image.digest))
    assert await planned(bench, here, there, min_age="7d") == ["old", cosign_tag(image.digest)]
    assert asked(here)["GET manifest"] == 1


async def test_what_is_broken_is_left_to_its_copy(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", made(9), "good")
    here.load("app", built("2020-01-01T00:00:00Z"), "broken")
    here.faults.add(Respond(200, body=b"no json"), matching=on("blob"), times=None)
    assert await planned(bench, here, there, min_age="7d") == ["broken", "good"]


async def test_a_registry_that_refuses_an_image_fails_the_listing(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", made(9), "good")
    here.faults.add(Respond(403), matching=on("manifest"), times=None)
    assert await planned(bench, here, there, min_age="7d") == []
    [failed] = failures(bench)
    assert failed.listing == Listing(0, f"{here.host}/app")
    assert failed.error.code == "denied"
    assert f"read the images of {here.host}/app (source)" in failed.error.message


async def test_an_emptied_repository_is_not_mirrored(bench: Workbench, here: FakeRegistry, there: FakeRegistry) -> None:
    here.load("app", made(1), "1.0", "1.1", "x")
    assert await planned(bench, here, there, tags={"include": ["1.*"], "min_matches": 2}) == ["1.0", "1.1"]
    assert await planned(bench, here, there, tags={"include": ["1.*"], "min_matches": 3}) == []
    [failed] = failures(bench)
    assert "2 tags are selected and `min_matches` expects 3" in failed.error.message
    assert failed.error.code == "too_few_matches"
