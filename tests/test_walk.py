"""The walk, as callers see it: request → job → plan → copy → report, with real processes on every side."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Namespace
from tests.support.images import Blob, Manifest, artifact, blob, docker_image, oci_image, oci_index
from tests.support.plain_client import PlainClient, differences
from tests.support.registries import RegistryOptions, RegistryProcess
from tests.support.service import ServiceProcess

REPOSITORIES = 50
TAGS = 20
PUSHERS = 4


@pytest.fixture
def service(tmp_path: Path, source: Namespace, destination: Namespace) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path) as service:
        service.enter("source", source.registry)
        service.enter("destination", destination.registry)
        yield service


def test_one_request_copies_a_tag_and_the_second_one_finds_nothing_to_do(
    service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    index = oci_index([oci_image("walk", platform="linux/amd64"), oci_image("walk", platform="linux/arm64")])
    source.push("app", index, "1.0", "latest")
    request = {"source": source.reference("app", "1.0"), "destination": destination.reference("app", "1.0")}

    first = service.run_job(request)

    assert first["state"] == "succeeded"
    assert first["progress"]["images"] == counts(copied=1)
    assert first["progress"]["bytes"]["done"] == first["progress"]["bytes"]["total"] > 0
    assert destination.tags("app") == {"1.0": index.digest}
    [image] = service.images(first["id"])
    assert (image["state"], image["digest"], image["destination_digest"]) == ("copied", index.digest, index.digest)
    assert sorted(image["platforms"]) == ["linux/amd64", "linux/arm64"]

    second = service.run_job(request)

    assert second["progress"]["images"] == counts(up_to_date=1)
    assert second["progress"]["blobs"]["transferred"] == 0


@pytest.mark.parametrize("form", ["several tags", "a digest", "every tag", "a namespace"])
def test_every_form_of_source_copies_what_it_names(
    service: ServiceProcess, source: Namespace, destination: Namespace, form: str
) -> None:
    one, two, three = oci_image("one"), docker_image("two"), artifact("three")
    source.push("a/app", one, "1")
    source.push("a/app", two, "2")
    source.push("a/app", three, "3")
    source.push("b", one, "1")
    app, there = source.reference("a/app"), destination.reference("a/app")
    requests: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "several tags": ({"source": f"{app}:1,2", "destination": f"{there}:x,y"}, {"x": one.digest, "y": two.digest}),
        "a digest": ({"source": f"{app}@{two.digest}", "destination": f"{there}:pinned"}, {"pinned": two.digest}),
        "every tag": (
            {"source": app, "destination": there},
            {"1": one.digest, "2": two.digest, "3": three.digest},
        ),
        "a namespace": (
            {
                "rules": [
                    {
                        "source": f"{source.reference('a')}/**",
                        "destination": f"{destination.reference('a')}/{{name}}",
                        "tags": {"exclude": ["3"]},
                    }
                ]
            },
            {"1": one.digest, "2": two.digest},
        ),
    }
    request, expected = requests[form]

    assert service.run_job(request)["state"] == "succeeded"

    assert destination.tags("a/app") == expected
    assert destination.tags("b") == {}


@pytest.mark.timeout(600)
def test_a_whole_registry_of_fifty_repositories_arrives_digest_for_digest(
    tmp_path: Path, start_registry: Callable[[RegistryOptions], RegistryProcess]
) -> None:
    here, there = start_registry(RegistryOptions(catalog_page_cap=7)), start_registry(RegistryOptions())
    with (
        PlainClient.of(here) as reader,
        PlainClient.of(there) as judge,
        ServiceProcess(tmp_path, is_preloaded=False) as service,
    ):
        names = fill(reader)
        service.enter("old", here)
        service.enter("new", there)
        seen: list[dict[str, Any]] = []

        submitted = service.submit({"source": f"{here.host}/**", "destination": there.host})
        job = service.follow(submitted["id"], show=lambda job: seen.append(job["progress"]))

        assert job["state"] == "succeeded"
        assert job["progress"]["images"] == counts(copied=REPOSITORIES * TAGS)
        with ThreadPoolExecutor(PUSHERS) as pool:
            found = pool.map(lambda name: differences(reader, judge, repositories=[(name, name)]), names)
            assert [line for lines in found for line in lines] == []
        assert judge.list_repositories() == reader.list_repositories()
        assert_only_progress(seen)
        sent = [line for line in there.access_log() if line.method == "PUT" and "/blobs/uploads/" in line.path]
        assert len(sent) <= distinct_blobs() + REPOSITORIES, "shared layers were sent more than once"

        again = service.run_job({"source": f"{here.host}/**", "destination": there.host})

        assert again["progress"]["images"] == counts(up_to_date=REPOSITORIES * TAGS)
        assert again["progress"]["bytes"]["transferred"] == 0


def test_a_registry_that_cannot_be_reached_fails_the_job_with_a_code_and_the_service_goes_on(
    service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    image = oci_image("after the failure")
    source.push("app", image, "1")
    service.client.put("/v1/registries/gone", json={"host": "127.0.0.1:1", "insecure": True}).raise_for_status()

    job = service.run_job({"source": "127.0.0.1:1/app:1", "destination": destination.reference("app")})

    assert job["state"] == "failed"
    [failed] = service.images(job["id"])
    assert failed["error"]["code"] == "registry_unreachable"
    assert failed["error"]["side"] == "source"
    next_job = service.run_job({"source": source.reference("app", "1"), "destination": destination.reference("app")})
    assert next_job["state"] == "succeeded"


def test_a_job_that_was_running_when_the_service_stopped_is_carried_on_by_the_next_start(
    service: ServiceProcess, source: Namespace, destination: Namespace
) -> None:
    images = {str(number): oci_image(f"restart {number}") for number in range(60)}
    for tag, image in images.items():
        source.push("app", image, tag)
    limited = {"limits": {"requests_per_second": 100}}
    service.enter("destination", destination.registry, **limited)
    job = service.submit({"source": source.reference("app"), "destination": destination.reference("app")})
    service.follow_until(job["id"], lambda job: job["progress"]["images"]["copied"] > 0)

    service.stop()
    service.start()

    done = service.follow(job["id"])
    assert done["state"] == "succeeded"
    assert done["progress"]["images"] == counts(copied=60)
    assert destination.tags("app") == {tag: image.digest for tag, image in images.items()}


def fill(client: PlainClient) -> list[str]:
    """Push 50 repositories of 20 tags: a base layer all share, one per repository, and a little of its own per tag."""
    names = [f"team-{number % 5}/service-{number:02}" for number in range(REPOSITORIES)]
    base = blob("base", size=300_000)

    def fill_one(name: str) -> None:
        for tag in range(TAGS):
            layers: list[Blob] = [base, blob(name, size=20_000), blob(f"{name}:{tag}", size=500)]
            image: Manifest = oci_image(f"{name}:{tag}", layers=layers)
            client.push(name, image, tags=[f"v1.{tag}"])

    with ThreadPoolExecutor(PUSHERS) as pool:
        list(pool.map(fill_one, names))
    return names


def distinct_blobs() -> int:
    """Return how many different blobs `fill` makes: base, one per repository, config and layer per tag."""
    return 1 + REPOSITORIES + 2 * REPOSITORIES * TAGS


def counts(**some: int) -> dict[str, int]:
    """Return a job's image counts as the contract shows them."""
    states = {"queued": 0, "running": 0, "copied": 0, "up_to_date": 0, "failed": 0, "cancelled": 0}
    states = {**states, "planned": 0, **some}
    return {"total": sum(states.values()), **states}


def assert_only_progress(seen: list[dict[str, Any]]) -> None:
    """Check that nothing that counts what is done was ever smaller than before."""
    for before, after in pairwise(seen):
        for what in ("total", "copied", "up_to_date", "failed"):
            assert before["images"][what] <= after["images"][what]
        for what in ("total", "done", "transferred"):
            assert before["bytes"][what] <= after["bytes"][what]
            assert after["bytes"]["done"] <= after["bytes"]["total"]
