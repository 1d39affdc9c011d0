"""Sync on push, as operators set it up: a real registry tells the real service, and nobody else says a word."""

import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Namespace
from tests.support.images import Manifest, oci_image, oci_index
from tests.support.plain_client import PlainClient, differences
from tests.support.registries import NotificationEndpoint, RegistryOptions, RegistryProcess
from tests.support.service import ServiceProcess

ARRIVES_WITHIN_SECONDS = 120.0
SECRET = f"Bearer {secrets.token_urlsafe(32)}"
HOOK = {"format": "distribution", "auth": {"type": "header", "secret": SECRET}}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path) as service:
        yield service


StartRegistry = Callable[[str], tuple[RegistryProcess, PlainClient]]


@pytest.fixture
def start(service: ServiceProcess) -> Iterator[StartRegistry]:
    """Return a function that starts a registry which tells the service of pushes, and enters it under a name."""
    with ExitStack() as stack:

        def start(name: str) -> tuple[RegistryProcess, PlainClient]:
            url = f"http://127.0.0.1:{service.port}/v1/hooks/{name}"
            endpoint = NotificationEndpoint(url=url, headers={"Authorization": SECRET}, timeout_seconds=5.0)
            registry = stack.enter_context(RegistryProcess(RegistryOptions(notifications=(endpoint,))))
            service.enter(name, registry, hook=HOOK)
            return registry, stack.enter_context(PlainClient.of(registry))

        yield start


def keep(service: ServiceProcess, name: str, source: str, destination: str, **more: Any) -> None:
    body = {"rules": [{"source": source, "destination": destination}], "on_push": True, **more}
    service.client.put(f"/v1/policies/{name}", json=body).raise_for_status()


