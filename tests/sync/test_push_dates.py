"""Rules that ask for images' age at registries whose lists say when tags were pushed: what need not be read then."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.fake_registry import FakeRegistry
from tests.sync.test_compare import TYPES, entry
from tests.sync.test_image_metadata import built
from tests.sync.workbench import asked, workbench

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


async def planned(here: FakeRegistry, type_: str, rule: dict[str, object]) -> list[str]:
    """Return the tags that a rule takes of `team/app`, and forget what that asked for before."""
    here.change(digest_list="none" if type_ in {"generic", "gar"} else type_, tags_extra_fields=type_ == "gar")
    here.journal.clear()
    async with workbench(entries=[entry("here", here, type_)]) as bench:
        bench.clock = lambda: NOW
        copies = await bench.plan({"source": f"{here.host}/team/app", "destination": "there.example.com/x", **rule})
        assert bench.failed == []
        return [str(copy.source.tag) for copy in copies]


def push(here: FakeRegistry, days: dict[str, float], *, says_time: bool = True) -> None:
    """Push an image for each tag so many days ago, made the day before, or without a word about that."""
    for tag, ago in days.items():
        time = days_ago(ago + 1).isoformat() if says_time else "1970-01-01T00:00:00Z"
        here.load("team/app", built(time, seed=tag), tag)
    here.change(pushed_at={**here.quirks.pushed_at, **{tag: days_ago(ago) for tag, ago in days.items()}})


def reads(here: FakeRegistry) -> int:
    """Return how many manifests were read."""
    return asked(here).get("GET manifest", 0)


@pytest.mark.parametrize("type_", [*TYPES, "gar"])
async def test_what_push_dates_decide_is_not_read(here: FakeRegistry, type_: str) -> None:
    push(here, {"new": 1, "middle": 10, "old": 100})
    assert await planned(here, type_, {"min_age": "7d"}) == ["middle", "old"]
    assert reads(here) == 1  # pushed of late, which says nothing of when it was made
    assert await planned(here, type_, {"created_since": "30d"}) == ["middle", "new"]
    assert reads(here) == 2
    assert await planned(here, "generic", {"created_since": "30d"}) == ["middle", "new"]
    assert reads(here) == 3


async def test_an_old_image_that_was_pushed_of_late_is_as_old_as_it_says(here: FakeRegistry) -> None:
    push(here, {"a": 50, "b": 60})
    here.change(pushed_at={"a": days_ago(1), "b": days_ago(1)})
    for type_ in ("generic", "harbor"):
        assert await planned(here, type_, {"min_age": "7d"}) == ["a", "b"]
        assert await planned(here, type_, {"created_since": "55d"}) == ["a"]
        assert await planned(here, type_, {"tags": {"newest": 1, "newest_by": "created"}}) == ["a"]


@pytest.mark.parametrize("type_", [*TYPES, "gar"])
async def test_an_image_that_says_no_time_was_made_when_it_was_pushed(here: FakeRegistry, type_: str) -> None:
    push(here, {"a": 1, "b": 10, "c": 100}, says_time=False)
    here.load("team/app", built("1970-01-01T00:00:00Z", seed="unlisted"), "d")
    assert await planned(here, type_, {"min_age": "7d"}) == ["b", "c"]
    assert await planned(here, type_, {"created_since": "30d"}) == ["a", "b"]
    assert await planned(here, type_, {"tags": {"newest": 2, "newest_by": "created"}}) == ["a", "b"]


async def test_the_newest_are_read_and_few_beside_them(here: FakeRegistry) -> None:
    push(here, {f"v{number:02}": number for number in range(60)})
    newest = {"newest": 3, "newest_by": "created"}
    assert await planned(here, "generic", {"tags": newest}) == ["v00", "v01", "v02"]
    assert reads(here) == 60
    assert await planned(here, "harbor", {"tags": newest}) == ["v00", "v01", "v02"]
    assert reads(here) == 8
    assert await planned(here, "harbor", {"tags": {**newest, "always": ["v5?"]}}) == [
        *("v00", "v01", "v02"),
        *(f"v{number}" for number in range(50, 60)),
    ]
    assert reads(here) == 18
    assert await planned(here, "harbor", {"tags": newest, "min_age": "20d"}) == ["v19", "v20", "v21"]
    assert reads(here) == 24


async def test_images_made_long_before_they_were_pushed_are_no_newer_for_it(here: FakeRegistry) -> None:
    push(here, {f"v{number:02}": number for number in range(60)})
    late = {f"v{number:02}": days_ago(0) for number in range(20, 60)}
    here.change(pushed_at={**here.quirks.pushed_at, **late})
    tags = {"newest": 3, "newest_by": "created"}
    assert await planned(here, "harbor", {"tags": tags}) == ["v00", "v01", "v02"]
    assert 40 < reads(here) < 60


async def test_what_the_list_says_of_a_tag_that_has_moved_is_not_said_of_the_new_image(here: FakeRegistry) -> None:
    push(here, {"a": 1, "b": 2}, says_time=False)
    here.change(digest_list_lies=1)
    assert await planned(here, "harbor", {"created_since": "30d"}) == ["b"]


async def test_images_are_read_where_the_list_is_refused(here: FakeRegistry) -> None:
    push(here, {"new": 1, "middle": 10, "old": 100})
    here.change(api_status=403)
    assert await planned(here, "harbor", {"min_age": "7d"}) == ["middle", "old"]
    assert reads(here) == 3


async def test_a_few_of_many_tags_are_not_worth_the_list(here: FakeRegistry) -> None:
    push(here, {f"v{number:02}": number for number in range(60)})
    assert await planned(here, "harbor", {"tags": {"include": ["v00", "v50"]}, "min_age": "7d"}) == ["v50"]
    assert (reads(here), here.journal.count("api")) == (2, 0)


async def test_kinds_of_images_are_read_whatever_their_dates(here: FakeRegistry) -> None:
    push(here, {"a": 10, "b": 100})
    rule: dict[str, object] = {"min_age": "7d", "created_since": "30d", "artifact_types": {"exclude": ["x/y"]}}
    assert await planned(here, "harbor", rule) == ["a"]
    assert reads(here) == 1
