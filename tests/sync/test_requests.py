"""The figures of `docs/requests.md`, kept true."""

import asyncio
import re
from pathlib import Path

import pytest

from app.domain.manifest import Platform
from app.domain.plan import DigestTags, PlannedCopy
from app.domain.reference import Reference, Registry
from app.registry.limits import MIB
from app.sync.compare import MissingTags
from app.sync.known_blobs import ABSENCES_BEFORE_TRYING, CONFIRMED_SECONDS, KnownBlobs
from tests.support.fake_registry import FakeRegistry
from tests.support.images import Manifest, artifact, blob, oci_image, oci_index
from tests.sync.workbench import Workbench, asked

AMD = (Platform.parse("linux/amd64"),)


def table(project: Path) -> dict[str, tuple[str, str]]:
    """Read the figures: case → source, destination."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", (project / "docs" / "requests.md").read_text(), re.MULTILINE)
    return {case: (source, destination) for case, source, destination in rows[2:]}


def worth(formula: str, **values: int) -> int:
    """Work out `3k + 2c + 2`."""
    total = 0
    for number, name in re.findall(r"(\d*)([a-z]?)", formula.replace(" ", "")):
        if number or name:
            total += int(number or 1) * (values[name] if name else 1)
    return total


def image(name: str, blobs: int) -> Manifest:
    """Make an image with so many blobs, one of them the config."""
    return oci_image(name, layers=[blob(f"{name}/{number}") for number in range(blobs - 1)])


class Case:
    """Counts what one copy asks."""

    def __init__(self, bench: Workbench, here: FakeRegistry, there: FakeRegistry, project: Path) -> None:
        self.bench, self.here, self.there = bench, here, there
        self._figures = table(project)

    async def cost(
        self, case: str, planned: PlannedCopy, *, outcome: str, values: dict[str, int], **options: object
    ) -> None:
        marks = self.here.journal.mark(), self.there.journal.mark()
        [result] = await self.bench.copy_planned(planned, **options)
        assert (result.outcome, result.error) == (outcome, None)
        found = [
            sum(asked(registry, since=mark).values())
            for registry, mark in zip((self.here, self.there), marks, strict=True)
        ]
        assert found == [worth(formula, **values) for formula in self._figures[case]], case

    def planned(self, name: str = "app", tag: str = "1", *, listed: bool = True) -> PlannedCopy:
        source, place = self.here.reference(name, tag), self.there.reference(name, tag)
        seen: DigestTags = "apart" if listed else "unknown"
        return PlannedCopy(Reference.parse(source), (Reference.parse(place),), digest_tags=seen)


@pytest.fixture
async def case(bench: Workbench, here: FakeRegistry, there: FakeRegistry, project: Path) -> Case:
    here.load("warm-up", image("warm-up", 2 * ABSENCES_BEFORE_TRYING), "1")  # more than are asked for by HEAD
    case = Case(bench, here, there, project)
    await bench.copy_planned(case.planned("warm-up"))
    return case


@pytest.mark.parametrize("k", [1, 2, 7])
async def test_images_cost_what_the_table_says(case: Case, here: FakeRegistry, there: FakeRegistry, k: int) -> None:
    here.load("app", image("app", k), "1", "2")
    values = {"k": k}
    await case.cost("new image, found by listing", case.planned(), outcome="copied", values=values)
    await case.cost("unchanged tag", case.planned(), outcome="up_to_date", values=values)
    on_change = "unchanged tag, companions: on_change"
    await case.cost(on_change, case.planned(), outcome="up_to_date", values=values, companions="on_change")
    same = case.planned(tag="2")
    await case.cost("another tag of an image that is there", same, outcome="copied", values=values)
    here.load("app", image("next", k), "3")
    case.bench.missing = MissingTags()
    case.bench.missing.note(Reference.parse(there.reference("app", "2")), is_missing=True)
    after = "new image, found by listing, after one that was new too"
    await case.cost(after, case.planned(tag="3"), outcome="copied", values=values)
    await case.cost(on_change, case.planned(), outcome="up_to_date", values=values, companions="on_change")
    case.bench.missing = None
    here.load("named", image("named", k), "1")
    named = case.planned("named", listed=False)
    await case.cost("new image, named in the request", named, outcome="copied", values=values)
    here.load("elsewhere", image("app", k), "1")
    mounting = "new image, all blobs in another repository of the destination"
    await case.cost(mounting, case.planned("elsewhere"), outcome="copied", values=values)
    case.bench.known = KnownBlobs()
    case.bench.known.note_answers_by_mount(Registry(there.host), does=True)
    there.content.repository("app").manifests.clear()
    there.content.repository("app").tags.clear()
    unknown = "new image, all blobs there, not known to this process"
    await case.cost(unknown, case.planned(), outcome="copied", values=values)


@pytest.mark.parametrize("k", [1, 4])
async def test_a_copy_within_one_registry_costs_what_the_table_says(case: Case, there: FakeRegistry, k: int) -> None:
    there.load("app", image("app", k), "1")
    source, place = there.reference("app", "1"), there.reference("promoted", "1")
    planned = PlannedCopy(Reference.parse(source), (Reference.parse(place),), digest_tags="apart")
    within = "new image within one registry: source and destination together"
    await case.cost(within, planned, outcome="copied", values={"k": k})


@pytest.mark.parametrize("c", [1, 3])
async def test_indexes_cost_what_the_table_says(case: Case, here: FakeRegistry, there: FakeRegistry, c: int) -> None:
    images = [image(f"part {number}", 3) for number in range(c)]
    here.load("app", oci_index(images), "1")
    await case.cost("new index, found by listing", case.planned(), outcome="copied", values={"k": 3 * c, "c": c})
    await case.cost("unchanged index", case.planned(), outcome="up_to_date", values={"c": c})
    on_change = "unchanged index, companions: on_change"
    await case.cost(on_change, case.planned(), outcome="up_to_date", values={}, companions="on_change")
    grown = oci_index([*images, image("one more", 3)])
    here.load("app", grown, "1")
    grew = "index with one new image of its c, the rest there"
    await case.cost(grew, case.planned(), outcome="copied", values={"k": 3, "c": c + 1})


async def test_a_choice_of_platforms_costs_what_the_table_says(
    case: Case, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.change(sparse_allowed=True)
    here.load("app", oci_index([image("a", 2), oci_image("b", platform="linux/arm64")]), "1")
    for mode in ("sparse", "rewrite"):
        one = case.planned(tag="1")
        planned = PlannedCopy(one.source, one.destinations, AMD, "rewrite" if mode == "rewrite" else "sparse", "apart")
        await case.bench.copy_planned(planned)
        unchanged = f"unchanged index, a choice of platforms ({mode})"
        await case.cost(unchanged, planned, outcome="up_to_date", values={"c": 1})


async def test_a_referrer_costs_what_the_table_says(case: Case, here: FakeRegistry) -> None:
    signed = image("signed", 2)
    here.load("app", signed, "1")
    here.load("app", artifact("of it", subject=signed))
    with_referrer = "new image with one referrer, API on both sides"
    await case.cost(with_referrer, case.planned(), outcome="copied", values={"k": 4})
    unchanged = "unchanged tag of an image with one referrer"
    await case.cost(unchanged, case.planned(), outcome="up_to_date", values={})


async def test_leaving_existing_tags_alone_costs_nothing_more(
    case: Case, here: FakeRegistry, there: FakeRegistry
) -> None:
    here.load("app", image("ours", 2), "1")
    there.load("app", image("theirs", 2), "1")
    marks = here.journal.mark(), there.journal.mark()
    [result] = await case.bench.copy_planned(case.planned(), overwrite="never")
    assert result.outcome == "up_to_date"
    assert asked(here, since=marks[0]) == asked(there, since=marks[1]) == {"HEAD manifest": 1}


@pytest.mark.parametrize("size", [1_000, 2 * MIB])
async def test_the_first_image_of_a_registry_is_asked_for_two_blobs(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, size: int
) -> None:
    layers = [blob(f"layer {number}", size=size) for number in range(4)]
    here.load("app", oci_image("first", layers=layers), "1")
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert result.outcome == "copied"
    assert there.journal.count("blob", method="HEAD") == 2
    k = len(layers) + 1
    assert sum(asked(there).values()) == 2 * k + 5


async def test_images_of_one_new_repository_ask_once_whether_it_is_there(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    copies = []
    for number in range(6):
        layers = [blob(f"{number}/{layer}", size=2 * MIB) for layer in range(3)]
        here.load("app", oci_image(f"{number}", layers=layers), f"{number}")
        copies.append(bench.copy(here.reference("app", f"{number}"), there.reference("app", f"{number}")))
    for [result] in await asyncio.gather(*copies):
        assert result.outcome == "copied"
    assert there.journal.count("tags") == 1
    assert there.journal.count("blob", method="HEAD") == 2


async def test_blobs_of_a_repository_that_is_there_are_asked_for(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    there.load("app", image("other", 2), "other")
    layers = [blob(f"layer {number}", size=2 * MIB) for number in range(4)]
    here.load("app", oci_image("first", layers=layers), "1")
    for layer in layers[:2]:
        there.load("app", oci_image("of one of them", layers=[layer]))
    [result] = await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    assert (result.outcome, result.tally.blobs_present, result.tally.blobs_transferred) == ("copied", 2, 3)
    assert there.journal.count("blob", method="HEAD") == len(layers) + 1


@pytest.mark.parametrize("answer", ["session", "refused"])
async def test_where_a_mount_finds_nothing_blobs_are_asked_for_first(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry, answer: str
) -> None:
    there.change(mount=answer)
    there.load("app", image("other", 2), "other")
    here.load("app", image("app", 2 * ABSENCES_BEFORE_TRYING), "1")
    here.load("more", image("more", 5), "1")
    for name in ("app", "more"):
        mark = there.journal.mark()
        [result] = await bench.copy(here.reference(name, "1"), there.reference("app", name))
        assert result.outcome == "copied"
    assert (
        there.journal.count("blob", method="HEAD", since=mark) == there.journal.count("upload_close", since=mark) == 5
    )


async def test_a_destination_that_was_emptied_costs_one_wrong_belief(
    bench: Workbench, here: FakeRegistry, there: FakeRegistry
) -> None:
    now = 0.0
    bench.known = KnownBlobs(clock=lambda: now)
    bench.known.note_answers_by_mount(Registry(there.host), does=True)
    here.load("app", image("app", 6), "1", "2")
    await bench.copy(here.reference("app", "1"), there.reference("app", "1"))
    there.content.repositories.clear()
    now = 2 * CONFIRMED_SECONDS
    mark = there.journal.mark()
    [result] = await bench.copy(here.reference("app", "2"), there.reference("app", "2"))
    assert (result.outcome, result.attempts) == ("copied", 1)
    assert asked(there, since=mark)["PUT manifest"] == 1
    assert there.journal.count("upload_close", since=mark) == 6
    assert there.journal.count("blob", since=mark) == 0