def jobs(service: ServiceProcess, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client.get("/v1/jobs", params=query).raise_for_status().json()["items"]
    return found


def events(service: ServiceProcess, **query: str) -> list[dict[str, Any]]:
    answer = service.client.get("/v1/hook-events", params={"limit": "200", **query})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
    return found


def wait_until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + ARRIVES_WITHIN_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {ARRIVES_WITHIN_SECONDS} s: {what}")
        time.sleep(0.1)


def wait_for_quiet(service: ServiceProcess) -> None:
    """Wait until no job is left to do and nothing has arrived for a while."""
    before, since = -1, time.monotonic()
    deadline = since + 2 * ARRIVES_WITHIN_SECONDS
    while time.monotonic() - since < 3:
        if time.monotonic() > deadline:
            raise AssertionError(f"it does not come to rest: {len(jobs(service))} jobs")
        now = len(events(service))
        if now != before or not all(job["done"] for job in jobs(service)):
            before, since = now, time.monotonic()
        time.sleep(0.2)


def index(seed: str) -> Manifest:
    return oci_index([oci_image(seed, platform="linux/amd64"), oci_image(seed, platform="linux/arm64")])


def test_what_is_pushed_arrives_digest_for_digest_without_any_other_call(
    service: ServiceProcess, start: StartRegistry
) -> None:
    (old, there), (new, here) = start("old"), start("new")
    keep(service, "mirror", f"{old.host}/team/**", f"{new.host}/mirror")
    pushed = index("pushed")

    there.push("team/app", pushed, tags=["1.0"])

    wait_until(lambda: here.tags("mirror/team/app") == {"1.0": pushed.digest}, "the image")
    wait_for_quiet(service)
    assert differences(there, here, repositories=[("team/app", "mirror/team/app")]) == []
    [job] = jobs(service, policy="mirror")
    assert (job["trigger"]["type"], job["created_by"], job["state"]) == ("push", "hook/old", "succeeded")
    assert job["request"]["rules"][0]["source"] == f"{old.host}/team/app:1.0"
    [event] = events(service, registry="old", status="accepted")
    assert (event["id"], event["jobs"]) == (job["trigger"]["event_id"], [job["id"]])
    assert (event["repository"], event["tag"], event["digest"]) == ("team/app", "1.0", pushed.digest)
    assert SECRET not in service.log.read_text()


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_what_skopeo_pushes_arrives_too(service: ServiceProcess, start: StartRegistry, tmp_path: Path) -> None:
    (old, there), (new, here) = start("old"), start("new")
    there.push("elsewhere/app", index("by skopeo"), tags=["1"])
    keep(service, "mirror", f"{old.host}/team/app", f"{new.host}/team/app")

    command = ["skopeo", "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--quiet"]
    command += [f"docker://{old.host}/elsewhere/app:1", f"docker://{old.host}/team/app:2"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603 — a peer, with our own arguments

    wait_until(lambda: here.tags("team/app") == there.tags("team/app"), "the image")
    assert differences(there, here, repositories=[("team/app", "team/app")]) == []
    assert here.list_repositories() == ["team/app"]


def test_only_what_a_policy_selects_is_copied_and_nothing_while_it_is_paused(
    service: ServiceProcess, start: StartRegistry
) -> None:
    (old, there), (new, here) = start("old"), start("new")
    rule = {"source": f"{old.host}/team/**", "destination": new.host, "tags": {"include": ["v*"], "exclude": ["*-rc*"]}}
    rule |= {"repositories": {"exclude": ["**/scratch"]}}
    body = {"rules": [rule], "on_push": True, "enabled": False}
    service.client.put("/v1/policies/p", json=body).raise_for_status()
    image = oci_image("selected")

    there.push("team/app", image, tags=["v0"])
    wait_until(lambda: len(events(service, registry="old")) > 0, "the events of a paused policy")
    wait_for_quiet(service)
    assert jobs(service) == []

    service.client.patch("/v1/policies/p", json={"enabled": True}).raise_for_status()
    for repository, tag in (("team/app", "v1"), ("team/app", "v2-rc1"), ("team/app", "main"), ("team/scratch", "v1")):
        there.push(repository, image, tags=[tag])
    there.push("other/app", image, tags=["v1"])
    wait_until(lambda: here.tags("team/app") == {"v1": image.digest}, "the one that is selected")
    wait_for_quiet(service)

    assert here.list_repositories() == ["team/app"]
    assert here.tags("team/app") == {"v1": image.digest}
    ignored = {event["tag"] for event in events(service, registry="old") if event["reason"] == "no_policy"}
    assert ignored >= {"v2-rc1", "main"}


def test_two_policies_that_point_at_each_other_end_where_both_sides_are_the_same(
    service: ServiceProcess, start: StartRegistry
) -> None:
    (left, at_left), (right, at_right) = start("left"), start("right")
    keep(service, "there", f"{left.host}/app", f"{right.host}/app")
    keep(service, "back", f"{right.host}/app", f"{left.host}/app")
    first, second = index("first"), index("second")

    at_left.push("app", first, tags=["1"])
    wait_until(lambda: at_right.tags("app") == {"1": first.digest}, "the first image")
    wait_for_quiet(service)
    assert len(jobs(service)) == 2

    at_right.push("app", second, tags=["1"])
    wait_until(lambda: at_left.tags("app") == {"1": second.digest}, "the second image, the other way")
    wait_for_quiet(service)
    assert at_right.tags("app") == {"1": second.digest}
    assert len(jobs(service)) == 4

    at_left.push("app", first, tags=["1"])
    wait_until(lambda: at_right.tags("app") == {"1": first.digest}, "the first image again")
    wait_for_quiet(service)
    assert at_left.tags("app") == {"1": first.digest}
    written = [image["state"] for job in jobs(service) for image in service.images(job["id"])]
    assert sorted(written) == ["copied"] * 3 + ["up_to_date"] * 3


def test_two_policies_that_prefix_what_they_copy_do_not_go_round_for_ever(
    service: ServiceProcess, start: StartRegistry
) -> None:
    (left, at_left), (right, at_right) = start("left"), start("right")
    keep(service, "there", f"{left.host}/**", f"{right.host}/from-left")
    keep(service, "back", f"{right.host}/**", f"{left.host}/from-right")

    at_left.push("app", oci_image("round"), tags=["1"])
    wait_until(lambda: bool(events(service, status="ignored")) and len(jobs(service)) >= 2, "a way there and back")
    wait_for_quiet(service)

    assert at_right.list_repositories() == ["from-left/app"]
    assert at_left.list_repositories() == ["app", "from-right/from-left/app"]
    [stopped] = [event for event in events(service) if event["reason"] == "loop"]
    assert (stopped["registry"], stopped["repository"]) == ("left", "from-right/from-left/app")


def test_a_chain_of_registries_is_gone_through_to_its_end(service: ServiceProcess, start: StartRegistry) -> None:
    (first, at_first), (second, _), (third, at_third) = start("first"), start("second"), start("third")
    keep(service, "one", f"{first.host}/app", f"{second.host}/app")
    keep(service, "two", f"{second.host}/app", f"{third.host}/app")
    image = index("through")

    at_first.push("app", image, tags=["1"])

    wait_until(lambda: at_third.tags("app") == {"1": image.digest}, "the image at the end of the chain")


@pytest.mark.kill
def test_a_push_that_was_answered_is_copied_though_the_process_was_killed_right_then(
    tmp_path: Path, source: Namespace, destination: Namespace
) -> None:
    image = oci_image("answered")
    source.push("app", image, "1")
    proof = {"X-Secret": "the secret of the hook"}
    hook = {"format": "generic", "auth": {"type": "header", "header": "X-Secret", "secret": proof["X-Secret"]}}
    with ServiceProcess(tmp_path, "--no-worker") as answering:
        answering.enter("old", source.registry, hook=hook)
        answering.enter("new", destination.registry)
        keep(answering, "mirror", source.reference("**"), destination.host)
        body = {"repository": source.repository("app"), "tag": "1"}
        answer = answering.client.post("/v1/hooks/old", json=body, headers=proof)
        answering.kill()
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")

    with ServiceProcess(tmp_path) as working:
        wait_until(lambda: len(destination.client.list_repositories()) > 0, "the image")
        wait_for_quiet(working)
        [event] = events(working)
        [job] = jobs(working, policy="mirror")
        assert (event["status"], event["jobs"], job["state"]) == ("accepted", [job["id"]], "succeeded")
    assert destination.client.tags(source.repository("app")) == {"1": image.digest}
