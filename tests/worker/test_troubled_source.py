"""500 repositories, eight of them in eight kinds of trouble, and a worker that is killed on the way: all others arrive.

What a catalog names and is not there has a warning and no row: Distribution's catalog names emptied ones for ever.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_registry import Respond, on
from tests.support.images import blob, digest_of, oci_image
from tests.worker.test_fleet import Fleet, running

pytestmark = [pytest.mark.kill, pytest.mark.timeout(300)]

REPOSITORIES = 500
NAMES = [f"team-{number % 10}/app-{number:03}" for number in range(REPOSITORIES)]
GONE, FORBIDDEN, NO_TAGS, MOVED, HOLED, DAMAGED, UNWRITABLE, FULL = NAMES[::62][:8]
TROUBLE = {
    FORBIDDEN: ("listing", "denied", "source"),
    NO_TAGS: ("listing", "registry_unreachable", "source"),
    MOVED: ("image", "reference_not_found", "source"),
    HOLED: ("image", "reference_not_found", "source"),
    DAMAGED: ("image", "digest_mismatch", "source"),
    UNWRITABLE: ("image", "denied", "destination"),
    FULL: ("image", "limit_exceeded", "destination"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Run all processes of a service: one beside SQLite, two APIs and two workers on PostgreSQL."""
    url = f"sqlite+aiosqlite:///{tmp_path}/registry-sync.db"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = server.create_database(template=request.getfixturevalue("migrated_postgres")).url
    with running(url, tmp_path) as fleet:
        yield fleet


def test_what_can_be_copied_of_500_repositories_arrives_and_each_trouble_has_its_row(fleet: Fleet) -> None:
    make_trouble(fleet)
    fleet.enter()
    request = {"source": f"{fleet.source.host}/**", "destination": fleet.destination.host}
    job_id = fleet.apis[0].submit(request)["id"]
    fleet.apis[0].follow_until(job_id, lambda job: job["progress"]["images"]["copied"] > 20)
    (victim,) = (fleet.workers or fleet.apis)[:1]
    victim.kill()
    victim.start()
    job = fleet.follow(job_id)

    images = job["progress"]["images"]
    assert (job["state"], images["copied"] + images["up_to_date"], images["failed"]) == ("failed", 492, 7)
    assert rows_of_failures(fleet, job_id) == TROUBLE
    assert [(warning["code"], warning["count"]) for warning in job["warnings"]] == [("repository_gone", 1)]
    fine = set(NAMES) - {GONE, *TROUBLE}
    assert {name for name in fine if not fleet.destination.content.tags(name)} == set()
    assert {name for name in TROUBLE if fleet.destination.content.tags(name)} == set()
    assert sum(count["count"] for count in job["error"]["failures"]) == len(TROUBLE)


def make_trouble(fleet: Fleet) -> None:
    """Fill the source, and have eight repositories fail, each in its own way and for good."""
    source, destination = fleet.source, fleet.destination
    layers = {name: blob(f"layer of {name}") for name in NAMES}
    images = {name: oci_image(name, layers=[layers[name]]) for name in NAMES}
    for name, image in images.items():
        source.load(name, image, "v1")
    source.faults.add(Respond(404), matching=on("tags", repository=GONE), times=None)
    source.faults.add(Respond(403), matching=on("tags", repository=FORBIDDEN), times=None)
    source.faults.add(Respond(502), matching=on("tags", repository=NO_TAGS), times=None)
    source.faults.add(Respond(404), matching=on("manifest", repository=MOVED), times=None)
    holed, damaged = (digest_of(layers[name].data) for name in (HOLED, DAMAGED))
    source.faults.add(Respond(404), matching=on("blob", repository=HOLED, reference=holed), times=None)
    wrong = b"x" * len(layers[DAMAGED].data)
    source.faults.add(Respond(200, (), wrong), matching=on("blob", repository=DAMAGED, reference=damaged), times=None)
    destination.faults.add(Respond(403), matching=on("upload_start", repository=UNWRITABLE), times=None)
    destination.faults.add(Respond(507), matching=on("upload_start", repository=FULL), times=None)


def rows_of_failures(fleet: Fleet, job_id: str) -> dict[str, tuple[str, str, str]]:
    """Read each failed row: what is in trouble, its kind, code and side."""
    rows: dict[str, tuple[str, str, str]] = {}
    answer = fleet.apis[-1].client.get(f"/v1/jobs/{job_id}/images", params={"state": "failed", "limit": 100})
    for row in answer.raise_for_status().json()["items"]:
        name = row["source"].partition("/")[2].partition(":")[0]
        rows[name] = (row["kind"], row["error"]["code"], row["error"]["side"])
    return rows
